"""How does the decoder's self-attention differ? What does its mask keep out, and what does a model without it learn?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._training import BASE, LENGTH, RECIPE, bigram, character_model, held_out, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import Exercise, evaluate
from model.training.objectives import Batch
from probes import record
from probes.statistics import View, offset_score
from reports import Figure, Lines, Series, Table

UNIFORM = math.log(BASE.d_vocab)
"""nats per character of a guess among all characters"""
OFFSETS = tuple(range(-4, 9))
"""how far before the query a key stands; negative: behind it"""


@dataclass(frozen=True, kw_only=True)
class NextOfLast:
    """What follows the last token, which nobody has read: what a model that generates has to know."""

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens = batch[0]
        counted = torch.zeros_like(tokens[:, :-1], dtype=torch.bool)
        counted[:, -1] = True
        return Exercise((tokens[:, :-1], None), tokens[:, 1:], counted)


@dataclass(frozen=True, kw_only=True)
class CausalMask(Study):
    number: ClassVar[int] = 16
    name: ClassVar[str] = "causal-mask"
    question: ClassVar[str] = "How does the decoder's self-attention differ from the encoder's?"
    popular: ClassVar[str] = "It is masked so that a step sees only what was generated before; the encoder's is not."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with the mask a step sees nothing behind it", quantity="influence of later characters with the mask", relation="==", threshold=0.0),
        Prediction(says="without it a step sees what comes later", quantity="influence of later characters without the mask", relation=">", threshold=0.1),
        Prediction(
            says="a model without the mask cannot go on from what was generated", quantity="generation loss without the mask minus a uniform guess",
            relation=">", threshold=0.0, unit="nats",
        ),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the masked model beats the bigram", quantity="masked minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "The same network with the causal mask and without it, the same start, the same windows, the same task: the next character at every "
        "place. Influence of later characters: the share of the squared gradient, of a random projection of the logits at a place with respect to "
        "the embeddings, that falls on characters behind the place, mean of three places; with the mask the largest of all models. Teacher-forced loss: "
        "the whole window is read at once, as in training. Generation loss: each character is predicted from a text that ends before it, as "
        "in generation; its effects are without the mask minus with it, and minus a guess among all."
    )
    scale: ClassVar[str] = "0.1 M parameters, windows of 32 characters"
    limits: ClassVar[str] = (
        "A model without the mask may well generate after another training, in which the answer cannot be read (masked language models, prefix "
        "language models). The mask lets a place see itself: it hides what comes later, not what stands there."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.3",
        "Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 6, "n_held_out": 8},
        "default": {"n_seeds": 5, "steps": 700, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 900, "n_held_out": 600},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; both arms share them"""
    steps: int = 700
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(masked, seed, self.steps, self.n_held_out) for seed in seeds for masked in (True, False)])
        arms, lengths, offsets = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("arm", "lengths", "offsets"))
        with_, without = (arms[arms.masked == masked].reset_index(drop=True) for masked in (True, False))
        effects = [
            Effect.exact("influence of later characters with the mask", float(with_.influence.max())),
            Effect.over_seeds("influence of later characters without the mask", without.influence, within=(0, 1)),
            Effect.over_seeds("generation loss without the mask", without.generation - with_.generation, "nats"),
            Effect.over_seeds("masked minus bigram", with_.generation - bigram(n=self.n_held_out), "nats"),
            Effect.over_seeds("teacher-forced loss without the mask", without.loss, "nats"),
            Effect.over_seeds("generation loss without the mask minus a uniform guess", without.generation - UNIFORM, "nats"),
        ]
        return effects, {"arms": _arms_table(arms), "lengths": _lengths_table(lengths), "offsets": _offsets_table(offsets)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        hidden, seen, forced, guess, behind = (
            effects[name].estimate for name in (
                "influence of later characters with the mask", "influence of later characters without the mask", "teacher-forced loss without the mask",
                "generation loss without the mask minus a uniform guess", "generation loss without the mask",
            )
        )  # fmt: skip
        return (
            f"With the mask {f'{hidden:.2g}' if hidden else 'nothing'} of the squared gradient of a place falls on what stands behind it, without it {seen:.0%}. The next character then costs "
            f"{forced:.2f} nats where the window is read at once, {guess + UNIFORM:.2f} where the text ends before the character "
            f"({behind:+z.2f} to the masked model; a uniform guess has {UNIFORM:.2f})."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        lengths, offsets = tables["lengths"].frame, tables["offsets"].frame
        by_length = lengths.pivot_table(index="read", columns="masked", values="loss", aggfunc="mean")
        by_offset = offsets.pivot_table(index="offset", columns="masked", values="mass", aggfunc="mean", dropna=False)
        names = {True: "with the mask", False: "without the mask"}
        return (
            Lines(
                name="generation", title="Loss where the next character cannot be read, by how much text there is",
                caption=f"Loss of the character behind a text of so many characters, held-out prose, mean of {self.n_seeds} seeds; a uniform guess has {UNIFORM:.2f}.",
                alt=", ".join(f"{names[arm]} {by_length[arm].mean():.2f} on average" for arm in names), x=by_length.index.to_numpy(float),
                series={names[arm]: Series(y=by_length[arm].to_numpy()) for arm in names}, x_label="characters read", y_label="nats per character",
            ),
            Lines(
                name="offsets", title="What attention reads, with the mask and without it",
                caption=f"Mean weight on the key that stands so far before the query, over heads, layers, held-out windows and {self.n_seeds} seeds; "
                "at −1 stands the answer.",
                alt=f"On the next character {by_offset[False][-1]:.2f} without the mask; with it, none may be there.",
                x=by_offset.index.to_numpy(float), series={names[arm]: Series(y=by_offset[arm].to_numpy()) for arm in names},
                x_label="characters before the query", y_label="mean weight", markers=True,
            ),
        )  # fmt: skip


def _arm(masked: bool, seed: int, steps: int, n_held_out: int) -> dict[str, list[dict[str, Any]]]:
    """One model: its losses as it was trained and as it would generate, what reaches a place from behind, and where it looks."""
    model = character_model(dataclasses.replace(BASE, causal=masked), seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    tokens = torch.cat([batch[0] for batch in held_out(n=n_held_out)])
    losses = {n: evaluate(model, [(tokens[:, : n + 1], None)], NextOfLast(), RECIPE) for n in range(1, LENGTH)}
    arm = {"masked": masked, "seed": seed}
    row = {
        "influence": _influence(model, tokens[:16], seed), "loss": learnt.loss, "generation": sum(losses.values()) / len(losses),
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip
    looked = _looked_at(model, tokens[:32], masked)
    return {
        "arm": [arm | row],
        "lengths": [arm | {"read": n, "loss": loss} for n, loss in losses.items()],
        "offsets": [arm | {"offset": offset, "mass": mass} for offset, mass in looked.items()],
    }


def _influence(model: Transformer, tokens: Tensor, seed: int) -> float:
    """The share of the squared gradient that falls behind the place, mean of three places: exactly 0 where nothing is seen."""
    generator, shares = torch.Generator().manual_seed(seed), []
    for place in (LENGTH // 8, LENGTH // 2, LENGTH - LENGTH // 8):
        with record(model, "embed", gradients=True) as activations:
            logits = model(tokens)[:, place]  # batch d_vocab
        projected = (logits * torch.randn(logits.shape, generator=generator)).sum()
        (gradient,) = torch.autograd.grad(projected, activations["embed"])  # batch pos d_model
        shares.append(float(gradient[:, place + 1 :].square().sum() / gradient.square().sum()))
    return sum(shares) / len(shares)


@torch.no_grad()
def _looked_at(model: Transformer, tokens: Tensor, masked: bool) -> dict[int, float]:
    """Mean weight at each offset over layers, heads and windows; NaN where nothing may be seen."""
    with record(model, "blocks.*.attn.pattern") as activations:
        model(tokens)
    view = View(kind="causal" if masked else "full")
    return {
        offset: float(torch.stack([offset_score(pattern, offset, view) for pattern in activations.values()]).mean()) for offset in OFFSETS
    }


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", masked=("", "is later text hidden?"), seed=("", "of weights and data"),
        influence=("1", "share of the squared gradient that falls behind the place, mean of three places"),
        loss=("nats per character", "on held-out prose, the whole window read at once"),
        generation=("nats per character", "on held-out prose, each character behind a text that ends before it"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _lengths_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Loss of the character behind a text, by its length.", masked=("", "is later text hidden?"), seed=("", "of weights and data"),
        read=("characters", "length of the text"), loss=("nats per character", "of the character behind it"),
    )  # fmt: skip


def _offsets_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Where attention looks.", masked=("", "is later text hidden?"), seed=("", "of weights and data"),
        offset=("characters", "how far before the query the key stands"), mass=("1", "mean weight over layers, heads and windows"),
    )  # fmt: skip


STUDY = CausalMask
