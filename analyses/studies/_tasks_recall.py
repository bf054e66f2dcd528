"""Can a token that lies far back be found? One marked token stands somewhere among random ones; the last place asks which it was.

A marked token is of a kind of its own, so that it is found by what it is, wherever it stands. Sequences of the trained length
have it anywhere; longer ones have it further back than any sequence of the training, so that a model that sees no further
than that answers by chance.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from analyses.studies._drawn import Drawn
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._training import BASE, Learnt, learn, recipe_of
from model.choices import Positions
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

TRAINED = 24
N_VALUES = 10
ASK = 2 * N_VALUES
CHANCE = 1 / N_VALUES
CONFIG = dataclasses.replace(
    BASE,
    d_vocab=2 * N_VALUES + 1,
    n_ctx=4 * TRAINED,
    max_distance=TRAINED // 2,
    n_buckets=TRAINED // 2,
    d_model=32,
    n_heads=2,
    n_kv_heads=2,
    d_mlp=64,
    embed_scale=32**0.5,
    positions="rotary",
)
"""the model of this task; an arm changes its positions. Distances that learn together begin at half the trained length, so that what a longer sequence reads was trained"""


@dataclass(frozen=True, kw_only=True)
class Marked(Drawn):
    """`n_batches` of (tokens, mask): tokens from 0 to 9, one from 10 to 19 among them, and a question at the end.

    The marked one is at least `least` tokens before the end. Batch i is drawn from the seed and i alone.

    >>> tokens, _ = Marked(n_batches=1, batch=2, length=8, least=2, seed=0)[0]
    >>> ((tokens >= 10) & (tokens < 20)).sum(1).tolist(), tokens[:, -1].tolist()
    ([1, 1], [20, 20])
    """

    n_batches: int
    batch: int
    length: int
    least: int
    seed: int

    def drawn(self, i: int) -> Batch:
        generator = generator_of(self.seed, "marked", self.length, i)
        tokens = torch.randint(N_VALUES, (self.batch, self.length), generator=generator)
        place = torch.randint(self.length - self.least, (self.batch, 1), generator=generator)
        tokens = tokens.scatter(1, place, torch.randint(N_VALUES, 2 * N_VALUES, (self.batch, 1), generator=generator))
        tokens[:, -1] = ASK
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class WhichMarked:
    """At the last place: which marked token was there?

    >>> exercise = WhichMarked()((torch.tensor([[3, 15, 5, ASK]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([15])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        marked = tokens.masked_fill(tokens == ASK, 0).max(1, keepdim=True).values
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, -1] = True
        return Exercise((tokens, mask), marked.expand_as(tokens), counted)


def learn_recall(positions: Positions, *, seed: int, steps: int, n_test: int = 200) -> tuple[Learnt, dict[str, float]]:
    """A model that is taught the task, and its share of right answers at the trained length, at twice and at four times it."""
    lessons = Marked(n_batches=steps, batch=32, length=TRAINED, least=2, seed=seed)
    lengths = {"within": (TRAINED, 2), "twice": (2 * TRAINED, TRAINED), "far": (4 * TRAINED, 2 * TRAINED)}
    tests = {
        name: Marked(n_batches=1, batch=n_test, length=length, least=least, seed=seed + 10_000)[0]
        for name, (length, least) in lengths.items()
    }
    model = started_as_in_the_paper(dataclasses.replace(CONFIG, positions=positions), seed)
    learnt = learn(model, lessons, WhichMarked(), dataclasses.replace(recipe_of(steps), seed=seed), validation=[tests["within"]])
    return learnt, {name: _right(model, test) for name, test in tests.items()}


@torch.no_grad()
def _right(model: torch.nn.Module, batch: Batch) -> float:
    exercise = WhichMarked()(batch, torch.Generator())
    right = model(*exercise.inputs).argmax(-1) == exercise.answers
    return float(right[exercise.counted].double().mean())
