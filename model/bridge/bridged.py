"""What does a model of TransformerLens look like to the probes? Sites by our names, and logits for tokens and a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from model.bridge.sites import BridgeSite
from model.inputs import check_inputs
from model.sites import Site
from model.source import Source
from model.tokenizer import Pad, Tokenizer

Call = Callable[..., Tensor]


def side_of(mask: Tensor) -> str | None:
    """Where a mask has padding: "left" if anything before a real token is hidden, else "right", None if nowhere.

    >>> side_of(torch.tensor([[True, True]])), side_of(torch.tensor([[True, False]])), side_of(torch.tensor([[False, True]]))
    (None, 'right', 'left')
    """
    if bool(mask.all()):
        return None
    return "left" if bool((~mask[:, :-1] & mask[:, 1:]).any()) else "right"


class Bridged:
    """A model of TransformerLens with our sites. The bridge itself is left as it is; it is there as `bridge`.

    Values at padding are what TransformerLens computes there: a query that may see nothing has equal weights, not zeros.

    >>> from transformers import GPT2Config, GPT2LMHeadModel
    >>> from transformer_lens.model_bridge.sources import build_bridge_from_module
    >>> from model import wrap
    >>> theirs = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=20, n_positions=9)).eval()
    >>> model = wrap(build_bridge_from_module(theirs, "GPT2LMHeadModel", hf_config=theirs.config))
    >>> model.sites()["blocks.1.attn.z"], model(torch.tensor([[1, 2, 3]])).shape
    (BridgeSite(batch pos head d_head), torch.Size([1, 3, 20]))
    """

    def __init__(
        self, bridge: Any, call: Call, sites: Mapping[str, BridgeSite], unpadded: Mapping[str, float], tokenizer: Tokenizer | None
    ) -> None:
        self.bridge, self.tokenizer = bridge, tokenizer
        self.two_stacks = has_two_stacks(bridge)
        self.source = Source(name=str(getattr(bridge.cfg, "model_name", None) or bridge.cfg.architecture), kind="wrapped")
        self.logits = Site("logits")
        self._call, self._sites, self._off = call, dict(sites), dict(unpadded)

    def __call__(self, tokens: Tensor, *more: Tensor | None) -> Tensor:
        """Logits, Float[batch pos d_vocab], of (tokens, mask), or of two stacks (source, target, source mask, target mask).

        Raises ValueError as our own models do, and for padding on a side on which the bridge's logits of real tokens are
        not those without padding.
        """
        given = (tokens, *more)
        n = 2 if self.two_stacks else 1
        masks = [
            self._mask(x, mask, where)
            for x, mask, where in zip(given[:n], (*given[n:], None, None)[:n], ("source", "target"), strict=False)
        ]
        return self.logits(self._call(*given[:n], *masks))

    def _mask(self, tokens: Tensor, mask: Tensor | None, where: str) -> Tensor:
        cfg = self.bridge.cfg
        mask = check_inputs(tokens, mask, d_vocab=cfg.d_vocab, n_ctx=cfg.n_ctx)
        if mask is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        side = side_of(mask)
        if (off := self._off.get(f"{where} {side}")) is not None:
            raise ValueError(
                f"TransformerLens runs {cfg.architecture} with padding on the {side} of the {where} otherwise than without (logits of real "
                f"tokens are off by {off:.2g} of the largest); pad on the other side, or call it once for each length"
            )
        return mask

    def sites(self) -> dict[str, BridgeSite | Site]:
        """Everything that can be observed and edited: name → site."""
        return {**self._sites, "logits": self.logits}

    def tokenize(
        self, texts: Sequence[str], target: Sequence[str] | None = None, pad: Pad = "right", *, prepend_bos: bool = False
    ) -> tuple[Tensor, ...]:
        """What the model is called with. Nothing is prepended unless asked for, whatever the bridge's own default;
        encoders and encoder-decoders follow their tokenizer's template.

        Raises ValueError if there is no tokenizer, for a `target` of a model of one stack, and as `Tokenizer.batch` does.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; give wrap(bridge, tokenizer=...), or pass token ids")
        if self.two_stacks:
            source, source_mask = self.tokenizer.batch(texts, pad=pad, template=True, device=self.device)
            read = (
                self.tokenizer.starts(len(texts), device=self.device)
                if target is None
                else self.tokenizer.targets(target, pad=pad, device=self.device)
            )
            return source, read[0], source_mask, read[1]
        if target is not None:
            raise ValueError("a model of one stack has no target sequence; call tokenize(texts)")
        template = getattr(self.bridge.cfg, "attention_dir", "causal") != "causal"
        return self.tokenizer.batch(texts, pad=pad, prepend_bos=prepend_bos, template=template, device=self.device)

    @property
    def n_layers(self) -> int:
        """How many blocks there are (in each stack)."""
        return self.bridge.cfg.n_layers

    @property
    def n_heads(self) -> int:
        """How many query heads every block has."""
        return self.bridge.cfg.n_heads

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.bridge.original_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the parameters."""
        return next(self.bridge.original_model.parameters()).dtype


def has_two_stacks(bridge: Any) -> bool:
    """Is this an encoder-decoder?"""
    return bool(getattr(bridge.original_model.config, "is_encoder_decoder", False))
