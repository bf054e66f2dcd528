"""Which examples go through the gates? A few of different lengths: text where there is enough of it, else random tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from analyses._anatomy import Inputs, Model, sides
from analyses._corpus import Corpus, CorpusError
from analyses._examples import examples
from model import EncoderDecoder


@dataclass(frozen=True)
class Examples:
    """Examples without padding: each is what the model is called with for it alone, (tokens,) or (source, target), of shape [1, pos]."""

    single: tuple[tuple[Tensor, ...], ...]
    kind: str
    """what the tokens are, for a reader"""

    @property
    def lengths(self) -> list[str]:
        """How long each example is, for a reader."""
        return [" → ".join(str(part.shape[1]) for part in one) for one in self.single]

    def batch(self, side: str) -> Inputs:
        """All examples in one batch, padded on that side: tokens and mask, or source, target and their masks.

        >>> one = Examples(((torch.tensor([[1, 2]]),), (torch.tensor([[3]]),)), "made")
        >>> [part.tolist() for part in one.batch("left")]
        [[[1, 2], [0, 3]], [[True, True], [False, True]]]
        """
        sequences = [[one[i][0] for one in self.single] for i in range(len(self.single[0]))]
        padded = [_padded(rows, side) for rows in sequences]
        return (*(tokens for tokens, _ in padded), *(mask for _, mask in padded))

    def first(self, n: int, length: int) -> Examples:
        """The first n examples, cut to `length` tokens."""
        return Examples(tuple(tuple(part[:, :length] for part in one) for one in self.single[:n]), self.kind)


def _padded(rows: list[Tensor], side: str) -> tuple[Tensor, Tensor]:
    longest = max(map(len, rows))
    tokens = rows[0].new_zeros(len(rows), longest)
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        tokens[i, place], mask[i, place] = row, True
    return tokens, mask


def chosen(model: Model, corpus: Corpus, n: int, length: int, *, seed: int) -> Examples:
    """`n` examples of different lengths, the first of at most `length` tokens, the others shorter."""
    try:
        if model.tokenizer is None:
            raise CorpusError("without a tokenizer there is no text")
        inputs = examples(model, corpus, n, length)
    except CorpusError:
        return _random(model, n, length, seed)
    if not isinstance(model, EncoderDecoder):
        return Examples(tuple((_shorter(row, i, length),) for i, row in enumerate(inputs[0])), "text")
    source, target, source_mask, target_mask = inputs
    pairs = zip(source, target, source_mask, target_mask, strict=True)
    return Examples(tuple((_shorter(s[sm], i, length), _shorter(t[tm], i, length)) for i, (s, t, sm, tm) in enumerate(pairs)), "text")


def _shorter(row: Tensor, i: int, length: int) -> Tensor:
    """Int[1, pos]: the row cut to `length`, example i to a share of 1/(1 + i/2) of it, at least one token."""
    n = min(len(row), length)
    return row[None, : max(1, 2 * n // (2 + i))]


def _random(model: Model, n: int, length: int, seed: int) -> Examples:
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(n):
        parts = (torch.randint(side.config.d_vocab, (min(length, side.config.n_ctx),), generator=generator) for side in sides(model))
        rows.append(tuple(_shorter(part.to(model.device), i, length) for part in parts))
    return Examples(tuple(rows), "random tokens")
