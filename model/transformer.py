"""What is computed? One stack, encoder or decoder: embed the tokens, run the blocks, unembed the final residual stream."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.config import TransformerConfig
from model.context import KeyValueCache
from model.head import LogitHead, read_out
from model.paths import Paths
from model.places import pick
from model.replay import Replay
from model.sites import Site
from model.source import Source
from model.stack import Stack, State, heads_in_stack, initialise, step_in_stack
from model.tokenizer import Pad, Tokenizer


class Transformer(Stack):
    """A stack of blocks with every intermediate value at hand: a decoder if `config.causal` (Radford et al. 2019), else an
    encoder (Devlin et al. 2019).

    `model(tokens, mask)` is `start`, then `step` for each block, then `finish`; there is no other way through it.

    >>> config = TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5)
    >>> model = Transformer(config, generator=torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    >>> model.sites()["blocks.1.attn.pattern"]
    Site(batch head query key)
    """

    def __init__(self, config: TransformerConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__(config)
        self.tokenizer: Tokenizer | None = None
        self.source = Source(name=config.family, kind="initialised")
        self.unembed = None if config.head == "none" else LogitHead(config, self.embedding)
        self.logits = None if config.head == "none" else Site("logits")
        if not self.embedding.weight.is_meta:
            initialise(self, generator)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None, *,
        segments: Int[Tensor, "batch pos"] | None = None, cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits at every position (of the next token in a decoder); final states, Float[batch pos d_model], without a head.

        `mask` is True at real tokens. `segments` are an encoder's segment numbers. With a `cache`, these tokens follow those
        that it holds.

        Raises ValueError for tokens outside the vocabulary, an empty batch, more real tokens than `n_ctx`, and shapes
        or dtypes that are not those above.
        """
        state = self.start(tokens, mask, segments=segments, cache=cache)
        for i in range(self.n_layers):
            state = self.step(state, i)
        return self.finish(state)

    def start(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None, *,
        segments: Int[Tensor, "batch pos"] | None = None, cache: KeyValueCache | None = None,
    ) -> State:
        """The residual stream that enters block 0."""
        return self.begin(tokens, mask, segments=segments, cache=cache)

    def finish(
        self, state: State, positions: Int[Tensor, "batch read"] | None = None, *, tokens: Int[Tensor, "batch answers"] | None = None
    ) -> Tensor:
        """Final norm and head, at `positions` only where given, and of these `tokens` only: Float[batch read d_vocab]."""
        resid, real = state.resid, state.context.real
        if positions is not None:
            resid, real = pick(resid, positions), None
        return read_out(self.ln_final(resid, real), self.unembed, self.logits, tokens)

    def replay(self, *inputs: Tensor | None, keep: bool = False, shared: int = 0) -> Replay:
        """A clean pass in whose middle edited passes can start; with `keep` they need not compute the places before their edit.
        The first `shared` tokens of all examples are the same, and are read once."""
        return Replay(self, inputs, keep=keep, shared=shared)

    def paths(self) -> Paths:
        """What each part reads of the residual stream, and what it adds to it."""
        return Paths(self)

    @property
    def n_layers(self) -> int:
        """How many blocks there are to step through."""
        return self.config.n_layers

    def step_of(self, site: str) -> int:
        """The block that a site belongs to: −1 before block 0, `n_layers` behind the last."""
        return step_in_stack(site, self.n_layers)

    @property
    def n_heads(self) -> int:
        """How many query heads every block has."""
        return self.config.n_heads

    def n_heads_at(self, site: str) -> int:
        """How many heads a site with a head axis has: key and value heads at `k`, `v` and `rot_k`, else query heads."""
        return heads_in_stack(site, self.config)

    def sites(self) -> dict[str, Site]:
        """Everything that can be observed and edited, in the order in which it is registered: name → Site."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Site)}

    def tokenize(
        self, texts: Sequence[str], target: Sequence[str] | None = None, pad: Pad = "right", *, prepend_bos: bool = False
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """What the model is called with: tokens, and a mask that is True at real tokens.

        For a decoder nothing is prepended unless asked for; an encoder follows its tokenizer's template ([CLS] … [SEP]).

        Raises ValueError if there is no tokenizer, no text, a text without any token, a `target` (one stack has none), or
        `prepend_bos` for an encoder.
        """
        if target is not None:
            raise ValueError("a model of one stack has no target sequence; call tokenize(texts)")
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; set model.tokenizer, or pass token ids")
        return self.tokenizer.batch(texts, pad=pad, prepend_bos=prepend_bos, template=not self.config.causal, device=self.device)

    def to_str_tokens(self, text_or_tokens: str | Sequence[int] | Int[Tensor, "pos"]) -> list[str]:
        """The text of each token on its own. Raises ValueError if there is no tokenizer."""
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; set model.tokenizer")
        return self.tokenizer.to_str_tokens(text_or_tokens)
