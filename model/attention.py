"""What does each token read from the others? softmax(q kᵀ / √d_head) v, per head, and the output projection."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.context import Context
from model.masks import EVERY, AttentionMask, chunks
from model.norms import Norm
from model.pattern_rows import PatternRows, PatternSite
from model.projection import HeadProjection
from model.relative import ShawVectors
from model.rotary import rotate
from model.sites import Site

AT_ONCE = 2**25
"""how many scores are in memory at once while nobody looks at them; the z of longer sequences is made a few queries at a time"""


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped keys and values (Ainslie et al. 2023).

    With `cross`, keys and values come from the encoder's states, and positions play no part. While nobody observes
    `scores` or `pattern`, no more than a part of them is in memory, and where the score is one that it knows, z comes from
    the fused kernel; `result` is computed only when observed.
    """

    def __init__(self, config: TransformerConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.layer, self.cross = layer, cross
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        self.scale = config.score_scale if config.score_scale is not None else config.d_head**-0.5
        self.cap, self.span, self.dropout = config.score_cap, config.span_of(layer), config.dropout.pattern
        self.rotary = config.rotary_of(layer) if config.positions == "rotary" and not cross else None
        self.W_Q = HeadProjection(config.d_model, config.n_heads, config.d_head, bias=config.q_bias)
        self.W_K = None if config.shared_qk else HeadProjection(config.d_model, config.n_kv_heads, config.d_head, bias=config.k_bias)
        self.W_V = HeadProjection(config.d_model, config.n_kv_heads, config.d_head, bias=config.v_bias)
        self.ln_q, self.ln_k = self._qk_norms(config)
        self.qk_norm = config.qk_norm
        self.q, self.k, self.v = Site("q"), Site("k"), Site("v")
        self.rot_q, self.rot_k = (Site("rot_q"), Site("rot_k")) if self.rotary else (None, None)
        self.w_score = nn.Parameter(torch.zeros(config.n_heads, config.d_head)) if config.score == "additive" else None
        self.shaw = ShawVectors(config) if config.positions == "shaw" and not cross else None
        self.scores, self.pattern = Site("scores"), PatternSite()
        self.z, self.result = Site("z"), Site("result")
        self.W_O = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.attn_out_bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"], context: Context) -> Float[Tensor, "batch pos d_model"]:
        if (known := context.attended.get((self.layer, self.cross))) is not None:
            return known
        q = self.q(self.project(x, "q"))  # batch pos head d_head
        k, v = self._cross_keys(context) if self.cross else self.keys(x, context)  # batch key kv_head d_head
        if self.rotary is not None:
            q = self.rot_q(rotate(q, context.rotations[self.rotary], self.rotary))
        mask = context.source.mask if self.cross else context.masks[self.span]
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # batch head pos d_head
        z = self.z(self._mix(q, k, v, mask, context).transpose(1, 2))  # batch pos head d_head
        return self._project(z)

    def project(self, x: Float[Tensor, "batch pos d_model"], word: Literal["q", "k", "v"]) -> Float[Tensor, "batch pos head d_head"]:
        """The value at `q`, `k` or `v` where the attention reads x."""
        if word == "v":
            return self.W_V(x)
        make = self.W_Q if word == "q" or self.W_K is None else self.W_K
        return self._normed(make(x), self.ln_q if word == "q" else self.ln_k)

    def _qk_norms(self, config: TransformerConfig) -> tuple[Norm | None, Norm | None]:
        if config.qk_norm == "none":
            return None, None
        if config.qk_norm == "head":
            return tuple(Norm(config, config.d_head, ("batch", "pos", axis, "d_head"), "rms") for axis in ("head", "kv_head"))
        sizes = (("head·d_head", config.n_heads), ("kv_head·d_head", config.n_kv_heads))
        return tuple(Norm(config, n * config.d_head, ("batch", "pos", axis), "rms") for axis, n in sizes)

    def _normed(self, heads: Float[Tensor, "batch pos head d_head"], norm: Norm | None) -> Float[Tensor, "batch pos head d_head"]:
        if norm is None:
            return heads
        return norm(heads) if self.qk_norm == "head" else norm(heads.flatten(-2)).unflatten(-1, heads.shape[-2:])

    def keys(self, x: Float[Tensor, "batch pos d_model"], context: Context) -> tuple[Tensor, Tensor]:
        """Keys and values of the tokens that attend to each other, behind those that the cache holds: both batch key kv_head d_head."""
        k, v = self._keys(x)
        if self.rotary is not None:
            k = self.rot_k(rotate(k, context.rotations[self.rotary], self.rotary))
        return (k, v) if context.cache is None else context.cache.extend(self.layer, k, v)

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.k(self.project(x, "k")), self.v(self.project(x, "v"))  # both batch key kv_head d_head

    def _cross_keys(self, context: Context) -> tuple[Tensor, Tensor]:
        """The encoder's keys and values, computed once where there is a cache."""
        kept = None if context.cache is None else context.cache.cross(self.layer)
        if kept is None:
            kept = self._keys(context.source.states)
            if context.cache is not None:
                context.cache.keep_cross(self.layer, *kept)
        return kept

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context) -> Float[Tensor, "batch head query d_head"]:
        """z: all at once where somebody looks at the pattern or the kernel needs no scores, else a few queries at a time."""
        if self.scores.observed or self.pattern.observed:
            return self._explicit(q, k, v, mask, context, EVERY)
        if self.pattern.watched_by_rows:
            rows = self._rows(q, k, v, mask, context)
            self.pattern.show(rows)
            if (z := rows.z()) is not None:
                return z.to(v.dtype)
        explicit = self.cap is not None or self.w_score is not None or self.shaw is not None  # the kernel does not know these
        biased = context.bias is not None and not self.cross
        if mask.plain and not biased and not explicit:
            return self._fused(q, k, v, mask, context, EVERY)
        entries = self._entries_per_query(k) if explicit or biased else len(k) * k.shape[2]
        mix = self._explicit if explicit else self._fused
        parts = [mix(q, k, v, mask, context, queries) for queries in chunks(q.shape[2], entries, AT_ONCE)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context, queries: slice) -> Tensor:
        """The same as `_fused`, with every step in the open."""
        hidden, blind = ~mask.rows(queries), None if mask.blind is None else mask.blind[:, :, queries]
        scores = self._score(q, k, context, queries).masked_fill(hidden, -torch.inf)  # batch head query key
        scores = self.scores(scores).masked_fill(hidden, -torch.inf)
        if self.scores.observed:  # an edit may blind a query, too
            blind = scores.isneginf().all(-1, keepdim=True)
        if blind is None:
            pattern = scores.softmax(-1)
        else:  # a row of −inf has no softmax
            pattern = scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
        pattern = self.pattern(pattern.to(v.dtype))
        if self.pattern.watched_by_rows:
            self.pattern.show(self._written(pattern, mask))
        return self._weighted(F.dropout(pattern, self.dropout, self.training), v, context, queries)

    def _weighted(
        self, pattern: Float[Tensor, "batch head query key"], v: Tensor, context: Context, queries: slice = EVERY, keys: slice = EVERY
    ) -> Float[Tensor, "batch head query d_head"]:
        """The values of some keys, weighted by some rows of a pattern."""
        together = pattern.unflatten(1, (self.n_kv_heads, -1)).flatten(2, 3)  # batch kv_head head/kv_head·query key
        z = (together @ v[:, :, keys]).view(*pattern.shape[:3], -1)
        if self.shaw is None:
            return z
        distant = self.shaw.values(self.shaw.clipped(context.distances.rows(queries, keys))).to(z.dtype)  # rows query key d_head
        return z + torch.einsum("bhqk,bqke->bhqe", pattern, distant.expand(z.shape[0], -1, -1, -1))

    def _score(
        self, q: Tensor, k: Tensor, context: Context, queries: slice = EVERY, keys: slice = EVERY
    ) -> Float[Tensor, "batch head query key"]:
        """The scores of some queries and keys, before the mask."""
        q, k = q[:, :, queries], k[:, :, keys]
        if self.w_score is not None:  # Bahdanau et al. 2015: w · tanh(q + k)
            k = k.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1)
            return torch.einsum("bhqke,he->bhqk", torch.tanh(q.unsqueeze(3) + k.unsqueeze(2)), self.w_score.to(q.dtype))
        q = q * self.scale
        together = q.unflatten(1, (self.n_kv_heads, -1)).flatten(2, 3)  # batch kv_head head/kv_head·query d_head
        scores = (together @ k.transpose(-1, -2)).view(*q.shape[:3], -1)
        if self.shaw is not None:
            distant = self.shaw.keys(self.shaw.clipped(context.distances.rows(queries, keys))).to(q.dtype)  # rows query key d_head
            scores = scores + torch.einsum("bhqe,bqke->bhqk", q, distant.expand(q.shape[0], -1, -1, -1))
        if context.bias is not None and not self.cross:
            scores = scores + context.bias.rows(queries, keys)
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def _entries_per_query(self, k: Tensor) -> int:
        """How many numbers the scores of one query take on their way."""
        vectors = self.w_score is not None or self.shaw is not None  # one for every key
        return len(k) * self.n_heads * k.shape[2] * (self.d_head if vectors else 1)

    def _rows(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context) -> PatternRows:
        """The pattern by rows; they also give z where no gradient and no dropout is wanted."""
        q, k, v = (heads.to(torch.promote_types(heads.dtype, torch.float32)).contiguous() for heads in (q, k, v))

        def mix(pattern: Tensor, queries: slice, keys: slice) -> Tensor:
            z = self._weighted(pattern, v, context, queries, keys)
            return z if mask.blind is None else z.masked_fill(mask.blind[:, :, queries], 0.0)

        ordinary = torch.is_grad_enabled() or (self.training and self.dropout > 0)
        score = torch.no_grad()(lambda queries, keys: self._score(q, k, context, queries, keys))
        return PatternRows(score, mask, self._entries_per_query(k), None if ordinary else mix)

    def _written(self, pattern: Float[Tensor, "batch head query key"], mask: AttentionMask) -> PatternRows:
        """The rows of a pattern that is there, perhaps edited: its logarithm takes the place of the scores."""
        alpha = pattern.detach().to(torch.promote_types(pattern.dtype, torch.float32))
        least = torch.finfo(alpha.dtype).min / 2  # ln 0
        return PatternRows(lambda queries, keys: alpha[:, :, queries, keys].log().clamp(min=least), mask, alpha[:, :, 0].numel())

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context, queries: slice) -> Tensor:
        options = {"scale": self.scale, "enable_gqa": self.n_kv_heads != self.n_heads, "dropout_p": self.dropout if self.training else 0.0}
        bias = None if self.cross else context.bias
        if mask.plain and bias is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=mask.causal, **options)
        keys = mask.reach(queries)
        allowed, blind = mask.rows(queries, keys), None if mask.blind is None else mask.blind[:, :, queries]
        if blind is not None:  # let a blind query see everything and drop its row: not every kernel defines the softmax of nothing
            allowed = allowed | blind
        if bias is not None:
            allowed = bias.rows(queries, keys).to(q.dtype).masked_fill(~allowed, -torch.inf)
        z = F.scaled_dot_product_attention(q[:, :, queries], k[:, :, keys], v[:, :, keys], attn_mask=allowed, **options)
        return z if blind is None else z.masked_fill(blind, 0.0)

    def _project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        if not self.result.observed:
            return self.W_O(z.flatten(-2))
        per_head = self.W_O.weight.unflatten(-1, (self.n_heads, self.d_head))  # d_model head d_head
        out = self.result(torch.einsum("bphe,dhe->bphd", z, per_head)).sum(2)  # batch pos d_model
        return out if self.W_O.bias is None else out + self.W_O.bias
