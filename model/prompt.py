"""What has been read so far, and what comes next by the model? A prompt that grows, with the keys and values of its tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.checkpoint import Model
from model.context import KeyValueCache
from model.encoder_decoder import EncoderDecoder
from model.inputs import check_inputs
from model.stack import Stack, State
from model.tokenizer import Tokenizer
from model.windows import Windows


@dataclass(frozen=True)
class Prompt:
    """The decoder's tokens, padded on either side, and what the encoder made of the source, if there is one.

    `last` is the place of each row's last real token, from which the next one is predicted. The cache, where there is one,
    changes as tokens are read.
    """

    tokens: Int[Tensor, "rows pos"]
    mask: Bool[Tensor, "rows pos"]
    last: Int[Tensor, "rows"]
    windows: Windows
    cache: KeyValueCache | None = None
    states: Float[Tensor, "rows source d_model"] | None = None
    source_mask: Bool[Tensor, "rows source"] | None = None

    def repeat(self, n: int) -> Prompt:
        """Each row n times, one beside the other, before anything has been read."""
        if n == 1:
            return self
        tensors = ("tokens", "mask", "last", "states", "source_mask")
        values = {name: value for name in tensors if (value := getattr(self, name)) is not None}
        return replace(self, **{name: value.repeat_interleave(n, dim=0) for name, value in values.items()})

    def select(self, rows: Int[Tensor, "rows"]) -> Prompt:
        """Go on with these rows, each in the place of one that has the same source."""
        if self.cache is not None:
            self.cache.select(rows)
        return replace(self, tokens=self.tokens[rows], mask=self.mask[rows], last=self.last[rows])

    def followed_by(self, tokens: Int[Tensor, "rows"], real: Bool[Tensor, "rows"]) -> Prompt:
        """The same with one more token in each row, which is padding where `real` is False."""
        place = self.tokens.shape[1]
        return replace(
            self, tokens=torch.cat((self.tokens, tokens.unsqueeze(1)), dim=1), mask=torch.cat((self.mask, real.unsqueeze(1)), dim=1),
            last=torch.full_like(self.last, place),
        )

    def next_logits(self, model: Model) -> Float[Tensor, "rows d_vocab"]:
        """Read what is new, or everything if there is no cache; the logits of the next token."""
        n_read = 0 if self.cache is None else self.cache.n_read
        tokens, mask = self.tokens[:, n_read:], self.mask[:, n_read:]
        with self.windows.at(n_read):
            if isinstance(model, EncoderDecoder):
                state = self._through(model.decoder, model.decode(self.states, self.source_mask, tokens, mask, self.cache))
                return self._at_last(lambda positions: model.predict(state, positions), n_read)
            state = self._through(model, model.start(tokens, mask, cache=self.cache))
            return self._at_last(lambda positions: model.finish(state, positions), n_read)

    @staticmethod
    def _through(stack: Stack, state: State) -> State:
        for i in range(stack.config.n_layers):
            state = stack.step(state, i)
        return state

    def _at_last(self, finish: Callable[[Tensor | None], Tensor], n_read: int) -> Float[Tensor, "rows d_vocab"]:
        """What `finish` gives at each row's last real token; it computes the other places only if somebody observes them."""
        positions = (self.last - n_read).unsqueeze(1)  # rows 1
        if not self.windows.reads_end:
            return finish(positions)[:, 0]
        logits = finish(None)  # rows pos d_vocab
        return logits[torch.arange(len(logits), device=logits.device), positions[:, 0]]


def read_prompt(
    model: Model, inputs: Tensor | tuple[Tensor, ...] | Sequence[str], *, n_new: int, n_beams: int, writer: Tokenizer | None,
    use_cache: bool,
) -> Prompt:
    """The prompt that `inputs` (texts, or what the model is called with) make, each row `n_beams` times; the encoder of an
    encoder-decoder is run.

    Raises ValueError for inputs that the model cannot read, a prompt without a real token, and one that leaves no room for
    `n_new` tokens, of which the last is never read.
    """
    two_stacks = isinstance(model, EncoderDecoder)
    if isinstance(inputs, str) or (not isinstance(inputs, Tensor) and all(isinstance(text, str) for text in inputs)):
        inputs = model.tokenize(inputs)
    given = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    most = 4 if two_stacks else 2
    if not 1 <= len(given) <= most:
        names = "(source, target, source_mask, target_mask)" if two_stacks else "(tokens, mask)"
        raise ValueError(f"the inputs of this model are {names}, got {len(given)} values")
    given += (None,) * (most - len(given))
    source, tokens, source_mask, mask = given if two_stacks else (None, given[0], None, given[1])
    if two_stacks and tokens is None:
        if writer is None:
            raise ValueError("a source alone needs a tokenizer that knows the start token, got none; pass (source, target)")
        tokens, mask = writer.starts(len(source), device=model.device)
    config = model.config.decoder if two_stacks else model.config
    real = check_inputs(tokens, mask, d_vocab=config.d_vocab, n_ctx=config.n_ctx)
    mask = torch.ones_like(tokens, dtype=torch.bool) if real is None else real
    _check_room(mask, n_new, config.n_ctx)
    places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    if two_stacks and len(source) != len(tokens):
        raise ValueError(f"source and target must have the same number of examples, got {len(source)} and {len(tokens)}")
    states = model.encode(source, source_mask) if two_stacks else None
    n_source = 0 if states is None else states.shape[1]
    windows = Windows.of(model, tokens.shape[1] + n_new - 1, n_source=n_source, n_beams=n_beams)
    last = places.masked_fill(~mask, -1).amax(1)
    return Prompt(tokens.long(), mask, last, windows, KeyValueCache() if use_cache else None, states, source_mask).repeat(n_beams)


def _check_room(mask: Bool[Tensor, "batch pos"], n_new: int, n_ctx: int) -> None:
    length = mask.sum(1)
    if not bool(length.all()):
        raise ValueError(f"every prompt must have at least one real token, row {int(length.argmin())} has none")
    if (longest := int(length.max())) + n_new - 1 > n_ctx:
        raise ValueError(f"the context holds {n_ctx} tokens (n_ctx={n_ctx}), too few for a prompt of {longest} and {n_new} new ones")
