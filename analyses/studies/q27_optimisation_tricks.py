"""Which tricks help optimisation? Warm-up, clipping, weight decay and dropout, all combined and told apart by a factorial design."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._curves import in_parts
from analyses.studies._effects import EFFECTS, Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import bigram, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Dropout
from reports import Bars, Figure, Lines, Series, Table

TRICKS = {"warmup": "warm-up", "clip": "clipping", "weight_decay": "weight decay", "dropout": "dropout"}
DESIGN = tuple((a, b, c, a ^ b ^ c) for a, b, c in itertools.product((False, True), repeat=3))
"""half of the 2⁴ combinations, I = ABCD (Box & Hunter 1961): every effect of one trick is free of all effects of two"""
USUAL, HIGH = 3e-3, 3e-2
"""peak learning rates"""
TINY = 1e-3
"""a clipping norm far below every gradient's"""
MATTERS = 0.02
"""nats: a smaller gain is not what the popular answer means"""
DIVERGED = f"share of trainings at {HIGH:g} that end no better than a uniform guess"
WORST = math.log(PAPER.d_vocab)
"""nats per character of a uniform guess: what a training counts as that ends above it, or in numbers that are not finite"""


@dataclass(frozen=True, kw_only=True)
class OptimisationTricks(Study):
    number: ClassVar[int] = 27
    name: ClassVar[str] = "optimisation-tricks"
    question: ClassVar[str] = "Which tricks help optimisation?"
    popular: ClassVar[str] = "Warm-up, gradient clipping, weight decay and dropout raise stability and quality."
    predictions: ClassVar[tuple[Prediction, ...]] = tuple(
        Prediction(says=f"{trick} lowers the loss by more than {MATTERS:g} nats{when}", quantity=f"gained by {trick}{at}", relation=">", threshold=MATTERS, unit="nats")
        for at, when in (("", ""), (f" at {HIGH:g}", " at ten times the rate"))
        for trick in TRICKS.values()
    )
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the best combination beats the bigram", quantity="best minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Eight combinations of four tricks, half of all sixteen, in which the effect of each trick is free of the effects of pairs: warm-up over the first tenth "
        "of the steps, the gradient's norm clipped at 1, weight decay of 0.1, dropout of 0.1 of attention weights, hidden units and what sub-layers add. Gained "
        f"by a trick: mean held-out loss of the four without it minus that of the four with it, the same seed, at a peak learning rate of {USUAL:g}. For "
        f"stability the same at {HIGH:g}, where a training that ends above a uniform guess counts as one. Clipping at {TINY:g} touches every step: Adam divides "
        "the gradient by its own recent size, so that a constant factor on all gradients changes nothing but the ε in its denominator, and "
        "clipping can only act through what varies from step to step."
    )
    scale: ClassVar[str] = "0.1 M parameters, fewer characters read than the text has, AdamW with cosine decay"
    limits: ClassVar[str] = (
        "Two layers with norms before the sub-layers, clean data, fewer characters read than the text has: the tricks are also used in deep models with norms after the sums (warm-up), for outliers in "
        "data and for half precision (clipping), for long training (weight decay) and for little text (dropout, question 30)."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Kingma & Ba 2015, Adam: A Method for Stochastic Optimization, section 2.1", "Pascanu et al. 2013, On the difficulty of training recurrent neural networks",
        "Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization", "Box & Hunter 1961, The 2^(k−p) Fractional Factorial Designs",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "n_held_out": 8},
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
        arms = [_Arm(rate, *tricks, 1.0) for rate in (USUAL, HIGH) for tricks in DESIGN] + [_Arm(USUAL, False, True, False, False, TINY)]
        found = each(_trained, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in arms])
        runs = pd.DataFrame([row for row, _ in found])
        design = runs[runs.clip_norm == 1.0]
        usual = design[design.rate == USUAL]
        bare = usual[~usual[list(TRICKS)].any(axis=1)].set_index("seed")
        effects = [
            *(Effect.over_seeds(f"gained by {said}", _gained(usual, trick), "nats") for trick, said in TRICKS.items()),
            *(
                Effect.over_seeds(f"gained by {said} at {HIGH:g}", _gained(design[design.rate == HIGH], trick), "nats")
                for trick, said in TRICKS.items()
            ),
            Effect.over_seeds("steps that are clipped at 1", usual[usual["clip"]].groupby("seed").clipped.mean(), within=(0, 1)),
            Effect.over_seeds(DIVERGED, (design[design.rate == HIGH].set_index("seed").loss >= WORST).groupby("seed").mean(), within=(0, 1)),
            Effect.over_seeds(
                f"gained by clipping every step at {TINY:g}", bare.loss - runs[runs.clip_norm == TINY].set_index("seed").loss, "nats"
            ),
            Effect.over_seeds("best minus bigram", usual.groupby("seed").loss.min() - bigram(n=self.n_held_out), "nats"),
        ]
        norms = pd.DataFrame([row for _, rows in found for row in rows])
        return effects, {"runs": _runs_table(runs), "gradients": _gradients_table(norms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        usual, high = (_told({said: effects[f"gained by {said}{at}"] for said in TRICKS.values()}) for at in ("", f" at {HIGH:g}"))
        tiny = effects[f"gained by clipping every step at {TINY:g}"]
        return (
            f"Nats gained in brackets: at a peak rate of {USUAL:g} the loss is {usual}. At {HIGH:g}, where {effects[DIVERGED].estimate:.0%} of the trainings end no better than a "
            f"uniform guess, it is {high}. Clipping every step to a norm of {TINY:g}, at {USUAL:g} and without the other tricks, gains {tiny.estimate:+z.3f} [{tiny.low:+z.3f}, {tiny.high:+z.3f}] over no trick at all."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        effects, norms = tables[EFFECTS].frame.set_index("quantity"), tables["gradients"].frame
        rows = effects.loc[[f"gained by {said}{at}" for said in TRICKS.values() for at in ("", f" at {HIGH:g}")]]
        labels = [f"{said}, {rate:g}" for said in TRICKS.values() for rate in (USUAL, HIGH)]
        best = rows.estimate.idxmax().removeprefix("gained by ")
        by_step = norms[norms.clip_norm == 1.0].groupby(["step", "rate"]).norm.mean().unstack("rate")
        return (
            Bars(
                name="gains", title=f"What each trick gains: most is {best}",
                caption=f"Held-out loss without minus with it, mean over the other tricks and {self.n_seeds} seeds with its 95 % interval, by the peak learning rate.",
                alt=", ".join(f"{label}: {value:+z.3f}" for label, value in zip(labels, rows.estimate, strict=True)), labels=labels,
                values=rows.estimate.to_numpy(), low=rows.low.to_numpy(), high=rows.high.to_numpy(), unit="nats per character", signed=True,
            ),
            Lines(
                name="gradients", title="How large the gradients are that clipping meets", caption="Norm before clipping, mean over the eight combinations of tricks and all seeds.",
                alt="; ".join(f"{rate:g}: {by_step[rate].iloc[0]:.2g} at first, {by_step[rate].iloc[-1]:.2g} in the end" for rate in by_step),
                x=by_step.index.to_numpy(float), series={f"rate {rate:g}": Series(y=by_step[rate].to_numpy()) for rate in by_step}, x_label="step",
                y_label="norm of the gradient", log_y=True,
            ),
        )  # fmt: skip


@dataclass(frozen=True)
class _Arm:
    """The peak learning rate, which tricks are used, and the norm to which gradients are clipped where they are."""

    rate: float
    warmup: bool
    clip: bool
    weight_decay: bool
    dropout: bool
    clip_norm: float


def _trained(arm: _Arm, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One training, and the norms of its gradients."""
    drop = Dropout(pattern=0.1, mlp=0.1, sublayer=0.1) if arm.dropout else Dropout()
    model = started_as_in_the_paper(dataclasses.replace(PAPER, dropout=drop), seed)
    recipe = recipe_of(
        steps,
        learning_rate=arm.rate,
        warmup=steps // 10 if arm.warmup else 0,
        clip_norm=arm.clip_norm if arm.clip else None,
        weight_decay=0.1 if arm.weight_decay else 0.0,
    )
    row = dataclasses.asdict(arm) | {"seed": seed, "n_parameters": sum(parameter.numel() for parameter in model.parameters())}
    try:
        learnt = learn_characters(model, seed=seed, recipe=recipe, n_held_out=n_held_out)
    except FloatingPointError:
        return {**row, "loss": WORST, "clipped": math.nan, "flops": math.nan}, []
    loss = min(learnt.loss, WORST) if math.isfinite(learnt.loss) else WORST
    norm = learnt.history.gradient_norm
    read = [
        {"rate": arm.rate, "clip_norm": arm.clip_norm, "seed": seed, "step": part["step"], "norm": part["gradient_norm"]}
        for part in in_parts(learnt.history, "gradient_norm")
    ]
    return {**row, "loss": loss, "clipped": float((norm > arm.clip_norm).mean()), "flops": learnt.flops}, read


def _gained(runs: pd.DataFrame, trick: str) -> pd.Series:
    """Mean loss without a trick minus that with it, by seed."""
    loss = runs.groupby([trick, "seed"]).loss.mean()
    return loss[False] - loss[True]


def _told(gained: Mapping[str, Effect]) -> str:
    """What each trick does to the loss, as far as its interval tells.

    >>> ends = {"a": (0.03, 0.05), "b": (0.01, 0.015), "c": (0.01, 0.03), "d": (-0.03, -0.01), "e": (-0.01, 0.03), "f": (0.021, 0.023)}
    >>> print(_told({name: Effect(quantity=name, estimate=sum(two) / 2, low=two[0], high=two[1], n=3) for name, two in ends.items()}))
    lowered by more than 0.02 nats by a (+0.040), f (+0.022); lowered by less than 0.02 nats by b (+0.013); lowered, by more than 0.02 nats or less, by c (+0.020); raised by d (-0.020); not moved for certain by e (+0.010)
    """
    more, less, some = f"lowered by more than {MATTERS:g} nats by", f"lowered by less than {MATTERS:g} nats by", f"lowered, by more than {MATTERS:g} nats or less, by"
    raised, neither = "raised by", "not moved for certain by"
    found: dict[str, list[str]] = {kind: [] for kind in (more, less, some, raised, neither)}
    for trick, one in gained.items():
        if one.low > 0:
            kind = more if one.low > MATTERS else less if one.high <= MATTERS else some
        else:
            kind = raised if one.high < 0 else neither
        found[kind].append(f"{trick} ({one.estimate:+z.3f})")
    return "; ".join(f"{kind} {', '.join(tricks)}" for kind, tricks in found.items() if tricks)


def _runs_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every training.", rate=("1", "peak learning rate"), warmup=("", "is there a warm-up?"), clip=("", "are gradients clipped?"),
        weight_decay=("", "is there weight decay?"), dropout=("", "is there dropout?"), clip_norm=("1", "largest norm, where they are clipped"),
        seed=("", "of weights and data"), n_parameters=("parameters", "of the model"),
        loss=("nats per character", "on held-out prose, behind the last step, at most that of a uniform guess"),
        clipped=("1", "share of the steps whose gradient is larger than that norm"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _gradients_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The gradients.", rate=("1", "peak learning rate"), clip_norm=("1", "largest norm, where they are clipped"), seed=("", "of weights and data"), step=("steps", "middle of the steps that are averaged"),
        norm=("1", "norm of the gradient before clipping, mean of these steps"),
    )  # fmt: skip


STUDY = OptimisationTricks
