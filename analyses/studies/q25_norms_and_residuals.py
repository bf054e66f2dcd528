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
from reports import Figure, Lines, Series, Table

PLACES = {"before": "norms before", "after": "norms after", "none": "without norms"}
"""before the sub-layers, or after the sums"""
DEPTH = 12
"""blocks of the networks that are looked at before the first step"""
RATES = (1e-3, 3e-3, 1e-2, 3e-2)
"""peak learning rates"""
LOWER = f"up to {RATES[-2]:g}"
"""the rates without the largest, at which a training fails or does not"""
WORST = math.log(PAPER.d_vocab)
"""nats per character of a uniform guess: what a training counts as that ends above it, or in numbers that are not finite"""


@dataclass(frozen=True, kw_only=True)
class NormsAndResiduals(Study):
    number: ClassVar[int] = 25
    name: ClassVar[str] = "norms-and-residuals"
    question: ClassVar[str] = "What are LayerNorm and residuals for?"
    popular: ClassVar[str] = "LayerNorm stabilises training; residuals prevent vanishing gradients."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with norms before the sub-layers the gradient vanishes without residuals", quantity="decades the gradient shrinks, norms before, without residuals", relation=">", threshold=1.0, unit="decades"),
        Prediction(says="without norms, too", quantity="decades the gradient shrinks, without norms, without residuals", relation=">", threshold=1.0, unit="decades"),
        Prediction(says="norms before the sub-layers make the learning rate matter less", quantity="sensitivity taken by norms before", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="norms after the sums make it matter less", quantity="sensitivity taken by norms after", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with norms before, the best learning rate beats the bigram", quantity="best minus bigram", relation="<", threshold=0.0, unit="nats"),
    )  # fmt: skip
    method: ClassVar[str] = (
        "Residual connections or none × norms before the sub-layers, after the sums, or none, from Glorot's start. Gradient: ‖∂L/∂θ‖ of each of "
        f"{DEPTH} blocks before the first step, in fp64; decades it shrinks: log10 of the last block's over the first's, below 0 where it grows on its way back. "
        f"Stability: four blocks with residual connections are trained at {len(RATES)} learning rates; sensitivity is the mean over them of the final "
        "held-out loss minus that at the best (Wortsman et al. 2023), where a training that ends above a uniform guess has failed and counts as a guess; "
        f"beside it the same over the rates {LOWER}."
    )
    scale: ClassVar[str] = (
        f"trained: 4 blocks, 0.2 M parameters, 200 updates of 16 windows of 32 characters; before the first step: {DEPTH} blocks, 0.6 M parameters; d_model = 64"
    )
    limits: ClassVar[str] = (
        "Learning rates over a factor of 30, with the warm-up, the clipping and the cosine of all studies; norms also do other things (they bound what a "
        "later block reads). Glorot's start is one size of the weights, and no other is tried."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ba et al. 2016, Layer Normalization",
        "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
        "Wortsman et al. 2023, Small-scale proxies for large-scale Transformer training instabilities",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 200, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 200, "n_held_out": 600},
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
        loss = arms.pivot(index="seed", columns=["norm", "rate"], values="loss")
        failed = arms.pivot(index="seed", columns=["norm", "rate"], values="diverged")["none"].astype(float)
        rates = {"": list(RATES), f", {LOWER}": list(RATES[:-1])}
        sensitivity = {(place, over): _sensitivity(loss[place][some]) for place in PLACES for over, some in rates.items()}
        effects = [
            *(
                Effect.over_seeds(_shrinks(place, residual), _decades(starts[(starts.norm == place) & (starts.residual == residual)]), "decades")
                for place in PLACES for residual in (False, True)
            ),
            *(
                Effect.over_seeds(f"sensitivity taken by norms {place}{over}", sensitivity["none", over] - sensitivity[place, over], "nats")
                for over in rates for place in ("before", "after")
            ),
            *(Effect.over_seeds(f"sensitivity, {PLACES[place]}{over}", sensitivity[place, over], "nats") for over in rates for place in PLACES),
            Effect.over_seeds(f"fail without norms at {RATES[-1]:g}", failed[RATES[-1]], within=(0, 1)),
            Effect.over_seeds(f"fail without norms {LOWER}", failed[list(RATES[:-1])].mean(axis=1), within=(0, 1)),
            *(
                Effect.over_seeds(f"lost at the best rate, norms {place}", loss[place].min(axis=1) - loss["none"].min(axis=1), "nats")
                for place in ("before", "after")
            ),
            Effect.over_seeds("best minus bigram", loss["before"].min(axis=1) - bigram(n=self.n_held_out), "nats"),
        ]  # fmt: skip
        return effects, {"starts": _starts_table(starts), "arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        found = {name: effect.estimate for name, effect in effects.items()}
        bare, before = ([_way(effects[_shrinks(place, residual)]) for residual in (False, True)] for place in ("none", "before"))
        over, lower = ([found[f"sensitivity, {PLACES[place]}{rates}"] for place in PLACES] for rates in ("", f", {LOWER}"))
        best = [found[f"lost at the best rate, norms {place}"] for place in ("before", "after")]
        return (
            f"From the last of {DEPTH} blocks back to the first, without norms, the gradient {bare[0]} without residual connections and {bare[1]} with them; with norms before "
            f"the sub-layers it {before[0]} without and {before[1]} with them. Over the learning rates the loss is on average {over[0]:.2f} nats above that at the best with norms before, "
            f"{over[1]:.2f} with norms after, {over[2]:.2f} without norms, where {found[f'fail without norms at {RATES[-1]:g}']:.0%} of the trainings fail at {RATES[-1]:g} and "
            f"{found[f'fail without norms {LOWER}']:.0%} {LOWER}; over the rates {LOWER} it is {lower[0]:.2f}, {lower[1]:.2f} and {lower[2]:.2f}. Each at its best rate, norms before end "
            f"{_off(best[0])} and norms after {_off(best[1])} those without."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        starts, arms = tables["starts"].frame, tables["arms"].frame
        loss = arms.groupby(["rate", "norm"]).loss.agg(["mean", "min", "max"]).unstack("norm")
        gradient = np.exp(np.log(starts.gradient).groupby([starts.norm, starts.residual, starts.block]).mean()).unstack(["norm", "residual"])
        arm = {(place, residual): f"{PLACES[place]}, {'with' if residual else 'no'} skips" for place, residual in gradient.columns}
        rate, place = loss["mean"].stack().idxmin()
        return (
            Lines(
                name="rates", title=f"The lowest loss: {loss['mean'][place][rate]:.2f} nats, {PLACES[place]}, at a learning rate of {rate:g}",
                caption=f"Held-out loss by the peak learning rate, four blocks with residual connections, norms before the sub-layers or after the sums; mean of "
                f"{self.n_seeds} seeds with the smallest and largest. {WORST:.2f} is a uniform guess.",
                alt="; ".join(f"{PLACES[place]}: {', '.join(f'{value:.2f}' for value in loss['mean'][place])}" for place in PLACES), x=loss.index.to_numpy(float),
                series={
                    PLACES[place]: Series(y=loss["mean"][place].to_numpy(), low=loss["min"][place].to_numpy(), high=loss["max"][place].to_numpy())
                    for place in PLACES
                },
                x_label="peak learning rate", y_label="nats per character", log_x=True, markers=True,
            ),
            Lines(
                name="gradient", title=f"The gradient of each of {DEPTH} blocks before the first step",
                caption=f"‖∂L/∂θ‖ of every block, geometric mean of {self.n_seeds} seeds; skips: residual connections.",
                alt="; ".join(f"{arm[one]}: {gradient[one].iloc[0]:.2g} in the first, {gradient[one].iloc[-1]:.2g} in the last" for one in arm),
                x=gradient.index.to_numpy(float), series={arm[one]: Series(y=gradient[one].to_numpy()) for one in arm},
                x_label="block", y_label="norm of the gradient", log_y=True, markers=True,
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


def _shrinks(place: str, residual: bool) -> str:
    return f"decades the gradient shrinks, {PLACES[place]}, {'with' if residual else 'without'} residuals"


def _decades(blocks: pd.DataFrame) -> pd.Series:
    """log10 of the last block's gradient over the first's, by seed: above 0 where it shrinks on its way back.

    >>> _decades(pd.DataFrame({"seed": [0, 0, 0], "block": [1, 2, 3], "gradient": [0.01, 0.1, 1.0]})).round(6).tolist()
    [2.0]
    """
    gradient = blocks.pivot(index="seed", columns="block", values="gradient")
    return np.log10(gradient[gradient.columns.max()] / gradient[gradient.columns.min()])


def _sensitivity(loss: pd.DataFrame) -> pd.Series:
    """By seed: the mean over the learning rates, the columns, of the loss minus the least (Wortsman et al. 2023).

    >>> _sensitivity(pd.DataFrame({0.001: [2.0, 1.0], 0.01: [4.0, 1.0]})).tolist()
    [1.0, 0.0]
    """
    return loss.mean(axis=1) - loss.min(axis=1)


def _way(decades: Effect) -> str:
    """What a gradient does on its way back, as far as its interval tells.

    >>> _way(Effect.over_seeds("", [4.0, 4.1, 4.2])), _way(Effect.over_seeds("", [-0.1, 0.1]))
    ('shrinks by 4.1 decades', 'neither shrinks nor grows for certain')
    """
    if not decades.off_zero:
        return "neither shrinks nor grows for certain"
    return f"{'shrinks' if decades.estimate > 0 else 'grows'} by {abs(decades.estimate):.1f} decades"


def _off(nats: float) -> str:
    return f"{abs(nats):.2f} nats {'above' if nats > 0 else 'below'}"


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
