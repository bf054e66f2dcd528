"""What does a part of the model read of the residual stream, and what does it add to it? The two ends of every path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from model.block import Block
    from model.encoder_decoder import EncoderDecoder
    from model.stack import Stack
    from model.transformer import Transformer

PART = re.compile(r"^(encoder\.|decoder\.|)blocks\.(\d+)\.(attn|cross_attn|)\.?(q|k|v|z|resid_pre|attn_out|cross_attn_out|mlp_out)$")


class Paths:
    """The parts of a model as readers and writers of its residual streams (Elhage et al. 2021).

    Readers are `q`, `k` and `v` of an attention and a feed-forward network, known by its `mlp_out`; `logits` stands for what
    follows the last block. Writers are heads, by their `z`, whole layers, by `attn_out`, `cross_attn_out`, `mlp_out`, and
    `resid_pre` of block 0, all that enters a stack.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> model.paths().stream_of("blocks.1.mlp_out"), model.paths().stream_of("logits")
    ('blocks.1.resid_mid', 'blocks.1.resid_post')
    """

    def __init__(self, model: Transformer | EncoderDecoder) -> None:
        self.model, self._known = model, frozenset(model.sites())

    def stream_of(self, site: str) -> str:
        """The site of the stream that a reader reads. Raises ValueError for a site that is no reader's."""
        if site == "logits":
            side = "decoder." if hasattr(self.model, "decoder") else ""
            return f"{side}blocks.{self._stack(side).config.n_layers - 1}.resid_post"
        side, layer, attention, word = self._part(site, ("q", "k", "v", "mlp_out"), "reads")
        if attention == "cross_attn" and word != "q":
            return f"encoder.blocks.{self._stack('encoder.').config.n_layers - 1}.resid_post"
        block = self._stack(side).blocks[layer]
        if attention == "attn" or (word == "mlp_out" and block.parallel):
            return f"{side}blocks.{layer}.resid_pre"
        return f"{side}blocks.{layer}.{'resid_mid' if attention or block.cross_attn is None else 'resid_mid_cross'}"

    def reads(self, site: str, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
        """What the value at a reader's site would be, had its stream been `resid`. Raises ValueError as `stream_of` does."""
        side, layer, attention, word = self._part(site, ("q", "k", "v", "mlp_out"), "reads")
        block = self._stack(side).blocks[layer]
        if word == "mlp_out":
            return block.fed_forward(resid)
        if attention == "cross_attn" and word != "q":
            return block.cross_attn.project(self.model.encoder.ln_final(resid), word)
        norm = "ln_cross" if attention == "cross_attn" else "ln1"
        read = getattr(block, norm)(resid) if block.place in ("pre", "sandwich") else resid
        return getattr(block, attention).project(read, word)

    def writes(self, site: str, change: Tensor, heads: Sequence[int] | None = None) -> Float[Tensor, "batch pos d_model"]:
        """What a change of the value at a writer's site changes in every stream behind it; of z, some heads' part of it.

        Raises ValueError for a site that is no writer's, and where a norm stands between the writer and the stream, so that
        the stream is no sum of what is written.
        """
        side, layer, attention, word = self._part(site, ("z", "resid_pre", "attn_out", "cross_attn_out", "mlp_out"), "writes")
        block = self._stack(side).blocks[layer]
        self._check_sum(site, block, word)
        if word != "z":
            return change
        module = getattr(block, attention)
        per_head = module.W_O.weight.unflatten(-1, (module.n_heads, module.d_head))  # d_model head d_head
        if heads is not None:
            change, per_head = change[:, :, list(heads)], per_head[:, list(heads)]
        return torch.einsum("bphe,dhe->bpd", change, per_head) * block.factor

    def _check_sum(self, site: str, block: Block, word: str) -> None:
        if block.place == "post" or not block.residual:
            how = "it norms the sum (post-norm)" if block.place == "post" else "it has no residual connection"
            raise ValueError(f"what {site} writes is no term of the stream behind its block: {how}, so a path from it has no exact meaning")
        if word == "z" and block.place in ("sandwich", "output"):
            whole = site.replace("attn.z", "attn_out")
            raise ValueError(
                f"a norm stands between the heads of {site} and the stream, so that they write no terms of a sum; take {whole}, the whole layer"
            )

    def _part(self, site: str, words: tuple[str, ...], does: str) -> tuple[str, int, str, str]:
        found = PART.match(site)
        side, layer, attention, word = found.groups() if found else ("", "-1", "", "")
        known = {"q", "k", "v", "z"}
        right = word in words and (word in known) == bool(attention) and (word != "resid_pre" or layer == "0") and site in self._known
        if not right:
            raise ValueError(
                f"{site} is not the site of a part that {does} the stream; such are {', '.join(words)}{' of block 0' if 'resid_pre' in words else ''}"
            )
        return side, int(layer), attention, word

    def _stack(self, side: str) -> Stack:
        return getattr(self.model, side.removesuffix(".")) if side else self.model
