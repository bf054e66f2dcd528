"""What does a small network learn here? One recipe for all arms of a study: the same data in the same order, its loss, its size, its cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import nn

from analyses.studies._jobs import CpuClock
from model import Transformer, TransformerConfig
from model.training import CausalLM, Recipe, evaluate, train
from model.training.objectives import Batch, Objective
from model.zoo import _characters
from model.zoo._prose import RandomWindows, bigram_loss, chunks

BASE = TransformerConfig(
    family="study", n_layers=2, d_model=64, n_heads=4, d_head=16, d_mlp=256, d_vocab=len(_characters.characters().backend.get_vocab()), n_ctx=64,
    positions="learned", norm="layer", norm_place="pre", activation="gelu",
)  # fmt: skip
"""The character model of the studies; an arm is `dataclasses.replace(BASE, …)`."""
RECIPE = Recipe(steps=250, learning_rate=3e-3, warmup=25, decay="cosine", betas=(0.9, 0.99), weight_decay=0.01)
LENGTH, BATCH = 32, 16


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A trained network, what it reached, and what that took."""

    model: nn.Module
    history: pd.DataFrame
    loss: float
    """nats per token that is held out"""
    n_parameters: int
    flops: float
    """of the training: 6 · weights of products · tokens (Kaplan et al. 2020), the unembedding among them, attention's own products left out"""
    cpu_seconds: float


def learn(
    model: nn.Module, batches: Sequence[Batch], objective: Objective, recipe: Recipe, *, validation: Sequence[Batch]
) -> Learnt:
    """Train in place. Whatever is drawn comes from the recipe's seed; with its `evaluate_every` the history has `validation_loss`, too."""
    clock = CpuClock()
    history = train(model, batches, objective, recipe, validation=validation if recipe.evaluate_every else ())
    seconds = clock.seconds()
    model.eval()
    read = sum(int(batches[i][0].numel()) for i in range(min(len(batches), recipe.steps)))
    with torch.no_grad():
        loss = evaluate(model, validation, objective, recipe)
    return Learnt(
        model=model, history=history, loss=loss, n_parameters=sum(p.numel() for p in model.parameters()),
        flops=6.0 * weights_of_products(model) * read, cpu_seconds=seconds,
    )  # fmt: skip


def weights_of_products(model: nn.Module) -> int:
    """Weights that a token is multiplied by: of linear maps, a tied unembedding among them, and of recurrent cells; not what is looked up.

    >>> from model import LSTMConfig, LSTMLanguageModel
    >>> lstm = LSTMLanguageModel(LSTMConfig(n_layers=1, d_model=8, d_vocab=10))
    >>> weights_of_products(Transformer(BASE)) == 2 * 12 * 64**2 + BASE.d_vocab * 64, weights_of_products(lstm) == 8 * 8**2 + 10 * 8
    (True, True)
    """
    linear = sum(module.weight.numel() for module in model.modules() if isinstance(module, nn.Linear))
    cells = [p for module in model.modules() if isinstance(module, nn.RNNBase) for p in module.parameters()]
    return linear + sum(p.numel() for p in cells if p.dim() > 1)


def character_model(config: TransformerConfig, seed: int) -> Transformer:
    """The untrained character model of an arm; arms of one seed and one shape have the same weights."""
    return Transformer(config, generator=torch.Generator().manual_seed(seed))


def learn_characters(
    model: nn.Module, *, seed: int, recipe: Recipe = RECIPE, length: int = LENGTH, batch: int = BATCH, n_held_out: int | None = 64
) -> Learnt:
    """A character model trained on the shipped prose. Arms of one seed read the same windows in the same order.

    `n_held_out` pieces of the held-out prose are read in the end (None: all).
    """
    recipe = dataclasses.replace(recipe, seed=seed)
    return learn(model, windows(recipe.steps, length, batch, seed), CausalLM(), recipe, validation=held_out(length, n_held_out))


def recipe_of(steps: int, **changes: Any) -> Recipe:
    """The studies' recipe with so many steps, a tenth of them warm-up, and whatever else an arm changes."""
    return dataclasses.replace(RECIPE, steps=steps, warmup=changes.pop("warmup", steps // 10), **changes)


def windows(steps: int, length: int = LENGTH, batch: int = BATCH, seed: int = 0) -> RandomWindows:
    """What is read in training: windows of the first nine tenths of the prose."""
    return RandomWindows(_characters.prose_tokens(0), n_batches=steps, batch=batch, length=length, seed=seed)


def held_out(length: int = LENGTH, n: int | None = None) -> list[Batch]:
    """The first n pieces (None: all) of the last tenth, 64 in a batch."""
    tokens = _characters.prose_tokens(1)
    return chunks(tokens if n is None else tokens[: n * length], batch=64, length=length)


def bigram(length: int = LENGTH, n: int | None = None) -> float:
    """Nats per character of the bigram model on the same pieces: what any character model must beat."""
    return bigram_loss(_characters.prose_tokens(0).tolist(), held_out(length, n), BASE.d_vocab)
