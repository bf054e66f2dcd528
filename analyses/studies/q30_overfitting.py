"""How is overfitting prevented? What do more text, dropout, weight decay and stopping early gain, where there is little text and where there is much?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, learn, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Dropout
from model.training import CausalLM
from model.zoo._prose import RandomWindows
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
    popular: ClassVar[str] = "More data, dropout, regularisation."
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
        f"The same network, updates and schedule on {LITTLE} characters and on all 197,641, so that the little text is read a hundred times as often; dropout of "
        "0.2 at all four places, weight decay of 1, label smoothing of 0.1, or nothing. Overfitting: held-out loss at the end minus training loss over the last "
        "tenth. Gains: held-out loss at the end without minus with. Stopping early: held-out loss at the end without anything minus the "
        "lowest of the ten that were read on the way."
    )
    scale: ClassVar[str] = "0.1 M parameters, windows of 32 characters"
    limits: ClassVar[str] = (
        "One strength of each regulariser, not tuned. Stopping early is chosen on the text that it is judged by, which favours it a little. How often a text "
        "is read decides: longer training with all the text would come to overfit, too."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Srivastava et al. 2014, Dropout", "Szegedy et al. 2016, Rethinking the Inception Architecture, section 7",
        "Prechelt 1998, Early Stopping — But When?", "Muennighoff et al. 2023, Scaling Data-Constrained Language Models",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 4, "steps": 300, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 450, "n_held_out": 600},
    }

    n_seeds: int = 4
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 300
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(little, name, seed, self.steps, self.n_held_out) for seed in seeds for little, name in ARMS])
        arms, curves = pd.DataFrame([row for row, _ in found]), pd.concat([curve for _, curve in found], ignore_index=True)
        by_arm = {arm: part.set_index("seed") for arm, part in arms.groupby(["little", "regulariser"])}
        base, rich = by_arm[True, "none"], by_arm[False, "none"]
        best = pd.concat([by_arm[True, name].loss for name in REGULARISERS if name != "none"], axis=1).min(axis=1)
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
            Effect.over_seeds("gained by stopping early with little text", base.loss - base.lowest, "nats"),
            Effect.over_seeds("best regulariser minus stopping early", best - base.lowest, "nats"),
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
        return (
            f"Read again and again, {LITTLE} characters cost {text:.2f} nats against a hundred times as many. Of these dropout gives back {dropout:.2f}, weight decay "
            f"{decay:.2f}, label smoothing {smoothing:.2f}, and stopping early {early:.2f}. Where no text is read often, dropout costs {lost:+.2f} nats."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        loss = arms.groupby(["little", "regulariser"]).loss.agg(["mean", "min", "max"]).loc[list(ARMS)]
        lowest = arms[arms.little & (arms.regulariser == "none")].lowest
        labels = [f"{'little' if little else 'much'} text, {name}" for little, name in ARMS] + ["little text, stopped early"]
        values = {how: [*loss[how], getattr(lowest, how)()] for how in ("mean", "min", "max")}
        little = dict(zip(labels, values["mean"], strict=True))
        best = (
            min((label for label in little if label.startswith("little")), key=little.get)
            .removeprefix("little text, ")
            .replace("stopped", "stopping")
        )
        mean = curves[curves.little].groupby(["step", "regulariser"])[["loss", "training"]].mean().unstack("regulariser")
        return (
            Lines(
                name="curves", title="Loss on new text along the training, by regulariser",
                caption=f"Held-out loss with {LITTLE} characters, and the training loss without a regulariser, mean of {self.n_seeds} seeds.",
                alt="; ".join(f"{name}: lowest {mean['loss'][name].min():.2f}, at the end {mean['loss'][name].iloc[-1]:.2f}" for name in REGULARISERS),
                x=mean.index.to_numpy(float), x_label="step", y_label="nats per character", markers=True,
                series={name: Series(y=mean["loss"][name].to_numpy()) for name in REGULARISERS} | {"none, training loss": Series(y=mean["training"]["none"].to_numpy())},
            ),
            Bars(
                name="loss", title=f"With little text {best} gains most of the regularisers",
                caption=f"Held-out loss at the end, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in zip(labels, values["mean"], strict=True)), labels=labels,
                values=pd.Series(values["mean"]).to_numpy(), low=pd.Series(values["min"]).to_numpy(), high=pd.Series(values["max"]).to_numpy(),
                unit="nats per character",
            ),
        )  # fmt: skip


def _arm(little: bool, name: str, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], pd.DataFrame]:
    """One model, and its losses on the way."""
    changes = dict(REGULARISERS[name])
    model = started_as_in_the_paper(dataclasses.replace(PAPER, dropout=changes.pop("dropout", Dropout())), seed)
    text = windows(1).tokens[:LITTLE] if little else windows(1).tokens
    lessons = RandomWindows(text, n_batches=steps, batch=BATCH, length=LENGTH, seed=seed)
    every = max(steps // 10, 1)
    recipe = dataclasses.replace(recipe_of(steps, **changes), evaluate_every=every, seed=seed)
    learnt = learn(model, lessons, CausalLM(), recipe, validation=held_out(n=n_held_out))
    history = learnt.history.assign(training=learnt.history.loss.rolling(every, min_periods=1).mean())
    read = history.dropna(subset="validation_loss")
    arm = {"little": little, "regulariser": name, "seed": seed}
    row = {
        **arm, "loss": learnt.loss, "lowest": float(read.validation_loss.min()), "training": float(read.training.iloc[-1]),
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip
    return row, pd.DataFrame({**arm, "step": read.step, "loss": read.validation_loss, "training": read.training})


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", little=("", f"does it read {LITTLE} characters only?"), regulariser=("", "what is done against overfitting"),
        seed=("", "of weights and data"), loss=("nats per character", "on held-out prose, behind the last step"),
        lowest=("nats per character", "lowest held-out loss on the way"), training=("nats per character", "training loss over the last tenth of the steps"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The training.", little=("", f"does it read {LITTLE} characters only?"), regulariser=("", "what is done against overfitting"),
        seed=("", "of weights and data"), step=("steps", "done"), loss=("nats per character", "on held-out prose"),
        training=("nats per character", "training loss, mean since the last reading; label smoothing counts in it"),
    )  # fmt: skip


STUDY = Overfitting
