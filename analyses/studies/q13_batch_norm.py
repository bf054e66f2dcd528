"""What does BatchNorm do? Does it standardise, speed up, keep gradients alive, and fail where lengths vary, or where batches differ in kind?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._curves import in_parts
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._tasks_batches import D_VOCAB, KINDS, Kinds, Varied, loss_in_training_mode, pieces
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, learn, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig
from model.training import CausalLM, token_loss
from model.training.layers import norms
from model.training.objectives import Batch
from probes import record
from reports import Bars, Figure, Lines, Series, Table

NORMS = {"batch": "batch norm", "layer": "layer norm", "none": "no norm"}
SETTINGS = {
    "one length": ("batch", "none"),
    "lengths vary": ("batch", "layer"),
    "one kind a batch": ("batch", "layer"),
    "mixed kinds": ("batch", "layer"),
}
"""what stands together in a batch, and which norms are compared there"""
DEPTH = 12
"""blocks of the networks that are looked at before the first step"""


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Study):
    number: ClassVar[int] = 13
    name: ClassVar[str] = "batch-norm"
    question: ClassVar[str] = "What does BatchNorm do?"
    popular: ClassVar[str] = (
        "It standardises batches, speeds convergence and prevents vanishing gradients, but does badly on variable-length sequences."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="it standardises every coordinate over the batch", quantity="distance of the variance from 1", relation="<", threshold=0.05),
        Prediction(says="it speeds convergence", quantity="training loss without norm, over the course", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it keeps the gradient of the first block alive", quantity="gradient with batch norm over none", relation=">", threshold=10.0),
        Prediction(says="it does badly where lengths vary", quantity="lost where lengths vary", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="batch norm beats the bigram on windows of one length", quantity="batch norm minus bigram", relation="<", threshold=0.0, unit="nats"),
    )  # fmt: skip
    method: ClassVar[str] = (
        "Distance: mean over the coordinates of all norms of |variance − 1| of the normalised value over a batch of the training text, behind the last step. "
        "Convergence: training loss, mean over all steps, without any norm minus with batch norm. Gradient: ‖∂L/∂θ‖ of the first of "
        f"{DEPTH} blocks without residual connections, where gradients vanish, before the first step, with batch norm over without norms. Lost where lengths "
        "vary: held-out loss with batch norm minus layer norm on windows cut to between 4 and 60 characters. To tell lengths from kinds, both norms also "
        "learn prose, phonemes and counted numbers, in batches of one kind each and in batches of all three: what batch norm loses more "
        "in the first is lost to statistics that change from batch to batch, at one length."
    )
    scale: ClassVar[str] = "0.1 M parameters, batches of 15 or 16 windows of 32 tokens"
    limits: ClassVar[str] = (
        "One learning rate. "
        "One momentum of the running statistics (0.1), which decides how far the last batches are what evaluation uses. Gradients are looked at "
        "before the first step alone."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ioffe & Szegedy 2015, Batch Normalization", "Santurkar et al. 2018, How Does Batch Normalization Help Optimization?",
        "Shen et al. 2020, PowerNorm: Rethinking Batch Normalization in Transformers",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 350, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 450, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 350
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        arms = [
            (setting, norm, seed, self.steps, self.n_held_out) for seed in seeds for setting, kinds in SETTINGS.items() for norm in kinds
        ]
        found = each(_arm, arms)
        frame, curves = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("arm", "curve"))
        starts = pd.DataFrame([row for rows in each(_starts, [(seed,) for seed in seeds]) for row in rows])
        return _effects(frame, curves, starts, bigram(n=self.n_held_out)), {
            "arms": _arms_table(frame), "curves": _curves_table(curves), "starts": _starts_table(starts),
        }  # fmt: skip

    def finding(self, effects: Mapping[str, Effect]) -> str:
        speed, ratio, lengths, kinds, back = (
            effects[name].estimate
            for name in (
                "training loss without norm, over the course", "gradient with batch norm over none", "lost where lengths vary",
                "lost to batches of one kind", "given back by the statistics of the batch",
            )
        )  # fmt: skip
        return (
            f"Over the course of training it is {abs(speed):.2f} nats {'ahead of' if speed > 0 else 'behind'} no norm at all; without residual connections the first "
            f"of {DEPTH} blocks has {ratio:.2g} times the gradient. Against layer norm it loses {lengths:+.2f} nats where lengths vary and {kinds:+.2f} to batches of "
            f"one kind of text each; with the statistics of the test batch in place of the running ones {back:.2f} nats come back."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        loss = (
            arms.groupby(["setting", "norm", "seed"])[["loss", "loss_as_in_training"]]
            .mean()
            .groupby(["setting", "norm"])
            .agg(["mean", "min", "max"])
        )
        rows = [
            (f"{setting}, {NORMS[norm]}{', as in training' if column == 'loss_as_in_training' else ''}", loss.loc[(setting, norm), column])
            for setting, kinds in SETTINGS.items() for norm in kinds for column in ("loss", "loss_as_in_training") if norm == "batch" or column == "loss"
        ]  # fmt: skip
        mean = curves[curves.setting == "one length"].groupby(["step", "norm"]).loss.mean().unstack("norm")
        return (
            Bars(
                name="loss", title="Loss by the norm and by what a batch holds",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; “as in training”: statistics of the test batch. Compare within "
                "a setting: the texts differ between them.",
                alt=", ".join(f"{label} {values['mean']:.3f}" for label, values in rows), labels=[label for label, _ in rows],
                values=pd.Series([values["mean"] for _, values in rows]).to_numpy(), low=pd.Series([values["min"] for _, values in rows]).to_numpy(),
                high=pd.Series([values["max"] for _, values in rows]).to_numpy(), unit="nats per token",
            ),
            Lines(
                name="curves", title="How fast it learns, against no norm", caption=f"Loss on the training text, mean of {self.n_seeds} seeds over neighbouring steps.",
                alt=", ".join(f"{NORMS[norm]} ends at {mean[norm].iloc[-1]:.2f}" for norm in mean.columns), x=mean.index.to_numpy(float),
                series={NORMS[norm]: Series(y=mean[norm].to_numpy()) for norm in mean.columns}, x_label="step", y_label="nats per character",
            ),
        )  # fmt: skip


def _arm(setting: str, norm: str, seed: int, steps: int, n_held_out: int) -> dict[str, list[dict[str, Any]]]:
    """One model: its loss on each kind of text, in both modes, and its learning curve."""
    lessons, tests = _texts(setting, seed, steps, n_held_out)
    model = started_as_in_the_paper(_config(norm, d_vocab=D_VOCAB if "kind" in setting else PAPER.d_vocab), seed)
    recipe = dataclasses.replace(recipe_of(steps), seed=seed)
    learnt = learn(model, lessons, CausalLM(), recipe, validation=[batch for test in tests.values() for batch in test])
    arm = {"setting": setting, "norm": norm, "seed": seed}
    size = {"n_parameters": learnt.n_parameters, "flops": learnt.flops}
    distance = _distance(model, lessons[0]) if norm == "batch" else float("nan")
    rows = [
        {
            **arm,
            "kind": kind,
            "loss": _loss(model, test),
            "loss_as_in_training": loss_in_training_mode(model, test),
            "distance": distance,
            **size,
        }
        for kind, test in tests.items()
    ]
    return {"arm": rows, "curve": [{**arm, **part} for part in in_parts(learnt.history, "loss")]}


def _texts(setting: str, seed: int, steps: int, n_held_out: int) -> tuple[Sequence[Batch], dict[str, list[Batch]]]:
    """What is read in training, and the tests by kind of text."""
    if setting == "one length":
        return windows(steps, seed=seed), {"prose": held_out(n=n_held_out)}
    if setting == "lengths vary":
        test = list(Varied(batches=held_out(60, n_held_out), least=4, seed=seed))
        return Varied(batches=windows(steps, 60, BATCH, seed), least=4, seed=seed), {"prose": test}
    lessons = Kinds(n_batches=steps, batch=15, length=LENGTH, mixed=setting == "mixed kinds", seed=seed)
    return lessons, {kind: [pieces(kind, n_held_out // 2, LENGTH)] for kind in KINDS}


def _config(norm: str, **changes: Any) -> TransformerConfig:
    return dataclasses.replace(PAPER, norm=norm, final_norm=norm != "none", **changes)


@torch.no_grad()
def _loss(model: Transformer, test: Sequence[Batch]) -> float:
    """Nats per token with the running statistics."""
    model.eval()
    exercises = [CausalLM()(batch, torch.Generator()) for batch in test]
    return sum(float(token_loss(model(*one.inputs), one)) for one in exercises) / sum(one.n_tokens for one in exercises)


@torch.no_grad()
def _distance(model: Transformer, batch: Batch) -> float:
    """|variance − 1| of the normalised value over the real tokens, mean over the coordinates of all norms, in training mode. The model stays as it is."""
    model = deepcopy(model).train()  # running statistics move in this mode
    with record(model, "*.normalized") as activations:
        model(*batch)
    real = batch[1].flatten()
    return float(
        torch.stack([(value.flatten(0, 1)[real].var(0, unbiased=False) - 1).abs().mean() for value in activations.values()]).mean()
    )


def _starts(seed: int) -> list[dict[str, Any]]:
    """The first block's gradient before the first step, of every norm with and without residual connections."""
    rows = []
    for norm in NORMS:
        for residual in (False, True):
            model = started_as_in_the_paper(_config(norm, n_layers=DEPTH, residual=residual), seed).double().train()
            exercise = CausalLM()(windows(1, seed=seed)[0], torch.Generator())
            (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
            gradient = norms({"blocks.0." + name: parameter.grad for name, parameter in model.blocks[0].named_parameters()})["blocks.0"]
            rows.append({"norm": norm, "residual": residual, "seed": seed, "gradient": gradient})
    return rows


def _effects(frame: pd.DataFrame, curves: pd.DataFrame, starts: pd.DataFrame, pairs: float) -> list[Effect]:
    loss = frame.groupby(["setting", "norm", "seed"]).loss.mean()
    trained = frame.groupby(["setting", "norm", "seed"]).loss_as_in_training.mean()
    course = curves[curves.setting == "one length"].groupby(["norm", "seed"]).loss.mean()
    gradient = starts.groupby(["norm", "residual", "seed"]).gradient.mean()
    lost = {setting: loss[setting, "batch"] - loss[setting, "layer"] for setting, kinds in SETTINGS.items() if "layer" in kinds}
    return [
        Effect.over_seeds("distance of the variance from 1", frame[(frame.setting == "one length") & (frame.norm == "batch")].distance),
        Effect.over_seeds("training loss without norm, over the course", course["none"] - course["batch"], "nats"),
        Effect.over_seeds("lost without norm at the end", loss["one length", "none"] - loss["one length", "batch"], "nats"),
        Effect.of_ratios("gradient with batch norm over none", gradient["batch", False] / gradient["none", False]),
        Effect.of_ratios("gradient with batch norm over none, residual", gradient["batch", True] / gradient["none", True]),
        Effect.of_ratios("gradient with layer norm over none", gradient["layer", False] / gradient["none", False]),
        Effect.over_seeds("lost where lengths vary", lost["lengths vary"], "nats"),
        Effect.over_seeds("lost in batches of one kind", lost["one kind a batch"], "nats"),
        Effect.over_seeds("lost in mixed batches", lost["mixed kinds"], "nats"),
        Effect.over_seeds("lost to batches of one kind", lost["one kind a batch"] - lost["mixed kinds"], "nats"),
        Effect.over_seeds(
            "given back by the statistics of the batch", loss["one kind a batch", "batch"] - trained["one kind a batch", "batch"], "nats"
        ),
        Effect.over_seeds("batch norm minus bigram", loss["one length", "batch"] - pairs, "nats"),
    ]


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model, on each kind of text.", setting=("", "what stands together in a batch"), norm=("", "kind of norm"), seed=("", "of weights and data"),
        kind=("", "of the held-out text"), loss=("nats per token", "on held-out text, behind the last step"),
        loss_as_in_training=("nats per token", "the same with the statistics of the test batch"),
        distance=("1", "|variance − 1| of the normalised values, mean over coordinates; of batch norm"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The training.", setting=("", "what stands together in a batch"), norm=("", "kind of norm"), seed=("", "of weights and data"),
        step=("steps", "middle of the steps that are averaged"), loss=("nats per token", "on the training text, mean of these steps"),
    )  # fmt: skip


def _starts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Networks of {DEPTH} blocks before the first step.", norm=("", "kind of norm"), residual=("", "are there residual connections?"),
        seed=("", "of weights and data"), gradient=("1", "‖∂L/∂θ‖ of the first block, in training mode"),
    )  # fmt: skip


STUDY = BatchNorm
