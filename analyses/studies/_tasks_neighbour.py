"""Which token stands just before this one? A task that order alone can solve: the tokens of every sequence are the same, their order is not.

A sequence is a random permutation of the whole vocabulary, so that knowing which tokens are there says nothing: without
order nobody is right more often than once in n − 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.studies._drawn import Drawn
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._training import BASE, Learnt, character_model, learn, recipe_of
from model import TransformerConfig
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N_TOKENS = 12
CHANCE = 1 / (N_TOKENS - 1)
"""share of right answers of a guess among the other tokens"""
CONFIG = dataclasses.replace(BASE, d_vocab=N_TOKENS, n_ctx=N_TOKENS, n_layers=2)
"""the model of this task; an arm is `dataclasses.replace(CONFIG, …)`"""


@dataclass(frozen=True, kw_only=True)
class Permutations(Drawn):
    """`n_batches` of (tokens, mask): permutations of the vocabulary; batch i is drawn from the seed and i alone.

    >>> Permutations(n_batches=2, batch=1, seed=0)[1][0].sort().values.tolist() == [list(range(N_TOKENS))]
    True
    """

    n_batches: int
    batch: int
    seed: int

    def drawn(self, i: int) -> Batch:
        tokens = torch.rand(self.batch, N_TOKENS, generator=generator_of(self.seed, "permutations", i)).argsort(1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class Before:
    """At every place but the first: which token stands to its left?

    >>> Before()((torch.tensor([[5, 6, 7]]), None), torch.Generator()).answers
    tensor([[7, 5, 6]])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        counted = torch.ones_like(tokens, dtype=torch.bool)
        counted[:, 0] = False
        return Exercise((tokens, mask), tokens.roll(1, dims=1), counted)


def learn_neighbour(config: TransformerConfig, *, seed: int, steps: int, n_held_out: int = 256) -> tuple[Learnt, float]:
    """A model that is taught the task, and its share of right answers on new permutations; with a scale, embeddings start as the paper's."""
    lessons = Permutations(n_batches=steps, batch=32, seed=seed)
    test = Permutations(n_batches=1, batch=n_held_out, seed=seed + 10_000)[0]
    model = (character_model if config.embed_scale == 1.0 else started_as_in_the_paper)(config, seed)
    learnt = learn(model, lessons, Before(), dataclasses.replace(recipe_of(steps), seed=seed), validation=[test])
    exercise = Before()(test, torch.Generator())
    with torch.no_grad():
        right: Tensor = model(*exercise.inputs).argmax(-1) == exercise.answers
    return learnt, float(right[exercise.counted].double().mean())
