"""Why are embeddings multiplied by √d? Does it save them from being drowned by the position encoding, whatever they start as?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._curves import in_parts
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._training import BASE, bigram, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from probes import record
from reports import Bars, Figure, Lines, Series, Table

SMALL, LARGE = "N(0, 1/d)", "N(0, 1)"
STARTS = {SMALL: BASE.d_model**-0.5, LARGE: 1.0}
"""how embeddings start, with their standard deviation: as in the authors' own code, and as in torch"""
ARMS = tuple((start, scaled) for start in STARTS for scaled in (False, True))


@dataclass(frozen=True, kw_only=True)
class EmbeddingScale(Study):
    number: ClassVar[int] = 8
    name: ClassVar[str] = "embedding-scale"
    question: ClassVar[str] = "Why are embeddings multiplied by √d?"
    popular: ClassVar[str] = (
        "To bring them to the scale of the position encoding, so that they are not drowned by it early in training; the model learns better with it."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="embeddings that start at 1/√d are drowned without it", quantity="size without scale from N(0, 1/d)", relation="<", threshold=0.5),
        Prediction(says="from N(0, 1/d) the model learns worse without it", quantity="loss without scale from N(0, 1/d)", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="from N(0, 1), too, it learns worse without it", quantity="loss without scale from N(0, 1)", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it is the size that helps, at one learning rate", quantity="loss for being small", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the scaled model of the paper beats the bigram", quantity="scaled minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
    )
    method: ClassVar[str] = (
        "Character models with sinusoids whose embeddings start as N(0, 1/d) or N(0, 1), the same draws but for their size, and are multiplied by "
        "√d or not; the blocks start with Glorot's matrices. The unembedding is a matrix of its own, so that its size does not change with the arm. Size: root mean square of the embedding "
        "over that of the position encoding, on training text before the first step. Under Adam a step moves every entry by about the learning "
        "rate, whatever its gradient, so that multiplying by √d also makes the embedding learn √d times as fast. Two arms tell the parts apart: "
        "N(0, 1/d) with the scale and N(0, 1) without are the same function at the start; behind it they differ in that speed, and in the "
        "embedding's share of the gradient, which is clipped to norm 1: √d enlarges it. N(0, 1/d) and N(0, 1), both without, take equal steps and "
        "differ in size; measured by their size the small ones move √d times as fast."
    )
    scale: ClassVar[str] = "0.12 M parameters, d_model = 64, windows of 32 characters"
    limits: ClassVar[str] = (
        "One width: √d is 8 here and 23 in the paper. The paper shares the matrix with the unembedding, where the scale has another use: it lets "
        "small entries, which the logits need, be large inputs. What clipping does is not told from what speed does."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.4",
        "Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, section 2.1",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 5, "steps": 250, "n_held_out": 128},
        "full": {"n_seeds": 6, "steps": 400, "n_held_out": 600},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(start, scaled, seed, self.steps, self.n_held_out) for seed in seeds for start, scaled in ARMS])
        frame = pd.DataFrame([row for row, _ in found])
        arms = {arm: part.reset_index(drop=True) for arm, part in frame.groupby(["start", "scaled"])}
        loss = {arm: part.loss for arm, part in arms.items()}
        effects = [
            Effect.over_seeds(f"size without scale from {SMALL}", arms[SMALL, False]["size"]),
            Effect.over_seeds(f"size without scale from {LARGE}", arms[LARGE, False]["size"]),
            Effect.over_seeds(f"loss without scale from {SMALL}", loss[SMALL, False] - loss[SMALL, True], "nats"),
            Effect.over_seeds(f"loss without scale from {LARGE}", loss[LARGE, False] - loss[LARGE, True], "nats"),
            Effect.over_seeds("loss for being small", loss[SMALL, False] - loss[LARGE, False], "nats"),
            Effect.over_seeds("loss for learning slowly", loss[LARGE, False] - loss[SMALL, True], "nats"),
            Effect.over_seeds("scaled minus bigram", loss[SMALL, True] - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"arms": _arms_table(frame), "curves": _curves_table(pd.concat([curve for _, curve in found]))}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        small, large, size, speed = (
            effects[name]
            for name in (
                f"loss without scale from {SMALL}",
                f"loss without scale from {LARGE}",
                "loss for being small",
                "loss for learning slowly",
            )
        )
        rest = "goes with the slower steps of the embedding" if speed.off_zero else "is not told from nought"
        return (
            f"Leaving √d out adds {small.estimate:+z.2f} nats to the loss where embeddings start as {SMALL}, and {large.estimate:+z.2f} where they start as "
            f"{LARGE}, torch's default. Of the first, {_signed(size)} comes of being small, at one learning rate; the rest, {_signed(speed)}, {rest}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        loss, size = arms.groupby(["start", "scaled"]).loss.agg(["mean", "min", "max"]), arms.groupby(["start", "scaled"])["size"].mean()
        labels = [f"{_name(*arm)}: size {size[arm]:.2g}" for arm in loss.index]
        early = curves.groupby(["step", "start", "scaled"]).loss.mean().unstack(["start", "scaled"])
        return (
            Bars(
                name="loss", title=_lowest(arms),
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest. Size: embedding over position encoding at the start.",
                alt=", ".join(f"{name} {value:.3f}" for name, value in zip(labels, loss["mean"], strict=True)), labels=labels,
                values=loss["mean"].to_numpy(), low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
            Lines(
                name="curves", title="How they learn", caption=f"Loss on the training text, mean of {self.n_seeds} seeds over neighbouring steps.",
                alt=", ".join(f"{_name(*arm)} ends at {early[arm].iloc[-1]:.2f}" for arm in early.columns), x=early.index.to_numpy(float),
                series={_name(*arm): Series(y=early[arm].to_numpy()) for arm in early.columns}, x_label="step", y_label="nats per character",
            ),
        )  # fmt: skip


def _name(start: str, scaled: bool) -> str:
    return f"{start} × √d" if scaled else start


def _signed(effect: Effect) -> str:
    return f"{effect.estimate:+z.3f} [{effect.low:+z.3f}, {effect.high:+z.3f}]"


def _lowest(arms: pd.DataFrame) -> str:
    """Which arm ends lowest, if the interval of its lead over the next one says so."""
    loss = arms.pivot(index="seed", columns=["start", "scaled"], values="loss")
    best, second = loss.mean().nsmallest(2).index
    ahead = Effect.over_seeds("lead", loss[second] - loss[best]).low > 0
    return f"{_name(*best)} ends lowest" if ahead else f"{_name(*best)} and {_name(*second)} end lowest and are not told apart"


def _arm(start: str, scaled: bool, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """One model, and its learning curve."""
    scale = BASE.d_model**0.5 if scaled else 1.0
    config = dataclasses.replace(BASE, positions="sinusoidal", embed_scale=scale, tied_embeddings=False)
    model = started_as_in_the_paper(config, seed)
    with torch.no_grad():
        model.embedding.weight.mul_(STARTS[start] / STARTS[SMALL])
    with record(model, ["embed", "pos_embed"]) as activations, torch.no_grad():
        model(*windows(1, seed=seed)[0])
    size = activations["embed"].square().mean().sqrt() / activations["pos_embed"].square().mean().sqrt()
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    arm = {"start": start, "scaled": scaled, "seed": seed}
    row = {**arm, "size": float(size), "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}
    return row, pd.DataFrame([{**arm, **part} for part in in_parts(learnt.history, "loss")])


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", start=("", "distribution of the embeddings before the first step"), scaled=("", "are they multiplied by √d?"),
        seed=("", "of weights and data"), size=("1", "root mean square of the embedding, scaled, over that of the position encoding, before the first step"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame.reset_index(drop=True), "The training.", start=("", "distribution of the embeddings before the first step"),
        scaled=("", "are they multiplied by √d?"), seed=("", "of weights and data"), step=("steps", "middle of the steps that are averaged"),
        loss=("nats per character", "on the training text, mean of these steps"),
    )  # fmt: skip


STUDY = EmbeddingScale
