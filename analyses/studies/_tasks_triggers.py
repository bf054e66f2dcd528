"""Which tokens decide the answer? A class that one or two marked tokens decide, wherever they stand among others that say nothing.

The cause of every answer is known by construction, so that whatever claims to explain it can be marked right or wrong.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from analyses.studies._drawn import Drawn
from analyses.studies._recurrent import right
from analyses.studies._training import BASE, Learnt, character_model, learn, recipe_of
from model import TransformerConfig
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N_PLAIN, N_CLASSES, LENGTH = 12, 4, 16
"""tokens that say nothing, tokens that decide, and places before the question"""
ASK = N_PLAIN + N_CLASSES
CONFIG = dataclasses.replace(
    BASE, d_vocab=ASK + 1, n_ctx=LENGTH + 1, causal=False, d_model=64, embed_scale=8.0, tied_embeddings=False, positions="none"
)
"""the model of this task, without positions, since places say nothing; an arm changes its layers"""


@dataclass(frozen=True, kw_only=True)
class Triggers(Drawn):
    """`n_batches` of (tokens, mask): tokens from 0 to 11, among them `n_triggers` from 12 to 15, and the question 16 at the end.

    Batch i is drawn from the seed and i alone.

    >>> tokens, _ = Triggers(n_batches=1, batch=3, n_triggers=2, seed=0)[0]
    >>> decisive(tokens).sum(1).tolist()
    [2, 2, 2]
    """

    n_batches: int
    batch: int
    n_triggers: int
    seed: int

    def drawn(self, i: int) -> Batch:
        generator = generator_of(self.seed, "triggers", self.n_triggers, i)
        tokens = torch.randint(N_PLAIN, (self.batch, LENGTH), generator=generator)
        places = torch.rand(self.batch, LENGTH, generator=generator).argsort(1)[:, : self.n_triggers]
        tokens = tokens.scatter(1, places, torch.randint(N_PLAIN, ASK, places.shape, generator=generator))
        tokens = torch.cat((tokens, torch.full((self.batch, 1), ASK)), dim=1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


def decisive(tokens: Tensor) -> Bool[Tensor, "batch pos"]:
    """The tokens that decide."""
    return (tokens >= N_PLAIN) & (tokens < ASK)


def classes(tokens: Tensor) -> Tensor:
    """The right answers, tokens from 12 to 15: the sum of the triggers' numbers, modulo 4. Int[batch].

    >>> classes(torch.tensor([[3, 13, 5, 15, 15, 16]])) - N_PLAIN
    tensor([3])
    """
    return N_PLAIN + ((tokens - N_PLAIN) * decisive(tokens)).sum(1) % N_CLASSES


@dataclass(frozen=True, kw_only=True)
class Class:
    """At the question: the class.

    >>> exercise = Class()((torch.tensor([[3, 14, 5, 16]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([14])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        return Exercise((tokens, mask), classes(tokens).unsqueeze(1).expand_as(tokens), tokens == ASK)


def learn_triggers(config: TransformerConfig, n_triggers: int, *, seed: int, steps: int, n_test: int = 256) -> tuple[Learnt, float]:
    """A model that is taught the task, and its share of right answers on new sequences."""
    lessons = Triggers(n_batches=steps, batch=64, n_triggers=n_triggers, seed=seed)
    test = Triggers(n_batches=1, batch=n_test, n_triggers=n_triggers, seed=seed + 10_000)
    learnt = learn(character_model(config, seed), lessons, Class(), dataclasses.replace(recipe_of(steps), seed=seed), validation=test)
    hits, asked = right(learnt.model, test[0], Class())
    return learnt, float(hits[asked].double().mean())
