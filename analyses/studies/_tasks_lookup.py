"""Which value belongs to the key that is asked for? A dictionary of pairs and a question: what one head of attention is made for.

A pair is one token, so that a single layer can look it up: it is found by its key and read for its value. Keys of a sequence
differ, values are drawn anew each time, so that nothing but the right place tells the answer.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.studies._drawn import Drawn
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import Learnt, learn, recipe_of
from model import TransformerConfig
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N_KEYS, N_VALUES, N_PAIRS = 8, 4, 6
CONFIG = dataclasses.replace(
    PAPER, d_vocab=N_KEYS * N_VALUES + N_KEYS, n_ctx=N_PAIRS + 1, n_layers=1, n_heads=1, n_kv_heads=1, d_head=64, d_mlp=0, causal=False,
    positions="none", tied_embeddings=False,
)  # fmt: skip
"""the model of this task: one layer, one head, no positions, no feed-forward network; an arm changes a field"""


def commonest(n_pairs: int = N_PAIRS, n_values: int = N_VALUES) -> float:
    """Share of right answers, over all dictionaries, of one that names the commonest value: all that is known without the right place.

    >>> commonest(n_pairs=1), commonest(n_pairs=2, n_values=2), round(commonest(), 3)
    (1.0, 0.75, 0.47)
    """
    drawn = itertools.product(range(n_values), repeat=n_pairs)
    return sum(max(map(values.count, values)) for values in drawn) / (n_pairs * n_values**n_pairs)


@dataclass(frozen=True, kw_only=True)
class Dictionaries(Drawn):
    """`n_batches` of (tokens, mask): pairs, token key · 4 + value, then the question, token 32 + key. Batch i is drawn from the seed and i alone.

    >>> tokens, _ = Dictionaries(n_batches=1, batch=1, seed=0)[0]
    >>> int(tokens[0, -1]) - N_KEYS * N_VALUES in (tokens[0, :-1] // N_VALUES).tolist()
    True
    """

    n_batches: int
    batch: int
    seed: int

    def drawn(self, i: int) -> Batch:
        generator = generator_of(self.seed, "dictionaries", i)
        keys = torch.rand(self.batch, N_KEYS, generator=generator).argsort(1)[:, :N_PAIRS]
        values = torch.randint(N_VALUES, keys.shape, generator=generator)
        asked = keys.gather(1, torch.randint(N_PAIRS, (self.batch, 1), generator=generator))
        tokens = torch.cat((keys * N_VALUES + values, N_KEYS * N_VALUES + asked), dim=1)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


def relevant(tokens: Tensor) -> Tensor:
    """The place of the pair that is asked for, Int[batch 1].

    >>> relevant(torch.tensor([[3 * N_VALUES + 1, 5 * N_VALUES, N_KEYS * N_VALUES + 5]])).tolist()
    [[1]]
    """
    asked = tokens[:, -1:] - N_KEYS * N_VALUES
    return (tokens[:, :-1] // N_VALUES == asked).long().argmax(1, keepdim=True)


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """At the last place: the value of the key that is asked for.

    >>> exercise = Lookup()((torch.tensor([[3 * N_VALUES + 1, 5 * N_VALUES + 3, N_KEYS * N_VALUES + 5]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([3])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        value = tokens.gather(1, relevant(tokens)) % N_VALUES
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, -1] = True
        return Exercise((tokens, mask), value.expand_as(tokens), counted)


def dictionaries(n: int, seed: int) -> Tensor:
    """New ones, Int[n pos], which no training reads."""
    return Dictionaries(n_batches=1, batch=n, seed=seed + 10_000)[0][0]


def learn_lookup(config: TransformerConfig, *, seed: int, steps: int, n_held_out: int = 256) -> Learnt:
    """A model that is taught the task."""
    lessons = Dictionaries(n_batches=steps, batch=64, seed=seed)
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=5e-3), seed=seed)
    return learn(started_as_in_the_paper(config, seed), lessons, Lookup(), recipe, validation=[(dictionaries(n_held_out, seed), None)])


@torch.no_grad()
def right_answers(model: torch.nn.Module, tokens: Tensor) -> float:
    """Share of the dictionaries whose value is found."""
    exercise = Lookup()((tokens, None), torch.Generator())
    return float((model(tokens).argmax(-1) == exercise.answers)[exercise.counted].double().mean())
