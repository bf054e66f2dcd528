"""What are residual connections for? Do gradients vanish without them, does depth fail, and do they help beyond the training text?"""

from __future__ import annotations

import dataclasses
import math
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
from analyses.studies._training import BATCH, LENGTH, RECIPE, bigram, held_out, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model.training import CausalLM, evaluate, token_loss, train
from model.training.layers import norms
from model.zoo._prose import RandomWindows, chunks
from probes import record
from probes.token_variation import token_variation
from reports import Bars, Figure, Lines, Series, Table

DEPTHS = (2, 4, 8, 12)
"""blocks of the networks that are looked at before the first step"""
DEEP, SHALLOW = 6, 2
"""blocks of those that are trained: with all the text, and with little of it"""
N_CHARACTERS = 8000
"""of the little text; so many steps read it more than ten times"""
NAMES = {True: "with", False: "without"}
RATES = ((True, RECIPE.learning_rate), (False, RECIPE.learning_rate), (False, RECIPE.learning_rate / 3))
"""learning rates of the deep models: what has no skips may need a lower one"""


@dataclass(frozen=True, kw_only=True)
class ResidualConnections(Study):
    number: ClassVar[int] = 11
    name: ClassVar[str] = "residual-connections"
    question: ClassVar[str] = "What is the residual structure for?"
    popular: ClassVar[str] = "Information skips layers, which relieves vanishing gradients, allows depth and improves generalisation."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="with norms before the sub-layers, the gradient of the first block vanishes without it", quantity="gradient without over with",
            relation="<", threshold=0.1,
        ),
        Prediction(says="without it a deep model learns worse", quantity="loss of six blocks without", relation=">", threshold=0.02, unit="nats"),
        Prediction(
            says="at the same training loss the model with it is better on new text", quantity="loss on new text without, at equal training loss",
            relation=">", threshold=0.02, unit="nats",
        ),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="six blocks with it beat the bigram", quantity="deep minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Networks that differ in their residual connections alone, from Glorot's start and in fp64 where nothing is trained. Gradient: "
        "‖∂L/∂θ‖ of the first of twelve blocks with norms before the sub-layers, without over with. Variation of the tokens: "
        "‖X − mean‖_F / ‖X‖_F behind each block, 0 when all tokens of a window are one vector (rank collapse). Depth: six blocks, the whole "
        "text, without skips at a third of the learning rate, too, and for every seed the better of both. New text: two blocks and 8000 characters "
        "read many times over; 25 times on the way the loss on all of them and on held-out text is taken. Each arm is read at the lowest training loss that "
        "both arms of a seed reach, so that a slow learner does not count as one that generalises; behind the warm-up the learning rate is constant."
    )
    scale: ClassVar[str] = "0.1 to 0.3 M parameters, d_model = 64, windows of 32 characters"
    limits: ClassVar[str] = (
        "Deep networks without skips can be trained from other starts (He et al. 2023), and where norms are left out everything depends on the size "
        "of the weights. Whether more depth pays is not asked."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "He et al. 2016, Deep Residual Learning for Image Recognition",
        "Dong et al. 2021, Attention is not all you need: pure attention loses rank doubly exponentially with depth",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 250, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 350, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        choices = [(residual, seed) for seed in seeds for residual in (True, False)]
        starts = pd.concat(each(_start, choices), ignore_index=True)
        deep = pd.DataFrame(each(_deep, [(*arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in RATES]))
        curves = pd.concat(each(_shallow, [(*choice, self.steps, self.n_held_out) for choice in choices]), ignore_index=True)
        effects = [*_effects_at_the_start(starts), *_effects_of_depth(deep, bigram(n=self.n_held_out)), *_effects_on_new_text(curves)]
        return effects, {"starts": _starts_table(starts), "deep": _deep_table(deep), "curves": _curves_table(curves)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        ratio, bare, explodes, deep, same, kept = (
            effects[name].estimate
            for name in (
                "gradient without over with", "gradient without, no norms", "gradient with, no norms", "loss of six blocks without",
                "variation of the tokens without", "variation of the tokens with",
            )
        )  # fmt: skip
        at_equal, new = self.predictions[-1], effects["loss on new text without, at equal training loss"]
        worse = {"holds": "two blocks without are worse", "fails": "two blocks without are no worse", "open": "it stays open whether two blocks without are worse"}
        return (
            f"With norms before the sub-layers the first of twelve blocks has {ratio:.2g} times as large a gradient without residual connections as with them; "
            f"where there are no norms its gradient is {bare:.1e} without and {explodes:.1e} with them. Behind the last of twelve blocks with norms tokens "
            f"differ by {same:.1e} of their size without, {kept:.2f} with. Leaving them out adds {deep:+z.2f} nats per character to the loss of six blocks, at the "
            f"better of two learning rates. At equal training loss {worse[at_equal.outcome(new)]} on new text: {new.estimate:+z.3f} nats [{new.low:+z.3f}, {new.high:+z.3f}]."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        starts, deep = tables["starts"].frame, tables["deep"].frame
        last = starts[starts.n_layers == DEPTHS[-1]].groupby(["norm", "residual", "block"]).variation.mean().unstack(["norm", "residual"])
        first = starts[starts.block == 1].groupby(["norm", "residual", "n_layers"]).gradient.mean().unstack(["norm", "residual"])
        loss = deep.groupby(["residual", "rate"]).loss.agg(["mean", "min", "max"])
        labels = [f"{NAMES[residual]}, learning rate {rate:g}" for residual, rate in loss.index]
        least = loss["mean"].groupby("residual").min()
        said = f"mean of {self.n_seeds} seeds, before the first step."
        return (
            Lines(
                name="variation", title="How much the tokens still differ, block by block",
                caption=f"‖X − mean‖ / ‖X‖ behind each of {DEPTHS[-1]} blocks, {said}",
                alt="; ".join(f"{_arm(*arm)}: {last[arm].iloc[-1]:.2g} behind the last block" for arm in last.columns),
                x=last.index.to_numpy(float), series={_arm(*arm): Series(y=last[arm].to_numpy()) for arm in last.columns},
                x_label="block", y_label="variation of the tokens", log_y=True, markers=True,
            ),
            Lines(
                name="gradient", title="How large a gradient reaches the first block, by norms and residual connections",
                caption=f"‖∂L/∂θ‖ of the first block by the number of blocks, {said}",
                alt="; ".join(f"{_arm(*arm)}: {first[arm].iloc[-1]:.2g} at {DEPTHS[-1]} blocks" for arm in first.columns),
                x=first.index.to_numpy(float), series={_arm(*arm): Series(y=first[arm].to_numpy()) for arm in first.columns},
                x_label="blocks", y_label="norm of the gradient", log_y=True, markers=True,
            ),
            Bars(
                name="loss", title=f"{DEEP} blocks learn {'more' if least[True] < least[False] else 'no more'} with residual connections",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in zip(labels, loss["mean"], strict=True)), labels=labels,
                values=loss["mean"].to_numpy(), low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _arm(norm: str, residual: bool) -> str:
    return f"{'norms' if norm == 'layer' else 'no norms'}, {NAMES[residual]} skips"


def _start(residual: bool, seed: int) -> pd.DataFrame:
    """Every block of untrained networks of every depth, with and without norms: its gradient, and how tokens differ behind it."""
    rows = []
    for norm in ("layer", "none"):
        for n_layers in DEPTHS:
            config = dataclasses.replace(PAPER, n_layers=n_layers, norm=norm, final_norm=norm == "layer", residual=residual)
            model = started_as_in_the_paper(config, seed).double()
            exercise = CausalLM()(windows(1, seed=seed)[0], torch.Generator())
            with record(model, "blocks.*.resid_post") as activations:
                (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
            gradients = norms({name: p.grad for name, p in model.blocks.named_parameters(prefix="blocks")})
            for i, stream in enumerate(activations.values()):
                rows.append({
                    "residual": residual, "norm": norm, "seed": seed, "n_layers": n_layers, "block": i + 1,
                    "gradient": gradients[f"blocks.{i}"], "variation": float(token_variation(stream).mean()),
                })  # fmt: skip
    return pd.DataFrame(rows)


def _deep(residual: bool, rate: float, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A deep model that reads the whole text."""
    model = started_as_in_the_paper(dataclasses.replace(PAPER, n_layers=DEEP, residual=residual), seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps, learning_rate=rate), n_held_out=n_held_out)
    return {"residual": residual, "rate": rate, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _shallow(residual: bool, seed: int, steps: int, n_held_out: int) -> pd.DataFrame:
    """A shallow model that reads little text many times: its loss on that text and on new text on the way."""
    every = max(steps // 25, 1)
    model = started_as_in_the_paper(dataclasses.replace(PAPER, n_layers=SHALLOW, residual=residual), seed)
    text = windows(1).tokens[:N_CHARACTERS]
    lessons = RandomWindows(text, n_batches=steps, batch=BATCH, length=LENGTH, seed=seed)
    recipe = recipe_of(steps, decay="none", seed=seed)  # so that both are read at one learning rate, whenever
    texts = {"training": chunks(text, batch=64, length=LENGTH), "loss": held_out(n=n_held_out)}
    rows = []
    with TemporaryDirectory() as folder:
        for step in [*range(every, steps, every), steps]:
            train(model, lessons, CausalLM(), recipe, folder=folder, resume=True, until=step)
            losses = {name: evaluate(model, pieces, CausalLM(), recipe) for name, pieces in texts.items()}
            rows.append({"residual": residual, "seed": seed, "step": step, **losses})
    return pd.DataFrame(rows)


def _effects_at_the_start(starts: pd.DataFrame) -> list[Effect]:
    """Gradients of the first block, and what is left of the tokens' differences behind the last, with norms and DEPTHS[-1] blocks."""
    deepest = starts[starts.n_layers == DEPTHS[-1]].set_index(["norm", "block", "residual", "seed"]).sort_index()
    gradient, variation = deepest.gradient, deepest.variation
    first = {norm: gradient[norm, 1] for norm in ("layer", "none")}
    return [
        Effect.of_ratios("gradient without over with", first["layer"][False] / first["layer"][True]),
        Effect.of_ratios("gradient without, no norms", first["none"][False]),
        Effect.of_ratios("gradient with, no norms", first["none"][True]),
        Effect.over_seeds("variation of the tokens without", variation["layer", DEPTHS[-1], False]),
        Effect.over_seeds("variation of the tokens with", variation["layer", DEPTHS[-1], True]),
        Effect.over_seeds("variation of the tokens without, no norms", variation["none", DEPTHS[-1], False]),
    ]


def _effects_of_depth(deep: pd.DataFrame, pairs: float) -> list[Effect]:
    loss = deep.groupby(["residual", "seed"]).loss.min()  # at the better rate
    return [
        Effect.over_seeds("loss of six blocks without", loss[False] - loss[True], "nats"),
        Effect.over_seeds("deep minus bigram", loss[True] - pairs, "nats"),
    ]


def _effects_on_new_text(curves: pd.DataFrame) -> list[Effect]:
    differences, levels = [], []
    for _, both in curves.groupby("seed"):
        arms = {residual: arm for residual, arm in both.groupby("residual")}
        level = max(float(arm.training.min()) for arm in arms.values())
        differences.append(_at(arms[False], level) - _at(arms[True], level))
        levels.append(level)
    return [
        Effect.over_seeds("loss on new text without, at equal training loss", differences, "nats"),
        Effect.over_seeds("that training loss", levels, "nats"),
    ]


def _at(curve: pd.DataFrame, level: float) -> float:
    """The loss on new text where the training loss first comes down to a level, between two evaluations on the line between them."""
    training, loss = curve.training.cummin().to_numpy(), curve.loss.to_numpy()
    there = int(np.argmax(training <= level + 1e-12))
    if there == 0 or math.isclose(training[there], training[there - 1]):
        return float(loss[there])
    share = (training[there - 1] - level) / (training[there - 1] - training[there])
    return float(loss[there - 1] + share * (loss[there] - loss[there - 1]))


def _starts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every block of every network before the first step.", residual=("", "are there residual connections?"), norm=("", "norm before the sub-layers"),
        seed=("", "of weights and data"), n_layers=("blocks", "of the network"), block=("", "number of the block, the first is 1"),
        gradient=("1", "‖∂L/∂θ‖ of its parameters"), variation=("1", "‖X − mean‖_F / ‖X‖_F behind it, mean over windows"),
    )  # fmt: skip


def _deep_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Every model of {DEEP} blocks.", residual=("", "are there residual connections?"),
        rate=("1", "learning rate, the peak"), seed=("", "of weights and data"), loss=("nats per character", "on held-out prose, behind the last step"),
        n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"The training of {SHALLOW} blocks with {N_CHARACTERS} characters.", residual=("", "are there residual connections?"),
        seed=("", "of weights and data"), step=("steps", "done"), training=("nats per character", "on all of these characters, in pieces of 32"),
        loss=("nats per character", "on held-out prose"),
    )  # fmt: skip


STUDY = ResidualConnections
