"""What is computed by two stacks? The decoder writes the target while it attends to the encoder's final states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from model.config import EncoderDecoderConfig
from model.context import CrossSource, KeyValueCache
from model.head import LogitHead, read_out
from model.masks import attention_mask
from model.paths import Paths
from model.places import pick
from model.replay import Replay
from model.sites import Site
from model.source import Source
from model.stack import Stack, State, heads_in_stack, initialise, step_in_stack
from model.tokenizer import Pad, Tokenizer
from model.weights import unembedding


@dataclass(frozen=True)
class Passage:
    """A forward pass between two blocks of an encoder-decoder: in the encoder while `decoder` is None."""

    encoder: State
    decoder: State | None
    source_mask: Tensor | None
    target: Tensor
    target_mask: Tensor | None

    @property
    def resid(self) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream of the stack that is being run."""
        return (self.encoder if self.decoder is None else self.decoder).resid

    def repeat(self, n: int) -> Passage:
        """n copies of the batch, one after another."""

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x.repeat(n, 1)

        decoder = None if self.decoder is None else self.decoder.repeat(n)
        return Passage(self.encoder.repeat(n), decoder, rows(self.source_mask), rows(self.target), rows(self.target_mask))


class EncoderDecoder(nn.Module):
    """The Transformer of the paper (Vaswani et al. 2017): an encoder, and a decoder with cross-attention.

    Steps 0 to n − 1 are the blocks of the encoder, those from n on the blocks of the decoder.

    >>> from model.config import TransformerConfig
    >>> shape = dict(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5)
    >>> config = EncoderDecoderConfig(encoder=TransformerConfig(**shape, causal=False, head="none"), decoder=TransformerConfig(**shape))
    >>> model = EncoderDecoder(config, generator=torch.Generator().manual_seed(0))
    >>> model(torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])).shape
    torch.Size([1, 2, 10])
    >>> model.sites()["decoder.blocks.0.cross_attn.pattern"]
    Site(batch head query key)
    """

    def __init__(self, config: EncoderDecoderConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.tokenizer: Tokenizer | None = None
        self.target_tokenizer: Tokenizer | None = None
        """the target's, where it is another one"""
        self.source = Source(name=config.decoder.family, kind="initialised")
        self.encoder = Stack(config.encoder)
        self.decoder = Stack(config.decoder, cross=True)
        if config.shared_embeddings:
            self.encoder.embedding.weight = self.decoder.embedding.weight
        headless = config.decoder.head == "none"
        self.unembed = None if headless else LogitHead(config.decoder, self.decoder.embedding)
        self.logits = None if headless else Site("logits")
        if not self.decoder.embedding.weight.is_meta:
            initialise(self, generator)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch pos"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        target_mask: Bool[Tensor, "batch pos"] | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next target token at every target position; the decoder's final states, Float[batch pos d_model], without
        a head. `target` is the decoder's input, start token included.

        Raises ValueError as `Transformer` does, for either sequence.
        """
        state = self.start(source, target, source_mask, target_mask)
        for i in range(self.n_layers):
            state = self.step(state, i)
        return self.finish(state)

    def start(self, source: Tensor, target: Tensor, source_mask: Tensor | None = None, target_mask: Tensor | None = None) -> Passage:
        """The residual stream that enters the encoder's block 0."""
        if isinstance(target, Tensor) and isinstance(source, Tensor) and len(target) != len(source):
            raise ValueError(f"source and target must have the same number of examples, got {len(source)} and {len(target)}")
        return Passage(self.encoder.begin(source, source_mask), None, source_mask, target, target_mask)

    def step(self, state: Passage, i: int) -> Passage:
        """Block i: of the encoder, then of the decoder."""
        n = self.encoder.config.n_layers
        if i < n:
            return self._with(state, encoder=self.encoder.step(state.encoder, i))
        state = self.opened(state)
        return self._with(state, decoder=self.decoder.step(state.decoder, i - n))

    def opened(self, state: Passage) -> Passage:
        """The same behind the encoder's final norm, with the target embedded."""
        if state.decoder is not None:
            return state
        states = self.encoder.ln_final(state.encoder.resid, state.encoder.context.real)
        return self._with(state, decoder=self.decode(states, state.source_mask, state.target, state.target_mask))

    def finish(
        self, state: Passage, positions: Int[Tensor, "batch read"] | None = None, *, tokens: Int[Tensor, "batch answers"] | None = None
    ) -> Tensor:
        """Final norm and unembedding, at `positions` of the target only where given, and of these `tokens` only: Float[batch read d_vocab]."""
        return self.predict(state.decoder, positions, tokens=tokens)

    def replay(self, *inputs: Tensor | None, keep: bool = False, shared: int = 0) -> Replay:
        """A clean pass in whose middle edited passes can start; with `keep` they need not compute again what the decoder reads of
        the encoder, nor the places before their edit. Nothing is `shared`: every target has its own source."""
        return Replay(self, inputs, keep=keep)

    def paths(self) -> Paths:
        """What each part reads of the residual stream, and what it adds to it."""
        return Paths(self)

    def predict(
        self, state: State, positions: Int[Tensor, "batch read"] | None = None, *, tokens: Int[Tensor, "batch answers"] | None = None
    ) -> Float[Tensor, "batch read d_vocab"]:
        """The same from the decoder's own state, as `decode` begins and the decoder's steps go on with it."""
        resid, real = state.resid, state.context.real
        if positions is not None:
            resid, real = pick(resid, positions), None
        return read_out(self.decoder.ln_final(resid, real), self.unembed, self.logits, tokens)

    def encode(
        self, source: Int[Tensor, "batch source"], source_mask: Bool[Tensor, "batch source"] | None = None
    ) -> Float[Tensor, "batch source d_model"]:
        """The encoder's final states."""
        return self.encoder.run(self.encoder.begin(source, source_mask))

    def decode(
        self, states: Float[Tensor, "batch source d_model"], source_mask: Bool[Tensor, "batch source"] | None,
        target: Int[Tensor, "batch pos"],
        target_mask: Bool[Tensor, "batch pos"] | None = None, cache: KeyValueCache | None = None,
    ) -> State:
        """The residual stream that enters the decoder's block 0. With a cache, the target tokens follow those that it holds."""
        places = torch.arange(max(states.shape[1], target.shape[1]), device=target.device).unsqueeze(0)
        all_real = source_mask is None or bool(source_mask.all())
        mask = attention_mask(places[:, : target.shape[1]], places[:, : states.shape[1]], None if all_real else source_mask, causal=False)
        return self.decoder.begin(target, target_mask, source=CrossSource(states, mask), cache=cache)

    def _with(self, state: Passage, encoder: State | None = None, decoder: State | None = None) -> Passage:
        return Passage(encoder or state.encoder, decoder or state.decoder, state.source_mask, state.target, state.target_mask)

    @property
    def n_layers(self) -> int:
        """How many blocks there are to step through, encoder and decoder together."""
        return self.encoder.config.n_layers + self.decoder.config.n_layers

    def step_of(self, site: str) -> int:
        """The step that a site belongs to: −1 before the encoder's block 0, `n_layers` behind the decoder's last block.

        The encoder's final norm and the target's embedding belong to the step that runs them, the decoder's block 0.
        """
        n, (side, _, name) = self.encoder.config.n_layers, site.partition(".")
        if side == "encoder":
            return min(step_in_stack(name, n), n)
        if side == "decoder":
            return n + max(step_in_stack(name, self.decoder.config.n_layers), 0)
        return self.n_layers

    @property
    def n_heads(self) -> int:
        """How many query heads every block of the decoder has."""
        return self.decoder.config.n_heads

    def n_heads_at(self, site: str) -> int:
        """How many heads a site with a head axis has, in its own stack."""
        return heads_in_stack(site, (self.encoder if site.startswith("encoder.") else self.decoder).config)

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding, a view; all other weights are below `encoder` and `decoder`. Raises ValueError without a head."""
        return unembedding(self, "W_U")

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        """The bias of the logits. Raises ValueError where there is none."""
        return unembedding(self, "b_U")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.decoder.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the parameters."""
        return self.decoder.dtype

    def sites(self) -> dict[str, Site]:
        """Everything that can be observed and edited: name → Site."""
        return {name: module for name, module in self.named_modules() if isinstance(module, Site)}

    def tokenize(
        self, texts: Sequence[str], target: Sequence[str] | None = None, pad: Pad = "right"
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the model is called with: source, target, source mask, target mask. Without `target`, the start token alone.

        Both follow their tokenizer's template; the target is what the decoder reads, with the start token and without the
        end token.

        Raises ValueError if there is no tokenizer, no start token, or another number of targets than texts.
        """
        if self.tokenizer is None:
            raise ValueError(f"{self.source.name} came without a tokenizer; set model.tokenizer, or pass token ids")
        if isinstance(target, str):
            raise ValueError(f"target must be a list of strings, got one string: put it in a list, [{target[:20]!r}]")
        if target is not None and len(target) != len(texts):
            raise ValueError(f"there must be one target for each of the {len(texts)} texts, got {len(target)}")
        writer = self.target_tokenizer or self.tokenizer
        source, source_mask = self.tokenizer.batch(texts, pad=pad, template=True, device=self.device)
        if target is None:
            written, target_mask = writer.starts(len(texts), device=self.device)
        else:
            written, target_mask = writer.targets(target, pad=pad, device=self.device)
        return source, written, source_mask, target_mask
