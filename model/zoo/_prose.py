"""What do the language models of the zoo read? Windows of the prose that ships with prosect; its last tenth is held out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from model.training.objectives import Batch
from model.training.randomness import generator_of

FILE = "prose.txt"
HELD_OUT = 0.1


def halves() -> tuple[str, str]:
    """The prose to learn from, and the prose that is held out: the paragraphs that begin in the last tenth.

    >>> [len(text) for text in halves()]
    [197641, 21530]
    """
    words = (Path(__file__).parent / "data" / FILE).read_text(encoding="utf-8")
    cut = words.index("\n\n", int(len(words) * (1 - HELD_OUT))) + 2
    return words[:cut], words[cut:]


class RandomWindows(Sequence[Batch]):
    """`n_batches` of (tokens, mask): pieces of a long sequence that begin anywhere; batch i is drawn from the seed and i alone.

    `ends` are tokens that stand before and behind every piece (BERT's [CLS] and [SEP]).
    """

    def __init__(
        self, tokens: Int[Tensor, "pos"], *, n_batches: int, batch: int, length: int, seed: int, ends: tuple[int, int] | None = None
    ) -> None:
        if len(tokens) < length:
            raise ValueError(f"a window takes {length} tokens, but the text has {len(tokens)}")
        self.tokens, self.n_batches, self.batch, self.length, self.seed, self.ends = tokens, n_batches, batch, length, seed, ends

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < self.n_batches:
            raise IndexError(i)
        starts = torch.randint(len(self.tokens) - self.length + 1, (self.batch, 1), generator=generator_of(self.seed, "windows", i))
        return with_ends(self.tokens[starts + torch.arange(self.length)], self.ends)


def chunks(tokens: Int[Tensor, "pos"], *, batch: int, length: int, ends: tuple[int, int] | None = None) -> list[Batch]:
    """The whole sequence once, in pieces of `length` without overlap, `batch` at a time; what is left over is left out."""
    n = len(tokens) // length
    pieces = tokens[: n * length].reshape(n, length)
    return [with_ends(piece, ends) for piece in pieces.split(batch)]


def with_ends(windows: Int[Tensor, "batch pos"], ends: tuple[int, int] | None) -> Batch:
    """(tokens, mask), with a token before and behind each row where asked for."""
    if ends is not None:
        first, last = (windows.new_full((len(windows), 1), end) for end in ends)
        windows = torch.cat((first, windows, last), dim=1)
    return windows, torch.ones_like(windows, dtype=torch.bool)


def bigram_loss(seen: Sequence[int], batches: Sequence[Batch], d_vocab: int, *, smoothing: float = 0.1) -> float:
    """Nats per token of P(next | this) = (count + smoothing) / (count of this + smoothing · d_vocab), counted in `seen`.

    >>> round(bigram_loss([0, 1] * 50, [(torch.tensor([[0, 1, 0]]), None)], d_vocab=2), 3)
    0.002
    """
    pairs, firsts = Counter(zip(seen[:-1], seen[1:], strict=True)), Counter(seen[:-1])
    asked = [pair for tokens, _ in batches for row in tokens.tolist() for pair in zip(row[:-1], row[1:], strict=True)]
    p = ((pairs[pair] + smoothing) / (firsts[pair[0]] + smoothing * d_vocab) for pair in asked)
    return -sum(map(math.log, p)) / len(asked)


def unigram_loss(seen: Sequence[int], asked: Sequence[int], d_vocab: int, *, smoothing: float = 0.1) -> float:
    """Nats per token of P(token) = (count + smoothing) / (all + smoothing · d_vocab), counted in `seen`.

    >>> round(unigram_loss([0, 1], [0, 1], d_vocab=2) / math.log(2), 3)
    1.0
    """
    counts = Counter(seen)
    return -sum(math.log((counts[token] + smoothing) / (len(seen) + smoothing * d_vocab)) for token in asked) / len(asked)
