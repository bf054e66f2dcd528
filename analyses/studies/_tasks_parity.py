"""Has there been an odd number of ones so far? The smallest task that needs a state: every bit counts, however far back it lies.

A network of bounded depth whose weights on the bits are spread by a softmax moves its answer the less for one bit the more there
are; a recurrent one needs a single bit of memory (Hahn 2020; Bhattamishra et al. 2020). Every sequence begins with a token of
its own: a Transformer without a table of positions reads the mean of equal values from 1, 11 and 111 alike, so that it could
not tell them apart.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from analyses.studies._drawn import Drawn
from analyses.studies._recurrent import right, rival
from analyses.studies._training import BASE, Learnt, learn, recipe_of
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

TRAINED = 12
SPANS = {"1–6": (1, 6), "7–12": (7, 12), "13–24": (13, 24), "25–48": (25, 48)}
"""how many bits were read; sequences of training have 12"""
START = 2
CONFIG = dataclasses.replace(BASE, d_vocab=3, n_ctx=1 + 48, positions="rotary", embed_scale=BASE.d_model**0.5)
"""the model of this task; an arm changes its positions"""


@dataclass(frozen=True, kw_only=True)
class Bits(Drawn):
    """`n_batches` of (tokens, mask): a start and `length` random bits. Batch i is drawn from the seed and i alone.

    >>> tokens, _ = Bits(n_batches=1, batch=2, length=5, seed=0)[0]
    >>> tokens.shape, tokens[:, 0].tolist()
    (torch.Size([2, 6]), [2, 2])
    """

    n_batches: int
    batch: int
    length: int
    seed: int

    def drawn(self, i: int) -> Batch:
        bits = torch.randint(2, (self.batch, self.length), generator=generator_of(self.seed, "bits", i))
        tokens = torch.cat((torch.full((self.batch, 1), START), bits), dim=1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Parity:
    """At every bit: is the number of ones up to there odd?

    >>> exercise = Parity()((torch.tensor([[START, 1, 0, 1, 1]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([1, 1, 0, 1])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        bits = tokens != START
        return Exercise((tokens, mask), (tokens * bits).cumsum(1) % 2, bits)


def learn_parity(arm: str, *, seed: int, steps: int, n_test: int = 256) -> tuple[Learnt, dict[str, float]]:
    """A network that is taught the task on 12 bits, and its share of right answers in every span of 48."""
    lessons = Bits(n_batches=steps, batch=32, length=TRAINED, seed=seed)
    test = Bits(n_batches=1, batch=n_test, length=CONFIG.n_ctx - 1, seed=seed + 10_000)[0]
    model = rival(arm, CONFIG, seed)
    within = Bits(n_batches=1, batch=n_test, length=TRAINED, seed=seed + 20_000)
    learnt = learn(model, lessons, Parity(), dataclasses.replace(recipe_of(steps), seed=seed), validation=within)
    hits, _ = right(model, test, Parity())
    return learnt, {span: float(hits[:, first : 1 + last].double().mean()) for span, (first, last) in SPANS.items()}
