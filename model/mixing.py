"""How do queries, keys and values become z? softmax(scores) v, by the fused kernel where nobody looks, else with every step in the open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from model.masks import EVERY, AttentionMask, chunks
from model.pattern_rows import PatternRows
from model.relative import Distances, ScoreBias

if TYPE_CHECKING:
    from model.attention import Attention

AT_ONCE = 2**25
"""how many scores are in memory at once while nobody looks at them; the z of longer sequences is made a few queries at a time"""
Scores = Float[Tensor, "batch head query key"]


@dataclass(frozen=True, eq=False)
class Mixing:
    """One attention of one forward pass: its queries, keys and values, and who sees whom from how far."""

    of: Attention
    q: Float[Tensor, "batch head query d_head"]
    k: Float[Tensor, "batch kv_head key d_head"]
    v: Float[Tensor, "batch kv_head key d_head"]
    mask: AttentionMask
    bias: ScoreBias | None
    distances: Distances | None

    def z(self) -> Float[Tensor, "batch head query d_head"]:
        """All at once where somebody looks at the pattern or the kernel needs no scores, else a few queries at a time."""
        attn = self.of
        if attn.scores.observed or attn.pattern.observed:
            return self._explicit(EVERY)
        if attn.pattern.watched_by_rows:
            rows = self._rows()
            attn.pattern.show(rows)
            if (z := rows.z()) is not None:
                return z.to(self.v.dtype)
        explicit = attn.cap is not None or attn.w_score is not None or attn.shaw is not None  # the kernel does not know these
        if self.mask.plain and self.bias is None and not explicit:
            return self._fused(EVERY)
        entries = self._entries_per_query if explicit or self.bias is not None else len(self.k) * self.k.shape[2]
        mix = self._explicit if explicit else self._fused
        parts = [mix(queries) for queries in chunks(self.q.shape[2], entries, AT_ONCE)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def scores(self, queries: slice = EVERY, keys: slice = EVERY) -> Scores:
        """The scores of some queries and keys, before the mask."""
        attn, q, k = self.of, self.q[:, :, queries], self.k[:, :, keys]
        if attn.w_score is not None:  # Bahdanau et al. 2015: w · tanh(q + k)
            k = k.repeat_interleave(attn.n_heads // attn.n_kv_heads, dim=1)
            return torch.einsum("bhqke,he->bhqk", torch.tanh(q.unsqueeze(3) + k.unsqueeze(2)), attn.w_score.to(q.dtype))
        q = q * attn.scale
        together = q.unflatten(1, (attn.n_kv_heads, -1)).flatten(2, 3)  # batch kv_head head/kv_head·query d_head
        scores = (together @ k.transpose(-1, -2)).view(*q.shape[:3], -1)
        if attn.shaw is not None:
            distant = attn.shaw.keys(attn.shaw.clipped(self.distances.rows(queries, keys))).to(q.dtype)  # rows query key d_head
            scores = scores + torch.einsum("bhqe,bqke->bhqk", q, distant.expand(q.shape[0], -1, -1, -1))
        if self.bias is not None:
            scores = scores + self.bias.rows(queries, keys)
        return scores if attn.cap is None else attn.cap * torch.tanh(scores / attn.cap)

    def weighted(self, pattern: Scores, queries: slice = EVERY, keys: slice = EVERY) -> Float[Tensor, "batch head query d_head"]:
        """The values of some keys, weighted by some rows of a pattern."""
        attn = self.of
        together = pattern.unflatten(1, (attn.n_kv_heads, -1)).flatten(2, 3)  # batch kv_head head/kv_head·query key
        z = (together @ self.v[:, :, keys]).view(*pattern.shape[:3], -1)
        if attn.shaw is None:
            return z
        distant = attn.shaw.values(attn.shaw.clipped(self.distances.rows(queries, keys))).to(z.dtype)  # rows query key d_head
        return z + torch.einsum("bhqk,bqke->bhqe", pattern, distant.expand(z.shape[0], -1, -1, -1))

    def _explicit(self, queries: slice) -> Float[Tensor, "batch head query d_head"]:
        """The same as `_fused`, with every step in the open."""
        attn, hidden, blind = self.of, ~self.mask.rows(queries), self._blind(queries)
        scores = self.scores(queries).masked_fill(hidden, -torch.inf)  # batch head query key
        scores = attn.scores(scores).masked_fill(hidden, -torch.inf)
        if attn.scores.observed:  # an edit may blind a query, too
            blind = scores.isneginf().all(-1, keepdim=True)
        if blind is None:
            pattern = scores.softmax(-1)
        else:  # a row of −inf has no softmax
            pattern = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
        pattern = attn.pattern(pattern.to(self.v.dtype))
        if attn.pattern.watched_by_rows:
            attn.pattern.show(_written(pattern, self.mask))
        return self.weighted(F.dropout(pattern, attn.dropout, attn.training), queries)

    def _fused(self, queries: slice) -> Float[Tensor, "batch head query d_head"]:
        attn, dropout = self.of, self.of.dropout if self.of.training else 0.0
        options = {"scale": attn.scale, "enable_gqa": attn.n_kv_heads != attn.n_heads, "dropout_p": dropout}
        if self.mask.plain and self.bias is None:
            return F.scaled_dot_product_attention(self.q, self.k, self.v, is_causal=self.mask.causal, **options)
        keys = self.mask.reach(queries)
        allowed, blind = self.mask.rows(queries, keys), self._blind(queries)
        if blind is not None:  # let a blind query see everything and drop its row: not every kernel defines the softmax of nothing
            allowed = allowed | blind
        if self.bias is not None:
            allowed = self.bias.rows(queries, keys).to(self.q.dtype).masked_fill(~allowed, -torch.inf)
        z = F.scaled_dot_product_attention(self.q[:, :, queries], self.k[:, :, keys], self.v[:, :, keys], attn_mask=allowed, **options)
        return z if blind is None else z.masked_fill(blind, 0.0)

    def _blind(self, queries: slice) -> Tensor | None:
        return None if self.mask.blind is None else self.mask.blind[:, :, queries]

    @property
    def _entries_per_query(self) -> int:
        """How many numbers the scores of one query take on their way."""
        vectors = self.of.w_score is not None or self.of.shaw is not None  # one for every key
        return len(self.k) * self.of.n_heads * self.k.shape[2] * (self.of.d_head if vectors else 1)

    def _rows(self) -> PatternRows:
        """The pattern by rows; they also give z where no gradient and no dropout is wanted."""
        exact = replace(self, **{name: _exact(getattr(self, name)) for name in ("q", "k", "v")})

        def mix(pattern: Tensor, queries: slice, keys: slice) -> Tensor:
            z, blind = exact.weighted(pattern, queries, keys), self._blind(queries)
            return z if blind is None else z.masked_fill(blind, 0.0)

        ordinary = torch.is_grad_enabled() or (self.of.training and self.of.dropout > 0)
        score: Callable[[slice, slice], Scores] = torch.no_grad()(exact.scores)
        return PatternRows(score, self.mask, self._entries_per_query, None if ordinary else mix)


def _exact(heads: Tensor) -> Tensor:
    return heads.to(torch.promote_types(heads.dtype, torch.float32)).contiguous()


def _written(pattern: Scores, mask: AttentionMask) -> PatternRows:
    """The rows of a pattern that is there, perhaps edited: its logarithm takes the place of the scores."""
    alpha = _exact(pattern.detach())
    least = torch.finfo(alpha.dtype).min / 2  # ln 0
    return PatternRows(lambda queries, keys: alpha[:, :, queries, keys].log().clamp(min=least), mask, alpha[:, :, 0].numel())
