"""What does the next in the round hold? A directed relation between tokens, which one head can only follow if it tells next from previous.

The nodes stand in rounds of `size`: 0 → 1 → … → 0. A token is a node with something in its hand, drawn anew each time, and the
order in the sequence says nothing; so the answer at a node, what the next one holds, can only be had by looking there.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from analyses.studies._drawn import Drawn
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import Learnt, learn, recipe_of
from model import TransformerConfig
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N_NODES, N_HELD = 12, 4
CHANCE = 1 / N_HELD
CONFIG = dataclasses.replace(
    PAPER, d_vocab=N_NODES * N_HELD, n_ctx=N_NODES, n_layers=1, n_heads=1, n_kv_heads=1, d_head=64, d_mlp=0, causal=False, positions="none",
    tied_embeddings=False,
)  # fmt: skip
"""the model of this task: one layer, one head, no positions, no feed-forward network; an arm changes a field"""


def next_places(tokens: Tensor, size: int) -> Tensor:
    """Where the next node of the round stands, Int[batch pos].

    >>> next_places(torch.tensor([[2, 0, 1]]) * N_HELD, size=3).tolist()
    [[1, 2, 0]]
    """
    nodes = tokens // N_HELD
    following = nodes - nodes % size + (nodes % size + 1) % size
    return (nodes.unsqueeze(1) == following.unsqueeze(2)).long().argmax(-1)


@dataclass(frozen=True, kw_only=True)
class Rounds(Drawn):
    """`n_batches` of (tokens, mask): all nodes in random order, token node · 4 + what it holds. Batch i is drawn from the seed and i alone.

    >>> (Rounds(n_batches=1, batch=1, seed=0)[0][0] // N_HELD).sort().values.tolist() == [list(range(N_NODES))]
    True
    """

    n_batches: int
    batch: int
    seed: int

    def drawn(self, i: int) -> Batch:
        generator = generator_of(self.seed, "rounds", i)
        nodes = torch.rand(self.batch, N_NODES, generator=generator).argsort(1)
        tokens = nodes * N_HELD + torch.randint(N_HELD, nodes.shape, generator=generator)
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


@dataclass(frozen=True, kw_only=True)
class HeldByNext:
    """At every node: what the next of its round holds."""

    size: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        held = (tokens % N_HELD).gather(1, next_places(tokens, self.size))
        return Exercise((tokens, mask), held, torch.ones_like(tokens, dtype=torch.bool))


def learn_rounds(config: TransformerConfig, *, size: int, seed: int, steps: int) -> tuple[Learnt, Tensor]:
    """A model that is taught the task for rounds of one size, and new sequences to test it on."""
    lessons = Rounds(n_batches=steps, batch=32, seed=seed)
    test = Rounds(n_batches=1, batch=128, seed=seed + 10_000)[0]
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=5e-3), seed=seed)
    return learn(started_as_in_the_paper(config, seed), lessons, HeldByNext(size=size), recipe, validation=[test]), test[0]


@torch.no_grad()
def right_answers(model: torch.nn.Module, tokens: Tensor, size: int) -> float:
    """Share of the nodes at which it is right."""
    exercise = HeldByNext(size=size)((tokens, None), torch.Generator())
    return float((model(tokens).argmax(-1) == exercise.answers).double().mean())
