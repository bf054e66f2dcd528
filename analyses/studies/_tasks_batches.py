"""What stands together in a batch? Sequences of one length or of many, of one kind of text or of several: what batch norm depends on."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor, nn

from analyses.studies._training import BASE, held_out, windows
from model.training import CausalLM, token_loss
from model.training.objectives import Batch, Exercise, Objective
from model.training.randomness import generator_of
from model.zoo import pronunciations

KINDS = ("prose", "phonemes", "numbers")
N_PHONEMES = 40
"""39 and a mark between words"""
D_VOCAB = BASE.d_vocab + N_PHONEMES + 11
"""the kinds share no token: characters of the prose, phonemes, and digits with a blank"""


@dataclass(frozen=True, kw_only=True)
class Varied(Sequence[Batch]):
    """Batches whose rows are cut to random lengths from `least` on, equally often; what is cut off is padding at the end.

    >>> _, mask = Varied(batches=[(torch.zeros(3, 8, dtype=torch.long), None)], least=2, seed=0)[0]
    >>> mask.sum(1).tolist(), mask[:, 0].tolist()
    ([5, 3, 5], [True, True, True])
    """

    batches: Sequence[Batch]
    least: int
    seed: int

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Batch:
        tokens = self.batches[i][0]
        n, length = tokens.shape
        kept = torch.randint(self.least, length + 1, (n, 1), generator=generator_of(self.seed, "lengths", i))
        mask = torch.arange(length) < kept
        return tokens.masked_fill(~mask, 0), mask


@dataclass(frozen=True, kw_only=True)
class Kinds(Sequence[Batch]):
    """Windows of three kinds of text: all of a batch of one kind, the kinds in turn, or the kinds in turn within every batch.

    Either way as many windows of each, if their number is a multiple of three. Batch i is drawn from the seed and i alone.

    >>> [sorted({kind_of(row) for row in Kinds(n_batches=2, batch=3, length=4, mixed=mixed, seed=0)[1][0]}) for mixed in (False, True)]
    [['phonemes'], ['numbers', 'phonemes', 'prose']]
    """

    n_batches: int
    batch: int
    length: int
    mixed: bool
    seed: int

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < self.n_batches:
            raise IndexError(i)
        generator = generator_of(self.seed, "kinds", i)
        rows = []
        for row in range(self.batch):
            text = texts("train")[KINDS[(row if self.mixed else i) % len(KINDS)]]
            start = int(torch.randint(len(text) - self.length + 1, (1,), generator=generator))
            rows.append(text[start : start + self.length])
        tokens = torch.stack(rows)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class PadsUnmarked:
    """Every real token from those before it, by a model that is not told which tokens are pads.

    In a decoder they stand behind the real ones, which cannot look there: nothing but a norm over the batch is changed by them.

    >>> batch = torch.tensor([[5, 6, 0]]), torch.tensor([[True, True, False]])
    >>> exercise = PadsUnmarked()(batch, torch.Generator())
    >>> exercise.inputs[1], exercise.counted.tolist() == CausalLM()(batch, torch.Generator()).counted.tolist()
    (None, True)
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        exercise = CausalLM()(batch, generator)
        return Exercise((exercise.inputs[0], None), exercise.answers, exercise.counted)


def kind_of(row: Int[Tensor, "pos"]) -> str:
    """The kind of text that a row belongs to, by its first token."""
    first = int(row[0])
    return "prose" if first < BASE.d_vocab else "phonemes" if first < BASE.d_vocab + N_PHONEMES else "numbers"


@cache
def texts(part: str) -> dict[str, Int[Tensor, "pos"]]:
    """The text of each kind, "train" or "held out": prose, pronunciations of words, and numbers that are counted up."""
    prose = windows(1).tokens if part == "train" else torch.cat([tokens.flatten() for tokens, _ in held_out()])
    said = [variants[0].split() for variants in pronunciations(part).values()][:20_000]
    names = sorted({phoneme for variants in pronunciations().values() for phoneme in variants[0].split()})
    ids = {name: BASE.d_vocab + i for i, name in enumerate(names)}
    phonemes = [token for word in said for token in (*(ids[phoneme] for phoneme in word), BASE.d_vocab + N_PHONEMES - 1)]
    counted = [n for n in range(10_000, 30_000) if (n // 100 % 10 == 9) == (part != "train")]  # every tenth hundred is held out
    first = BASE.d_vocab + N_PHONEMES
    numbers = [first + (10 if sign == " " else int(sign)) for number in counted for sign in f"{number} "]
    return {"prose": prose, "phonemes": torch.tensor(phonemes), "numbers": torch.tensor(numbers)}


def pieces(kind: str, n: int, length: int) -> Batch:
    """The first n pieces of the held-out text of a kind."""
    tokens = texts("held out")[kind][: n * length].reshape(-1, length)
    return tokens, torch.ones_like(tokens, dtype=torch.bool)


@torch.no_grad()
def loss_in_training_mode(model: nn.Module, batches: Sequence[Batch], objective: Objective | None = None) -> float:
    """Nats per token where batch norm takes its statistics from the batch that is read, as in training. The model stays as it is."""
    model = deepcopy(model).train()  # running statistics move in this mode
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        exercise = (objective or CausalLM())(batch, torch.Generator())
        sums += torch.stack((token_loss(model(*exercise.inputs), exercise).double(), exercise.counted.sum()))
    return float(sums[0] / sums[1])
