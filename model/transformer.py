"""What is computed? The decoder: embed the tokens, run the blocks, unembed the final residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.attention import Context
from model.block import Block
from model.config import TransformerConfig
from model.inputs import check_inputs
from model.masks import causal_mask
from model.norms import Norm
from model.positions import count_positions, rotation
from model.sites import Site
from model.source import Source
from model.tokenizer import Pad, Tokenizer


@dataclass(frozen=True)
class State:
    """A forward pass between two blocks: the residual stream, and what all blocks share."""

    resid: Float[Tensor, "batch pos d_model"]
    context: Context

    def repeat(self, n: int) -> State:
        """n copies of the batch, one after another: each can then be edited on its own."""
        return State(self.resid.repeat(n, 1, 1), self.context.repeat(n))


class Transformer(nn.Module):
    """A decoder-only Transformer (Radford et al. 2019; Touvron et al. 2023) with every intermediate value at hand.

    `model(tokens, mask)` is `start`, then `step` for each block, then `finish`; there is no other way through it.

    >>> config = TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5)
    >>> model = Transformer(config, generator=torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[1, 2, 3]])).shape
    torch.Size([1, 3, 10])
    >>> model.sites()["blocks.1.attn.pattern"]
    Site(batch head query key)
    """

    def __init__(self, config: TransformerConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.source = Source(name=config.family, kind="initialised")
        self.W_E = nn.Embedding(config.d_vocab, config.d_model)
        self.embed = Site("embed")
        self.W_pos = nn.Embedding(config.n_ctx, config.d_model) if config.positions == "learned" else None
        self.pos_embed = Site("pos_embed") if config.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_final = Norm(config)
        self.W_U = nn.Linear(config.d_model, config.d_vocab, bias=False)
        self.logits = Site("logits")
        if config.tied_embeddings:
            self.W_U.weight = self.W_E.weight
        if not self.W_E.weight.is_meta:
            initialise(self, generator)

    def forward(
        self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token at every position; `mask` is True at real tokens.

        Raises ValueError for tokens outside the vocabulary, an empty batch, more real tokens than `n_ctx`, and shapes
        or dtypes that are not those above.
        """
        state = self.start(tokens, mask)
        for i in range(self.config.n_layers):
            state = self.step(state, i)
        return self.finish(state)

    def start(self, tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None = None) -> State:
        """The residual stream that enters block 0."""
        mask = check_inputs(tokens, mask, d_vocab=self.config.d_vocab, n_ctx=self.config.n_ctx)
        positions = count_positions(tokens, mask)  # rows pos
        resid = self.embed(self.W_E(tokens))  # batch pos d_model
        if self.W_pos is not None:
            resid = resid + self.pos_embed(self.W_pos(positions).expand_as(resid))
        turned = None
        if self.config.positions == "rotary":
            turned = rotation(positions, self.config.d_head, self.config.rotary_base, resid.dtype)
        return State(resid, Context(causal_mask(mask), turned))

    def step(self, state: State, i: int) -> State:
        """Block i."""
        return State(self.blocks[i](state.resid, state.context), state.context)

    def finish(self, state: State, positions: Int[Tensor, "batch read"] | None = None) -> Tensor:
        """Final norm and unembedding, at `positions` only where given: Float[batch read d_vocab]."""
        resid = state.resid
        if positions is not None:
            resid = resid.gather(1, positions.unsqueeze(-1).expand(-1, -1, resid.shape[-1]))
        return self.logits(self.W_U(self.ln_final(resid)))

    @property
    def n_layers(self) -> int:
        """How many blocks there are to step through."""
        return self.config.n_layers

    @property
    def n_heads(self) -> int:
        """How many query heads every block has."""
        return self.config.n_heads

    def sites(self) -> dict[str, Site]:
        """Everything that can be observed and edited, in the order in which it is computed: name → Site."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Site)}

    def tokenize(
        self, texts: Sequence[str], target: Sequence[str] | None = None, pad: Pad = "right", *, prepend_bos: bool = False
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """What the model is called with: tokens, and a mask that is True at real tokens. Nothing is prepended unless asked for.

        Raises ValueError if there is no tokenizer, no text, a text without any token, or a `target` (a decoder has none).
        """
        if target is not None:
            raise ValueError("a decoder-only model has no target sequence; call tokenize(texts)")
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; set model.tokenizer, or pass token ids")
        return self.tokenizer.batch(texts, pad=pad, prepend_bos=prepend_bos, device=self.W_E.weight.device)


def initialise(model: Transformer, generator: torch.Generator | None) -> None:
    """Normal weights of standard deviation 0.02, zero biases, unit gains (Radford et al. 2019)."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
