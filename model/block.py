"""One layer: sub-layers that read the residual stream and add to it, with norms before, after, or both."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from model.attention import Attention
from model.config import TransformerConfig
from model.context import Context
from model.feedforward import FeedForward
from model.norms import make_norm
from model.sites import Site

Stream = Float[Tensor, "batch pos d_model"]


class Block(nn.Module):
    """resid_pre → attention → resid_mid [→ cross-attention → resid_mid_cross] → feed-forward → resid_post.

    Where the norms stand (`norm_place`):

        pre       x + f(norm(x))                Xiong et al. 2020
        post      norm(x + f(x))                Vaswani et al. 2017
        sandwich  x + norm_post(f(norm(x)))     Ding et al. 2021, Gemma 2
        output    x + norm_post(f(x))           OLMo 2

    A parallel block adds attention and feed-forward network of one and the same resid_pre.
    """

    def __init__(self, config: TransformerConfig, layer: int, *, cross: bool = False) -> None:
        super().__init__()
        self.place, self.parallel, self.residual = config.norm_place, config.parallel, config.residual
        self.factor, self.dropout = config.residual_scale, config.dropout.sublayer
        inner = config.norm_place in ("sandwich", "output") or config.residual_scale != 1.0

        def norms(name: str) -> None:
            if self.place in ("pre", "post", "sandwich"):
                setattr(self, name, make_norm(config))
            if self.place in ("sandwich", "output"):
                setattr(self, f"{name}_post", make_norm(config))

        self.resid_pre = Site("resid_pre")
        norms("ln1")
        self.attn = Attention(config, layer)
        self.attn.out = Site("out") if inner else None
        self.attn_out = Site("attn_out")
        self.resid_mid = None if self.parallel or (config.d_mlp == 0 and not cross) else Site("resid_mid")
        self.cross_attn = None
        if cross:
            norms("ln_cross")
            self.cross_attn = Attention(config, layer, cross=True)
            self.cross_attn.out = Site("out") if inner else None
            self.cross_attn_out = Site("cross_attn_out")
            self.resid_mid_cross = Site("resid_mid_cross") if config.d_mlp else None
        self.mlp = None
        if config.d_mlp:
            if not config.parallel_shared_norm:
                norms("ln2")
            self.mlp = FeedForward(config)
            self.mlp.out = Site("out") if inner else None
            self.mlp_out = Site("mlp_out")
        self.resid_post = Site("resid_post")

    def forward(self, resid: Stream, context: Context) -> Stream:
        x = self.resid_pre(resid)
        if self.parallel:
            return self.resid_post(self._parallel(x, context))
        attended = self._sublayer("ln1", x, lambda y: self.attn(y, context), self.attn, self.attn_out, context)
        x = attended if self.resid_mid is None else self.resid_mid(attended)
        if self.cross_attn is not None:
            x = self._sublayer("ln_cross", x, lambda y: self.cross_attn(y, context), self.cross_attn, self.cross_attn_out, context)
            x = x if self.resid_mid_cross is None else self.resid_mid_cross(x)
        if self.mlp is not None:
            x = self._sublayer("ln2", x, self.mlp, self.mlp, self.mlp_out, context)
        return self.resid_post(x)

    def keys(self, resid: Stream, context: Context) -> tuple[Stream, Stream]:
        """Keys and values of the block's self-attention."""
        return self.attn.keys(self.ln1(resid, context.real) if self.place in ("pre", "sandwich") else resid, context)

    def fed_forward(self, resid: Stream) -> Stream:
        """What the feed-forward network adds where it reads this stream: the value at `mlp_out`."""
        if not self.parallel:
            return self._written("ln2", resid, self.mlp, self.mlp, None)
        normed = (self.ln2 if hasattr(self, "ln2") else self.ln1)(resid)
        return self.mlp(normed) if self.mlp.out is None else self.mlp.out(self.mlp(normed)) * self.factor

    def _sublayer(self, norm: str, x: Stream, f: Callable[[Stream], Stream], module: nn.Module, added: Site, context: Context) -> Stream:
        """One sub-layer and its sum, with the norms where the config puts them."""
        out = self._written(norm, x, f, module, context.real)
        out = added(F.dropout(out, self.dropout, self.training))
        total = x + out if self.residual else out
        return getattr(self, norm)(total, context.real) if self.place == "post" else total

    def _written(self, norm: str, x: Stream, f: Callable[[Stream], Stream], module: nn.Module, real: Tensor | None) -> Stream:
        """What one sub-layer adds."""
        y = getattr(self, norm)(x, real) if self.place in ("pre", "sandwich") else x
        out = f(y) if module.out is None else module.out(f(y))
        if self.place in ("sandwich", "output"):
            out = getattr(self, f"{norm}_post")(out, real)
        return out if self.factor == 1.0 else out * self.factor

    def _parallel(self, x: Stream, context: Context) -> Stream:
        normed = self.ln1(x, context.real)
        parts = []
        for f, module, added in ((lambda y: self.attn(y, context), self.attn, self.attn_out), (self.mlp, self.mlp, self.mlp_out)):
            if module is self.mlp and hasattr(self, "ln2"):
                normed = self.ln2(x, context.real)
            out = f(normed) if module.out is None else module.out(f(normed)) * self.factor
            parts.append(added(F.dropout(out, self.dropout, self.training)))
        return (x if self.residual else 0) + parts[0] + parts[1]
