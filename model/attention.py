"""What does each token read from the others? softmax(q kᵀ / √d_head) v, per head, and the output projection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.config import TransformerConfig
from model.masks import AttentionMask
from model.positions import Rotation, rotate
from model.sites import Site


@dataclass(frozen=True)
class Context:
    """What every block needs besides the residual stream: who may see whom, and the rotation tables."""

    mask: AttentionMask
    rotation: Rotation | None

    def repeat(self, n: int) -> Context:
        """The context of n copies of the batch, one after another."""
        turned = self.rotation
        if turned is not None and turned[0].shape[0] > 1:
            turned = (turned[0].repeat(n, 1, 1), turned[1].repeat(n, 1, 1))
        return Context(self.mask.repeat(n), turned)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2) with grouped keys and values (Ainslie et al. 2023).

    While nobody observes `scores` or `pattern`, z comes from the fused kernel; `result` is computed only when observed.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads, self.d_head = config.n_heads, config.n_kv_heads, config.d_head
        d_query, d_key = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
        rotary = config.positions == "rotary"
        self.W_Q = nn.Linear(config.d_model, d_query, bias=config.qkv_bias)
        self.W_K = nn.Linear(config.d_model, d_key, bias=config.qkv_bias)
        self.W_V = nn.Linear(config.d_model, d_key, bias=config.qkv_bias)
        self.q, self.k, self.v = Site("q"), Site("k"), Site("v")
        self.rot_q, self.rot_k = (Site("rot_q"), Site("rot_k")) if rotary else (None, None)
        self.scores, self.pattern = Site("scores"), Site("pattern")
        self.z, self.result = Site("z"), Site("result")
        self.W_O = nn.Linear(d_query, config.d_model, bias=config.attn_out_bias)

    def forward(self, x: Float[Tensor, "batch pos d_model"], context: Context) -> Float[Tensor, "batch pos d_model"]:
        q = self.q(self.W_Q(x).unflatten(-1, (self.n_heads, self.d_head)))  # batch pos head d_head
        k = self.k(self.W_K(x).unflatten(-1, (self.n_kv_heads, self.d_head)))  # batch pos kv_head d_head
        v = self.v(self.W_V(x).unflatten(-1, (self.n_kv_heads, self.d_head)))
        if context.rotation is not None:
            q = self.rot_q(rotate(q, context.rotation))
            k = self.rot_k(rotate(k, context.rotation))
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))  # batch head pos d_head
        mix = self._explicit if self.scores.observed or self.pattern.observed else self._fused
        z = self.z(mix(q, k, v, context.mask).transpose(1, 2))  # batch pos head d_head
        return self._project(z)

    def _explicit(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """The same as `_fused`, with every step in the open."""
        k, v = (heads.repeat_interleave(self.n_heads // self.n_kv_heads, dim=1) for heads in (k, v))
        hidden = ~mask.matrix(q.shape[-2], q.device)
        scores = (q @ k.transpose(-1, -2) / self.d_head**0.5).masked_fill(hidden, -torch.inf)  # batch head query key
        scores = self.scores(scores).masked_fill(hidden, -torch.inf)
        if mask.blind is None:
            pattern = scores.softmax(-1)
        else:  # a row of −inf has no softmax
            pattern = scores.masked_fill(mask.blind, 0.0).softmax(-1).masked_fill(mask.blind, 0.0)
        pattern = self.pattern(pattern.to(v.dtype))
        return pattern @ v  # batch head query d_head

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        grouped = self.n_kv_heads != self.n_heads
        if mask.allowed is None:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        if mask.blind is None:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed, enable_gqa=grouped)
        # let a blind query see everything and drop its row: not every kernel defines the softmax of nothing
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.allowed | mask.blind, enable_gqa=grouped)
        return z.masked_fill(mask.blind, 0.0)

    def _project(self, z: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos d_model"]:
        if not self.result.observed:
            return self.W_O(z.flatten(-2))
        per_head = self.W_O.weight.unflatten(-1, (self.n_heads, self.d_head))  # d_model head d_head
        out = self.result(torch.einsum("bphe,dhe->bphd", z, per_head)).sum(2)  # batch pos d_model
        return out if self.W_O.bias is None else out + self.W_O.bias
