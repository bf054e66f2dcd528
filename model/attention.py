"""What does each token read from the others? softmax(q kᵀ / √d_head) v, per head, and the output projection."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.context import Context
from model.mixing import Mixing
from model.norms import Norm
from model.pattern_rows import PatternSite
from model.projection import HeadProjection
from model.relative import ShawVectors
from model.rotary import rotate
from model.sites import Site


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
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # batch head pos d_head
        if self.cross:
            mixing = Mixing(self, q, k, v, context.source.mask, None, None)
        else:
            mixing = Mixing(self, q, k, v, context.masks[self.span], context.bias, context.distances)
        z = self.z(mixing.z().transpose(1, 2))  # batch pos head d_head
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

    def _project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        if not self.result.observed:
            return self.W_O(z.flatten(-2))
        per_head = self.W_O.weight.unflatten(-1, (self.n_heads, self.d_head))  # d_model head d_head
        out = self.result(torch.einsum("bphe,dhe->bphd", z, per_head)).sum(2)  # batch pos d_model
        return out if self.W_O.bias is None else out + self.W_O.bias
