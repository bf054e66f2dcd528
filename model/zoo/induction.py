"""Induction: two attention layers that have learned to continue what they have seen before. How did they do it?"""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
import torch
import torch.nn.functional as F
from jaxtyping import Int
from tokenizers import models, pre_tokenizers
from torch import Tensor

from model.config import TransformerConfig
from model.tokenizer import Tokenizer
from model.training import CausalLM, Recipe
from model.training.objectives import Batch
from model.training.randomness import generator_of
from model.transformer import Transformer
from model.zoo._contract import ZooModel, read_shipped
from model.zoo._course import Course

SYLLABLES = tuple(onset + vowel + coda for onset in "bdfghjklmnprstvz" for vowel in "aeio" for coda in ("", "n", "r", "s"))
UNKNOWN = "<unk>"
N_CTX = 96
BATCH = 32
SHORTEST, LONGEST = 4, N_CTX // 2
"""tokens that are repeated"""
RECIPE = Recipe(steps=2500, learning_rate=2e-3, warmup=100, decay="cosine", betas=(0.9, 0.98), weight_decay=0.01)


def build(seed: int) -> Transformer:
    """The untrained model: no feed-forward network, rotary positions."""
    config = TransformerConfig(
        family="induction",
        n_layers=2,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_mlp=0,
        d_vocab=len(SYLLABLES) + 1,
        n_ctx=N_CTX,
        positions="rotary",
        tied_embeddings=False,
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer = syllables()
    return model


def syllables() -> Tokenizer:
    """256 syllables with blanks between them, one token each.

    >>> syllables().encode("ba ban zos what")
    [1, 2, 256, 0]
    """
    vocab = {word: i for i, word in enumerate([UNKNOWN, *SYLLABLES])}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return Tokenizer(backend)


class Repetitions(Sequence[Batch]):
    """`n_batches` of (tokens, None): random syllables; behind a beginning of any length, a piece of 4 to 48 of them again and again.

    Every row has its own length and place, so that no distance is worth learning. Batch i is drawn from the seed and i alone.
    """

    def __init__(self, *, n_batches: int, batch: int, seed: int) -> None:
        self.n_batches, self.batch, self.seed = n_batches, batch, seed

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < self.n_batches:
            raise IndexError(i)
        generator = generator_of(self.seed, "repetitions", i)
        period = torch.randint(SHORTEST, LONGEST + 1, (self.batch, 1), generator=generator)
        begin = (torch.rand(self.batch, 1, generator=generator) * (N_CTX - 2 * period + 1)).long()  # room for two at least
        places = torch.arange(N_CTX)
        source = torch.where(places < begin, places, begin + (places - begin) % period)  # batch pos
        return random_syllables(self.batch, N_CTX, generator).gather(1, source), None


def random_syllables(batch: int, pos: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """Any syllable anywhere, with equal probability."""
    return torch.randint(1, len(SYLLABLES) + 1, (batch, pos), generator=generator)


def repeated(n: int, length: int, generator: torch.Generator) -> Int[Tensor, "batch pos"]:
    """n random sequences of that length, each twice in a row."""
    return random_syllables(n, length, generator).repeat(1, 2)


def lessons(model: Transformer, seed: int) -> tuple[Repetitions, CausalLM]:
    """Sequences that repeat themselves, never the same twice."""
    return Repetitions(n_batches=RECIPE.steps, batch=BATCH, seed=seed), CausalLM()


@torch.no_grad()
def measure(model: Transformer, n: int | None = None) -> dict[str, float]:
    """Nats per token in both halves of n fresh sequences of 48 syllables, each twice in a row (None: 512 of them).

    The second half begins with a token that nothing foretells; it counts all the same.
    """
    n, half = n or 512, N_CTX // 2
    tokens = repeated(n, half, generator_of(0, "measure"))
    loss = torch.cat([F.cross_entropy(model(rows)[:, :-1].transpose(1, 2), rows[:, 1:], reduction="none") for rows in tokens.split(BATCH)])
    first, second = float(loss[:, : half - 1].mean()), float(loss[:, half - 1 :].mean())
    return {"second_half_over_first": second / first, "first_half_nats": first, "second_half_nats": second, "n_sequences": n}


COURSE = Course(
    recipe=RECIPE,
    build=build,
    lessons=lessons,
    measure=measure,
    method=(
        "AdamW on random syllables, drawn anew in every step: behind a beginning of any length a piece of 4 to 48 of them again and again, "
        "in every row another length and place. Quality: mean loss in the second half of fresh sequences of 2 · 48 syllables over that in "
        "the first half; the first token of the second half, which nothing foretells, is counted, and syllables may recur within a half."
    ),
)
MODEL = ZooModel(
    name="induction",
    title="Induction (decoder of 2 layers × 4 heads, attention only, 0.2 M parameters, trained to repeat syllables)",
    licence="Apache-2.0",
    read=read_shipped,
    text="syllables.txt",
    prompts="syllables.jsonl",
    course=COURSE,
)
