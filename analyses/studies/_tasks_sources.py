"""Which were the last m tokens, each by its place? One query that has to gather several sources at once and keep them apart.

Every place is asked for one of the m tokens before it, which one being drawn anew and not told, so that it has to know all of
them, and in order. Positions are relative biases on the scores, one for each head and offset, so that where to look is easy to
learn; what is hard is to tell apart what was read.
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

N_TOKENS = 16
TEXT_LENGTH = 16
CHANCE = 1 / N_TOKENS
RATE = 1e-2
"""at which one head learns, within 1,500 updates, to tell two sources apart; at 0.03 it does not within 3,000"""
LOWER_RATE = 3e-3
"""at which one head begins to tell four sources apart; at 0.01, within 6,000 updates, and at 0.001, within 4,000, it knows them without their order"""


def config_of(n_heads: int, n_sources: int) -> TransformerConfig:
    """One layer of width 64 with so many heads of width 64 / n_heads; there is an answer for every source and token."""
    return dataclasses.replace(
        PAPER, d_vocab=N_TOKENS * n_sources, n_ctx=TEXT_LENGTH, n_layers=1, n_heads=n_heads, n_kv_heads=n_heads, d_head=64 // n_heads, positions="t5",
        tied_embeddings=False,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RandomTokens(Drawn):
    """`n_batches` of (tokens, mask): tokens drawn alike from 0 to 15. Batch i is drawn from the seed and i alone."""

    n_batches: int
    batch: int
    seed: int

    def drawn(self, i: int) -> Batch:
        tokens = torch.randint(N_TOKENS, (self.batch, TEXT_LENGTH), generator=generator_of(self.seed, "random tokens", i))
        return tokens, torch.ones_like(tokens, dtype=torch.bool)


def source(tokens: Tensor, i: int) -> Tensor:
    """The token that stands i + 1 places before, Int[batch pos]; the first places have none and hold something else.

    >>> source(torch.tensor([[5, 6, 7]]), 1)[0, 2]
    tensor(5)
    """
    return tokens.roll(i + 1, dims=1)


@dataclass(frozen=True, kw_only=True)
class OneOfSources:
    """At every place that has all its sources: one of them, drawn; answer source · 16 + token.

    >>> exercise = OneOfSources(n_sources=1)((torch.tensor([[5, 6, 7]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([5, 6])
    """

    n_sources: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        every = torch.stack([source(tokens, i) + i * N_TOKENS for i in range(self.n_sources)])  # source batch pos
        asked = torch.randint(self.n_sources, (1, *tokens.shape), generator=generator)
        counted = torch.ones_like(tokens, dtype=torch.bool)
        counted[:, : self.n_sources] = False
        return Exercise((tokens, mask), every.gather(0, asked)[0], counted)


def learn_sources(n_heads: int, n_sources: int, *, seed: int, steps: int, rate: float = RATE, n_held_out: int = 64) -> tuple[Learnt, float]:
    """A model that is taught the task, and the share of sources that it names on new sequences, all sources of every place being asked for."""
    lessons = RandomTokens(n_batches=steps, batch=32, seed=seed)
    test = RandomTokens(n_batches=1, batch=n_held_out, seed=seed + 10_000)[0]
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=rate), seed=seed)
    model = started_as_in_the_paper(config_of(n_heads, n_sources), seed)
    learnt = learn(model, lessons, OneOfSources(n_sources=n_sources), recipe, validation=[test])
    return learnt, _named(model, test[0], n_sources)


@torch.no_grad()
def _named(model: torch.nn.Module, tokens: Tensor, n_sources: int) -> float:
    """Share of sources whose token has the largest logit among the answers of that source."""
    logits = model(tokens).unflatten(-1, (n_sources, N_TOKENS))[:, n_sources:]  # batch pos source token
    right = torch.stack([logits[:, :, i].argmax(-1) == source(tokens, i)[:, n_sources:] for i in range(n_sources)])
    return float(right.double().mean())
