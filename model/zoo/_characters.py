"""What do the two character models share? Tokenizer, batches and their order, recipe and measurement: all but the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from model.checkpoint import Model
from model.tokenizer import Tokenizer
from model.training import CausalLM, Recipe, evaluate, train_characters
from model.training.objectives import Batch
from model.zoo._course import Course
from model.zoo._prose import FILE, RandomWindows, bigram_loss, chunks, halves

LENGTH = 128
BATCH = 32
DROPOUT = 0.1
RECIPE = Recipe(steps=800, learning_rate=3e-3, warmup=80, decay="cosine", betas=(0.9, 0.99), weight_decay=0.1)
DATA = (FILE,)
METHOD = (
    "AdamW on pieces of 128 characters from anywhere in the first nine tenths of the prose. chars and lstm have the same tokenizer, "
    "batches, order of batches, recipe, dropout, and number of weights within 1 %. Quality: nats per character over all pieces of 128 "
    "characters of the last tenth, the first character of each piece not counted; the bigram model counts pairs of characters in the "
    "first nine tenths (add 0.1)."
)


def course(build: Callable[[int], Model]) -> Course:
    """What a network is taught, whatever it is."""
    return Course(recipe=RECIPE, build=build, lessons=lessons, measure=measure, data=DATA, method=METHOD)


@cache
def characters() -> Tokenizer:
    """One token for each character of the prose that is learnt from."""
    return train_characters([halves()[0]])


def lessons(model: Model, seed: int) -> tuple[RandomWindows, CausalLM]:
    """128 characters from anywhere in the text, 32 times a step; the same for both models."""
    return RandomWindows(prose_tokens(0), n_batches=RECIPE.steps, batch=BATCH, length=LENGTH, seed=seed), CausalLM()


def measure(model: Model, n: int | None = None) -> dict[str, float]:
    """Nats per character of the held-out prose, in pieces of 128 characters of which the first n are read (None: all), and
    those of character pairs counted in the prose that was learnt from."""
    batches = held_out(n)
    seen = prose_tokens(0).tolist()
    return {
        "held_out_nats_per_character": evaluate(model, batches, CausalLM(), RECIPE),
        "bigram_nats_per_character": bigram_loss(seen, batches, len(characters().backend.get_vocab())),
        "n_held_out_characters": sum(tokens[:, 1:].numel() for tokens, _ in batches),
    }


def held_out(n: int | None = None) -> list[Batch]:
    """The first n pieces of the held-out prose."""
    tokens = prose_tokens(1)
    return chunks(tokens if n is None else tokens[: n * LENGTH], batch=BATCH, length=LENGTH)


@cache
def prose_tokens(half: int) -> Int[Tensor, "pos"]:
    """The characters of the prose: half 0 is learnt from, half 1 is held out."""
    return torch.tensor(characters().encode(halves()[half]))
