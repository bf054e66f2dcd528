"""What are LayerNorm and residual connections for? Which of them keeps the gradient alive, and which makes the learning rate forgiving?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import bigram, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import TransformerConfig
from model.training import CausalLM, token_loss
from model.training.layers import norms
from probes import record
from reports import Bars, Figure, Lines, Series, Table

PLACES = {"before": "norm before each sub-layer", "after": "norm after each sum", "none": "no norm"}
DEPTH = 12
"""blocks of the networks that are looked at before the first step"""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""peak learning rates"""
WORST = math.log(PAPER.d_vocab)
"""nats per character of a uniform guess: what a training counts as that ends above it, or in numbers that are not finite"""


@dataclass(frozen=True, kw_only=True)
class NormsAndResiduals(Study):
    number: ClassVar[int] = 25
    name: ClassVar[str] = "norms-and-residuals"
    question: ClassVar[str] = "What are LayerNorm and residuals for?"
    popular: ClassVar[str] = "LayerNorm stabilises training; residuals prevent vanishing gradients."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with norms the gradient vanishes without residuals", quantity="decades lost without residuals, with norms", relation=">", threshold=1.0, unit="decades"),
        Prediction(says="without norms, too", quantity="decades lost without residuals, without norms", relation=">", threshold=1.0, unit="decades"),
        Prediction(says="norms before the sub-layers make the learning rate matter less", quantity="sensitivity taken by norms before", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="norms after the sums make it matter less", quantity="sensitivity taken by norms after", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with norms before, the best learning rate beats the bigram", quantity="best minus bigram", relation="<", threshold=0.0, unit="nats"),
    )  # fmt: skip
    method: ClassVar[str] = (
        f"Residual connections or none × norms before, after, or none, from Glorot's start. Gradient: ‖∂L/∂θ‖ of the first of {DEPTH} blocks before the "
        "first step, in fp64; decades lost: log10 of with over without residual connections. Stability: four blocks with residual connections are "
        f"trained at {len(RATES)} learning rates; sensitivity is the mean over them of the final held-out loss minus that at the best (Wortsman et al. 2023), "
        "where a training that ends above a uniform guess counts as one."
    )
    scale: ClassVar[str] = "0.2 M parameters, d_model = 64, windows of 32 characters"
    limits: ClassVar[str] = (
        "Learning rates over a factor of 30, with the warm-up, the clipping and the cosine of all studies; norms also do other things (they bound what a "
        "later block reads). Glorot's start is a particular size of the weights, and without norms everything depends on it."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ba et al. 2016, Layer Normalization",
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
        "Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 200, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 240, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 200
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        starts = pd.concat(
            each(_start, [(place, residual, seed) for seed in seeds for place in PLACES for residual in (True, False)]), ignore_index=True
        )
        arms = pd.DataFrame(
            each(_trained, [(place, rate, seed, self.steps, self.n_held_out) for seed in seeds for place in PLACES for rate in RATES])
        )
        lost = {place: _decades_lost(starts[(starts.norm == place) & (starts.block == 1)]) for place in PLACES}
        loss = arms.pivot(index="seed", columns=["norm", "rate"], values="loss")
        sensitivity = {place: loss[place].mean(axis=1) - loss[place].min(axis=1) for place in PLACES}
        effects = [
            Effect.over_seeds("decades lost without residuals, with norms", lost["before"], "decades"),
            Effect.over_seeds("decades lost without residuals, with norms after", lost["after"], "decades"),
            Effect.over_seeds("decades lost without residuals, without norms", lost["none"], "decades"),
            *(
                Effect.over_seeds(f"sensitivity taken by norms {place}", sensitivity["none"] - sensitivity[place], "nats")
                for place in ("before", "after")
            ),
            *(Effect.over_seeds(f"sensitivity, {PLACES[place]}", sensitivity[place], "nats") for place in PLACES),
            *(
                Effect.over_seeds(f"lost at the best rate, norms {place}", loss[place].min(axis=1) - loss["none"].min(axis=1), "nats")
                for place in ("before", "after")
            ),
            Effect.over_seeds("best minus bigram", loss["before"].min(axis=1) - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"starts": _starts_table(starts), "arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        with_, without = (effects[f"decades lost without residuals, {norms}"].estimate for norms in ("with norms", "without norms"))
        before, after, none = (effects[f"sensitivity, {PLACES[place]}"].estimate for place in PLACES)
        cost_before, cost_after = (effects[f"lost at the best rate, norms {place}"].estimate for place in ("before", "after"))
        return (
            f"Without residual connections the first of {DEPTH} blocks has {10**-with_:.2g} times the gradient where there are norms before the sub-layers, and "
            f"{10**-without:.1e} times where there are no norms. Over the learning rates the loss is on average {before:.2f} nats above that at the best with norms "
            f"before, {after:.2f} with norms after, {none:.2f} without; each at its best rate, norms before end {cost_before:+.2f} nats from none, norms after {cost_after:+.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        starts, arms = tables["starts"].frame, tables["arms"].frame
        loss = arms.groupby(["rate", "norm"]).loss.agg(["mean", "min", "max"]).unstack("norm")
        first = np.log10(starts[starts.block == 1].groupby(["norm", "residual"]).gradient.mean())
        labels = [f"{PLACES[place]}, {'with' if residual else 'without'} skips" for place, residual in first.index]
        best = loss["mean"].min()
        return (
            Lines(
                name="rates", title=f"{PLACES[best.idxmin()].capitalize()} reaches the lowest loss",
                caption=f"Held-out loss by the peak learning rate, four blocks with residual connections, mean of {self.n_seeds} seeds with the smallest and "
                f"largest. {WORST:.2f} is a uniform guess.",
                alt="; ".join(f"{PLACES[place]}: {', '.join(f'{value:.2f}' for value in loss['mean'][place])}" for place in PLACES), x=loss.index.to_numpy(float),
                series={
                    PLACES[place]: Series(y=loss["mean"][place].to_numpy(), low=loss["min"][place].to_numpy(), high=loss["max"][place].to_numpy())
                    for place in PLACES
                },
                x_label="peak learning rate", y_label="nats per character", log_x=True, markers=True,
            ),
            Bars(
                name="gradient", title="What reaches the first of twelve blocks",
                caption=f"log10 of ‖∂L/∂θ‖ of the first block before the first step, mean of {self.n_seeds} seeds.",
                alt=", ".join(f"{label}: 10^{value:.1f}" for label, value in zip(labels, first, strict=True)), labels=labels, values=first.to_numpy(),
                unit="decades", signed=True,
            ),
        )  # fmt: skip


def _config(place: str, n_layers: int, residual: bool = True) -> TransformerConfig:
    changes: dict[str, Any] = (
        {"norm": "none", "final_norm": False} if place == "none" else {"norm_place": "pre" if place == "before" else "post"}
    )
    return dataclasses.replace(PAPER, n_layers=n_layers, residual=residual, **changes)


def _start(place: str, residual: bool, seed: int) -> pd.DataFrame:
    """Every block of an untrained network: its gradient, and the size of the stream behind it."""
    model = started_as_in_the_paper(_config(place, DEPTH, residual), seed).double()
    exercise = CausalLM()(windows(1, seed=seed)[0], torch.Generator())
    with record(model, "blocks.*.resid_post") as activations:
        (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
    gradients = norms({name: parameter.grad for name, parameter in model.blocks.named_parameters(prefix="blocks")})
    return pd.DataFrame([
        {"norm": place, "residual": residual, "seed": seed, "block": i + 1, "gradient": gradients[f"blocks.{i}"], "size": float(stream.square().mean().sqrt())}
        for i, stream in enumerate(activations.values())
    ])  # fmt: skip


def _trained(place: str, rate: float, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A model of four blocks at one learning rate, what its training came to."""
    arm = {"norm": place, "rate": rate, "seed": seed}
    model = started_as_in_the_paper(_config(place, 4), seed)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    try:
        learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps, learning_rate=rate), n_held_out=n_held_out)
    except FloatingPointError:
        return {**arm, "loss": WORST, "diverged": True, "n_parameters": n_parameters, "flops": math.nan}
    loss = learnt.loss if math.isfinite(learnt.loss) else math.inf
    return {**arm, "loss": min(loss, WORST), "diverged": loss > WORST, "n_parameters": n_parameters, "flops": learnt.flops}


def _decades_lost(first: pd.DataFrame) -> pd.Series:
    """log10 of the first block's gradient with residual connections over that without, by seed."""
    gradient = first.pivot(index="seed", columns="residual", values="gradient")
    return np.log10(gradient[True] / gradient[False])


def _starts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Every block of networks of {DEPTH} blocks, before the first step.", norm=("", "where the norms stand"),
        residual=("", "are there residual connections?"), seed=("", "of weights and data"), block=("", "number of the block, the first is 1"),
        gradient=("1", "‖∂L/∂θ‖ of its parameters"), size=("1", "root mean square of the stream behind it"),
    )  # fmt: skip


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every trained model.", norm=("", "where the norms stand"), rate=("1", "peak learning rate"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step, at most that of a uniform guess"),
        diverged=("", "did it end above a uniform guess, or in numbers that are not finite?"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token; missing where it broke off"),
    )  # fmt: skip


STUDY = NormsAndResiduals
