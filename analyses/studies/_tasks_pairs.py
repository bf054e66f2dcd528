"""How much can a network store? Every pair of two tokens has an answer drawn at random, so that nothing but memory helps."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from analyses.studies._training import BASE, Learnt, character_model, learn, recipe_of
from model import TransformerConfig
from model.training.objectives import Batch, Exercise
from model.training.randomness import generator_of

N = 64
"""first tokens, second tokens, and answers: 64² pairs of log2 64 bits each, more than a block of the studies' size remembers in their time"""
BITS = N * N * float(np.log2(N))
CONFIG = dataclasses.replace(BASE, d_vocab=2 * N, n_ctx=2, n_layers=1, d_model=32, n_heads=4, n_kv_heads=4, d_head=8, d_mlp=128)
"""one block with a feed-forward network; an arm changes its blocks"""


@dataclass(frozen=True, kw_only=True)
class AnswerOfPair:
    """At the second token of a pair: its answer, from a table Int[first second].

    >>> exercise = AnswerOfPair(answers=torch.arange(N * N).reshape(N, N) % N)((torch.tensor([[1, N + 3]]), None), torch.Generator())
    >>> exercise.answers[exercise.counted].item() == (N + 3) % N
    True
    """

    answers: Int[Tensor, "first second"]

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, _ = batch
        answer = self.answers[tokens[:, 0], tokens[:, 1] - N]
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, 1] = True
        return Exercise((tokens, None), answer[:, None].expand_as(tokens), counted)


def table_of(seed: int) -> Int[Tensor, "first second"]:
    """The answers, uniform and independent."""
    return torch.randint(N, (N, N), generator=generator_of(seed, "pairs"))


def all_pairs() -> Int[Tensor, "pair 2"]:
    """Every pair, the second token numbered from N on."""
    first, second = torch.meshgrid(torch.arange(N), torch.arange(N), indexing="ij")
    return torch.stack((first.flatten(), second.flatten() + N), dim=1)


def learn_pairs(config: TransformerConfig, *, seed: int, steps: int, batch: int = 256) -> tuple[Learnt, float]:
    """A model that reads all pairs again and again, and the share that it remembers."""
    objective, pairs = AnswerOfPair(answers=table_of(seed)), all_pairs()
    shuffled = pairs[torch.randperm(len(pairs), generator=generator_of(seed, "batches"))]
    lessons = [(part, None) for part in shuffled.split(batch)]
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=1e-2, weight_decay=0.0), seed=seed)
    learnt = learn(character_model(config, seed), lessons, objective, recipe, validation=lessons)
    exercise = objective((pairs, None), torch.Generator())
    with torch.no_grad():
        right = learnt.model(*exercise.inputs).argmax(-1) == exercise.answers
    return learnt, float(right[exercise.counted].double().mean())


def linear_share(seed: int, iterations: int) -> float:
    """The share that a linear model remembers: logits a[first] + b[second], by multinomial logistic regression with hardly any penalty."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    pairs, answers = all_pairs(), table_of(seed).flatten().numpy()
    told_apart = torch.nn.functional.one_hot(pairs, 2 * N).sum(1).double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the share is at its end long before the penalised loss is
        fitted = LogisticRegression(C=1e4, max_iter=iterations).fit(told_apart, answers)
    return float((fitted.predict(told_apart) == answers).mean())
