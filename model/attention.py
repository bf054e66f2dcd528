"""What does each token read from the others? softmax(q kᵀ / √d_head) v, per head, and the output projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.context import Context
from model.masks import AttentionMask
from model.norms import Norm
from model.projection import HeadProjection
from model.relative import ShawVectors
from model.rotary import rotate
from model.sites import Site


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped keys and values (Ainslie et al. 2023).

    With `cross`, keys and values come from the encoder's states, and positions play no part. While nobody observes
    `scores` or `pattern`, and the score is one that it knows, z comes from the fused kernel; `result` is computed only
    when observed.
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
        self.scores, self.pattern = Site("scores"), Site("pattern")
        self.z, self.result = Site("z"), Site("result")
        self.W_O = nn.Linear(config.n_heads * config.d_head, config.d_model, bias=config.attn_out_bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"], context: Context) -> Float[Tensor, "batch pos d_model"]:
        q = self.q(self._normed(self.W_Q(x), self.ln_q))  # batch pos head d_head
        k, v = self._cross_keys(context) if self.cross else self._keys(x)  # batch key kv_head d_head
        if self.rotary is not None:
            tables = context.rotations[self.rotary]
            q = self.rot_q(rotate(q, tables, self.rotary))
            k = self.rot_k(rotate(k, tables, self.rotary))
        if context.cache is not None and not self.cross:
            k, v = context.cache.extend(self.layer, k, v)
        mask = context.source.mask if self.cross else context.masks[self.span]
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # batch head pos d_head
        mix = self._explicit if self._needs_explicit() else self._fused
        z = self.z(mix(q, k, v, mask, context).transpose(1, 2))  # batch pos head d_head
        return self._project(z)

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

    def _keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        make = self.W_K if self.W_K is not None else self.W_Q
        return self.k(self._normed(make(x), self.ln_k)), self.v(self.W_V(x))  # both batch key kv_head d_head

    def _cross_keys(self, context: Context) -> tuple[Tensor, Tensor]:
        """The encoder's keys and values, computed once where there is a cache."""
        kept = None if context.cache is None else context.cache.cross(self.layer)
        if kept is None:
            kept = self._keys(context.source.states)
            if context.cache is not None:
                context.cache.keep_cross(self.layer, *kept)
        return kept

    def _needs_explicit(self) -> bool:
        """Is there something that the fused kernel does not show, or does not know?"""
        return self.scores.observed or self.pattern.observed or self.cap is not None or self.w_score is not None or self.shaw is not None

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context) -> Tensor:
        """The same as `_fused`, with every step in the open."""
        k, v = (heads.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for heads in (k, v))
        hidden = ~mask.matrix(q.shape[-2], k.shape[-2], q.device)
        scores = self._score(q, k, context).masked_fill(hidden, -torch.inf)  # batch head query key
        scores = self.scores(scores).masked_fill(hidden, -torch.inf)
        if mask.blind is None:
            pattern = scores.softmax(-1)
        else:  # a row of −inf has no softmax
            pattern = scores.masked_fill(mask.blind, 0.0).softmax(-1).masked_fill(mask.blind, 0.0)
        pattern = self.pattern(pattern.to(v.dtype))
        pattern = F.dropout(pattern, self.dropout, self.training)
        z = pattern @ v  # batch head query d_head
        if self.shaw is not None:
            distant = self.shaw.values(self.shaw.clipped(context.distance))  # rows query key d_head
            z = z + torch.einsum("bhqk,bqke->bhqe", pattern, distant.expand(z.shape[0], -1, -1, -1))
        return z

    def _score(self, q: Tensor, k: Tensor, context: Context) -> Float[Tensor, "batch head query key"]:
        if self.w_score is not None:  # Bahdanau et al. 2015: w · tanh(q + k)
            return torch.einsum("bhqke,he->bhqk", torch.tanh(q.unsqueeze(3) + k.unsqueeze(2)), self.w_score)
        scores = q @ k.transpose(-1, -2)
        if self.shaw is not None:
            distant = self.shaw.keys(self.shaw.clipped(context.distance))  # rows query key d_head
            scores = scores + torch.einsum("bhqe,bqke->bhqk", q, distant.expand(q.shape[0], -1, -1, -1))
        scores = scores * self.scale
        if context.bias is not None and not self.cross:
            scores = scores + context.bias
        return scores if self.cap is None else self.cap * torch.tanh(scores / self.cap)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask, context: Context) -> Tensor:
        options = {"scale": self.scale, "enable_gqa": self.n_kv_heads != self.n_heads, "dropout_p": self.dropout if self.training else 0.0}
        bias = None if self.cross else context.bias
        if mask.allowed is None and bias is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=mask.triangular, **options)
        allowed = mask.matrix(q.shape[-2], k.shape[-2], q.device)
        if mask.blind is not None:  # let a blind query see everything and drop its row: not every kernel defines the softmax of nothing
            allowed = allowed | mask.blind
        if bias is not None:
            allowed = bias.to(q.dtype).masked_fill(~allowed, -torch.inf)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, **options)
        return z if mask.blind is None else z.masked_fill(mask.blind, 0.0)

    def _project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        if not self.result.observed:
            return self.W_O(z.flatten(-2))
        per_head = self.W_O.weight.unflatten(-1, (self.n_heads, self.d_head))  # d_model head d_head
        out = self.result(torch.einsum("bphe,dhe->bphd", z, per_head)).sum(2)  # batch pos d_model
        return out if self.W_O.bias is None else out + self.W_O.bias
