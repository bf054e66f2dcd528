"""How is overfitting prevented? What do more text, dropout, weight decay and stopping early gain, where there is little text and where there is much?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, recipe_of, weights_of_products, windows
from analyses.studies._verdict import Prediction
from model import Dropout
from model.training import CausalLM, evaluate, train
from model.training.objectives import Batch
from model.zoo._prose import RandomWindows, chunks
from reports import Bars, Figure, Lines, Series, Table

LITTLE = 2000
"""characters of the little text; the whole has 197,641"""
REGULARISERS: Mapping[str, Mapping[str, Any]] = {
    "none": {}, "dropout": {"dropout": Dropout(embed=0.2, pattern=0.2, sublayer=0.2, mlp=0.2)}, "weight decay": {"weight_decay": 1.0},
    "label smoothing": {"label_smoothing": 0.1},
}  # fmt: skip
ARMS = (*((True, name) for name in REGULARISERS), *((False, name) for name in ("none", "dropout", "weight decay")))
"""is there little text, and what is done against overfitting?"""


@dataclass(frozen=True, kw_only=True)
class Overfitting(Study):
    number: ClassVar[int] = 30
    name: ClassVar[str] = "overfitting"
    question: ClassVar[str] = "How is overfitting prevented?"
    popular: ClassVar[str] = "More data, dropout, regularisation, whatever the amount of text."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="more text lowers the loss on new text", quantity="gained by more text", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="with little text dropout lowers it", quantity="gained by dropout with little text", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="with little text weight decay lowers it", quantity="gained by weight decay with little text", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="dropout costs nothing where there is much text", quantity="lost by dropout with much text", relation="<", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="there is overfitting to prevent", quantity="overfitting with little text", relation=">", threshold=0.5, unit="nats"
        ),
        Prediction(
            says="with the whole text the model beats the bigram",
            quantity="much text minus bigram",
            relation="<",
            threshold=0.0,
            unit="nats",
        ),
    )
    method: ClassVar[str] = (
        f"The same network, updates and schedule on a stretch of {LITTLE:,} characters, another one for every seed, and on all 197,641, so that the little text is read "
        "a hundred times as often; dropout of "
        "0.2 at all four places, weight decay of 1, label smoothing of 0.1, or nothing. Overfitting: held-out loss at the end minus training loss over the last "
        "tenth. Gains: held-out loss at the end without minus with. Stopping early: of ten readings on the way that one at which other held-out pieces, as many, have "
        "their lowest loss."
    )
    scale: ClassVar[str] = "0.1 M parameters, windows of 32 characters"
    limits: ClassVar[str] = (
        "One strength of each regulariser, not tuned. All models are trained equally long: what happens when all the text is read as often as the little one is not "
        "measured."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Srivastava et al. 2014, Dropout", "Szegedy et al. 2016, Rethinking the Inception Architecture, section 7",
        "Prechelt 1998, Early Stopping — But When?", "Muennighoff et al. 2023, Scaling Data-Constrained Language Models",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 300, "n_held_out": 64},
        "full": {"n_seeds": 5, "steps": 350, "n_held_out": 300},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 300
    """updates of each model"""
    n_held_out: int = 64
    """held-out pieces of 32 characters that judge; as many others say when to stop"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(little, name, seed, self.steps, self.n_held_out) for seed in seeds for little, name in ARMS])
        arms, curves = pd.DataFrame([row for row, _ in found]), pd.concat([curve for _, curve in found], ignore_index=True)
        by_arm = {arm: part.set_index("seed") for arm, part in arms.groupby(["little", "regulariser"])}
        base, rich = by_arm[True, "none"], by_arm[False, "none"]
        effects = [
            Effect.over_seeds("gained by more text", base.loss - rich.loss, "nats"),
            *(
                Effect.over_seeds(f"gained by {name} with little text", base.loss - by_arm[True, name].loss, "nats")
                for name in REGULARISERS
                if name != "none"
            ),
            *(
                Effect.over_seeds(f"lost by {name} with much text", by_arm[False, name].loss - rich.loss, "nats")
                for name in ("dropout", "weight decay")
            ),
            Effect.over_seeds("gained by stopping early with little text", base.loss - base.stopped, "nats"),
            *(
                Effect.over_seeds(f"gained by {name} with little text where both stop early", base.stopped - by_arm[True, name].stopped, "nats")
                for name in REGULARISERS
                if name != "none"
            ),
            Effect.over_seeds("overfitting with little text", base.loss - base.training, "nats"),
            Effect.over_seeds("overfitting with much text", rich.loss - rich.training, "nats"),
            Effect.over_seeds("much text minus bigram", rich.loss - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"arms": _arms_table(arms), "curves": _curves_table(curves)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        text, dropout, decay, smoothing, early, lost = (
            effects[name].estimate
            for name in (
                "gained by more text", "gained by dropout with little text", "gained by weight decay with little text",
                "gained by label smoothing with little text", "gained by stopping early with little text", "lost by dropout with much text",
            )
        )  # fmt: skip
        besides = {name: effects[f"gained by {name} with little text where both stop early"] for name in REGULARISERS if name != "none"}
        return (
            f"Read again and again, {LITTLE:,} characters cost {text:.2f} nats against a hundred times as many. Of these dropout gives back {dropout:.2f}, weight decay "
            f"{decay:.2f}, label smoothing {smoothing:.2f}, and stopping early, without any of them, {early:.2f}. Where all stop early, "
            f"{', '.join(f'{name} gains {one.estimate:+z.2f} [{one.low:+z.2f}, {one.high:+z.2f}]' for name, one in besides.items())}. "
            f"Where no text is read often, dropout costs {lost:+z.2f} nats."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        loss = arms.groupby(["little", "regulariser"]).loss.agg(["mean", "min", "max"]).loc[list(ARMS)]
        stopped = arms[arms.little].groupby("regulariser").stopped.agg(["mean", "min", "max"]).loc[list(REGULARISERS)]
        little = [f"little, {name}{early}" for early in ("", ", stopped early") for name in REGULARISERS]
        bars = pd.concat([loss.loc[True], stopped, loss.loc[False]]).set_axis([*little, *(f"much, {name}" for name in loss.loc[False].index)])
        best = bars["mean"].loc[little].idxmin().removeprefix("little, ")
        mean = curves[curves.little].groupby(["step", "regulariser"])[["loss", "training"]].mean().unstack("regulariser")
        return (
            Lines(
                name="curves", title="Loss on new text along the training, by regulariser",
                caption=f"Held-out loss with {LITTLE:,} characters, and the training loss without a regulariser, mean of {self.n_seeds} seeds.",
                alt="; ".join(f"{name}: lowest {mean['loss'][name].min():.2f}, at the end {mean['loss'][name].iloc[-1]:.2f}" for name in REGULARISERS),
                x=mean.index.to_numpy(float), x_label="step", y_label="nats per character", markers=True,
                series={name: Series(y=mean["loss"][name].to_numpy()) for name in REGULARISERS} | {"none, training loss": Series(y=mean["training"]["none"].to_numpy())},
            ),
            Bars(
                name="loss", title=f"Lowest mean loss on new text where little was read: {best}",
                caption=f"Held-out loss with little and much text at the end, or where other held-out pieces say to stop; mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in bars["mean"].items()), labels=list(bars.index), values=bars["mean"].to_numpy(),
                low=bars["min"].to_numpy(), high=bars["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _arm(little: bool, name: str, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """One model, and its losses on the way, on the pieces that judge and on those that say when to stop."""
    changes = dict(REGULARISERS[name])
    model = started_as_in_the_paper(dataclasses.replace(PAPER, dropout=changes.pop("dropout", Dropout())), seed)
    text = _stretch(seed) if little else windows(1).tokens
    lessons = RandomWindows(text, n_batches=steps, batch=BATCH, length=LENGTH, seed=seed)
    recipe, read = dataclasses.replace(recipe_of(steps, **changes), seed=seed), []
    judging, stopping = _halves(n_held_out)
    with TemporaryDirectory() as folder:  # training stops for every reading and goes on
        for step in sorted({max(steps * tenth // 10, 1) for tenth in range(1, 11)}):
            history = train(model, lessons, CausalLM(), recipe, folder=folder, resume=True, until=step)
            loss, other = (evaluate(model, half, CausalLM(), recipe) for half in (judging, stopping))
            read.append({"step": step, "loss": loss, "other": other, "training": history.loss.tail(max(steps // 10, 1)).mean()})
    curve = pd.DataFrame(read)
    arm = {"little": little, "regulariser": name, "seed": seed}
    row = {
        **arm, "loss": curve.loss.iloc[-1], "stopped": curve.loss[curve.other.idxmin()], "training": curve.training.iloc[-1],
        "n_parameters": sum(p.numel() for p in model.parameters()), "flops": 6.0 * weights_of_products(model) * steps * BATCH * LENGTH,
    }  # fmt: skip
    return row, curve.assign(**arm)


def _stretch(seed: int) -> torch.Tensor:
    """The little text of a seed: a stretch of the prose that begins anywhere."""
    text = windows(1).tokens
    start = np.random.default_rng(seed).integers(len(text) - LITTLE + 1)
    return text[start : start + LITTLE]


def _halves(n: int) -> tuple[list[Batch], list[Batch]]:
    """The first n held-out pieces, and the n behind them."""
    tokens = torch.cat([pieces for pieces, _ in held_out(n=2 * n)])
    judging, stopping = (chunks(half.flatten(), batch=64, length=LENGTH) for half in tokens.split(n))
    return judging, stopping


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", little=("", f"does it read {LITTLE:,} characters only?"), regulariser=("", "what is done against overfitting"),
        seed=("", "of weights and data"), loss=("nats per character", "on held-out prose, behind the last step"),
        stopped=("nats per character", "the same at the reading at which other held-out pieces have their lowest loss"), training=("nats per character", "training loss over the last tenth of the steps"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame[["little", "regulariser", "seed", "step", "loss", "other", "training"]], "The training.",
        little=("", f"does it read {LITTLE:,} characters only?"), regulariser=("", "what is done against overfitting"), seed=("", "of weights and data"),
        step=("steps", "done"), loss=("nats per character", "on the held-out pieces that judge"), other=("nats per character", "on those that say when to stop"),
        training=("nats per character", "training loss, mean over a tenth of the steps; label smoothing counts in it"),
    )  # fmt: skip


STUDY = Overfitting
