"""Learning rate and dropout: does warm-up help wherever the norms stand and whatever the rate, does decay, does dropout?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._curves import in_parts
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import BATCH, LENGTH, bigram, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Dropout
from reports import Bars, Figure, Lines, Series, Table

WORST = math.log(PAPER.d_vocab)
"""nats per character of a uniform guess: what a training counts as that ends above it, or in numbers that are not finite"""
CORNERS = (("post", 3e-3), ("post", 1e-3), ("pre", 1e-2), ("pre", 1e-3))
"""where the norms stand, and the peak learning rates at which warm-up is tried there, the higher one first"""
(_, HIGH), (_, LOW) = POST = CORNERS[:2]


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one arm is trained."""

    place: str = "pre"
    rate: float = 3e-3
    warm: bool = True
    decay: bool = True
    dropout: bool = False

    def __str__(self) -> str:
        parts = (
            f"{self.place}-norm",
            f"{self.rate:g}",
            "" if self.warm else "no warm-up",
            "" if self.decay else "no decay",
            "dropout" if self.dropout else "",
        )
        return ", ".join(part for part in parts if part)


WAYS = (
    *(Way(place=place, rate=rate, warm=warm) for place, rate in CORNERS for warm in (True, False)),
    Way(), Way(decay=False), Way(dropout=True),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WarmupAndDropout(Study):
    number: ClassVar[int] = 19
    name: ClassVar[str] = "warmup-and-dropout"
    question: ClassVar[str] = "How are learning rate and dropout set?"
    popular: ClassVar[str] = "Warm up, then decay; dropout in attention and feed-forward layers."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with norms after the sums and a high rate warm-up helps", quantity=f"loss without warm-up, post-norm, {HIGH:g}", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="with norms before the sub-layers and a low rate it helps, too", quantity="loss without warm-up, pre-norm, 0.001", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="decay helps", quantity="loss without decay", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="dropout helps", quantity="loss without dropout", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="with norms after the sums and warm-up something is learnt",
            quantity="post-norm minus bigram",
            relation="<",
            threshold=0.3,
            unit="nats",
        ),
        Prediction(says="the studies' recipe beats the bigram", quantity="recipe minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        f"Four blocks from Glorot's start, norms before the sub-layers (peak learning rate 0.001 or 0.01) or after the sums ({LOW:g} or {HIGH:g}), with a linear warm-up over the "
        "first fifth of the steps or none, then half a cosine down to 0; gradients are not clipped, since clipping can hide what warm-up is for. At "
        "0.003 with norms before: no decay after the warm-up, and dropout of 0.1 of attention weights and of hidden units. A training that ends "
        "above a uniform guess, or in numbers that are not finite, counts as one. Each effect is without minus with, the same seed. The high rate with norms after the "
        f"sums was set so that warm-up is needed if anywhere: {HIGH:g} is the highest of 0.003, 0.004, 0.005 and 0.006 at which every model with warm-up beat the bigram, in four "
        "seeds that the study does not use. So warm-up is also judged with either arm at the better of its two rates, by the mean over the seeds."
    )
    scale: ClassVar[str] = "0.2 M parameters, four blocks, fewer characters than the text has"
    limits: ClassVar[str] = (
        "Dropout is for texts that are read many times (question 30); here windows are drawn with replacement, and a place of the text is read 0.7 times on average at the "
        "most. The models are early in their learning, not far from the bigram, where decay has little to do. Without warm-up the first fifth of the steps is done at full "
        "rate, so that at a low rate warm-up takes steps away. Deeper models with norms after the sums need warm-up at lower rates, too."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, sections 5.3 and 5.4", "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture",
        "Liu et al. 2020, Understanding the Difficulty of Training Transformers",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 5, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 200, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 260, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 200
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(way, seed, self.steps, self.n_held_out) for seed in seeds for way in WAYS])
        arms, curves = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("arm", "curve"))
        loss = arms.pivot(index="seed", columns="way", values="loss")
        lost = {
            corner: loss[str(Way(place=corner[0], rate=corner[1], warm=False))] - loss[str(Way(place=corner[0], rate=corner[1]))]
            for corner in CORNERS
        }
        post = {(rate, warm): loss[str(Way(place=place, rate=rate, warm=warm))] for place, rate in POST for warm in (True, False)}
        better = {warm: min((HIGH, LOW), key=lambda rate: post[rate, warm].mean()) for warm in (True, False)}
        at_best = {warm: post[rate, warm] for warm, rate in better.items()}
        effects = [
            *(Effect.over_seeds(f"loss without warm-up, {place}-norm, {rate:g}", values, "nats") for (place, rate), values in lost.items()),
            Effect.over_seeds("loss without warm-up, post-norm, at the better rate", at_best[False] - at_best[True], "nats"),
            *(Effect.exact(f"better rate {_with(warm)}, post-norm", rate) for warm, rate in better.items()),
            Effect.over_seeds("loss without decay", loss[str(Way(decay=False))] - loss[str(Way())], "nats"),
            Effect.over_seeds("loss without dropout", loss[str(Way())] - loss[str(Way(dropout=True))], "nats"),
            Effect.over_seeds("post-norm minus bigram", loss[str(Way(place="post", rate=HIGH))] - bigram(n=self.n_held_out), "nats"),
            Effect.exact("readings of a place of the text", self.steps * BATCH * LENGTH / len(windows(1).tokens)),
            Effect.over_seeds("recipe minus bigram", loss[str(Way())] - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"arms": _arms_table(arms), "curves": _curves_table(curves)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        post_high, post, pre_high, pre_low = (effects[f"loss without warm-up, {place}-norm, {rate:g}"].estimate for place, rate in CORNERS)
        best, with_, without, decay, dropout, readings, recipe = (
            effects[name].estimate
            for name in (
                "loss without warm-up, post-norm, at the better rate", *(f"better rate {_with(warm)}, post-norm" for warm in (True, False)),
                "loss without decay", "loss without dropout", "readings of a place of the text", "recipe minus bigram",
            )
        )  # fmt: skip
        return (
            f"Without warm-up the loss changes by {post_high:+z.2f} nats with norms after the sums at a rate of {HIGH:g}, the highest at which models with warm-up learnt in seeds set aside, by {post:+z.2f} at {LOW:g}, "
            f"and by {best:+z.2f} with either at the better of the two ({with_:g} with, {without:g} without); with norms before the sub-layers by {pre_high:+z.2f} at 0.01 and {pre_low:+z.2f} at "
            f"0.001. The studies' recipe ends {abs(recipe):.2f} nats {'below' if recipe < 0 else 'above'} the bigram; without decay that changes by {decay:+z.2f}. Without dropout, on text of "
            f"which a place is read {readings:.1f} times on average, the loss changes by {dropout:+z.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        loss = arms.groupby("way").loss.agg(["mean", "min", "max"]).loc[[str(way) for way in WAYS]]
        shown = [str(way) for way in WAYS if way.place == "post"]
        whole = curves.groupby("way").seed.nunique().reindex(shown, fill_value=0) == self.n_seeds
        drawn, broken = ([way for way in shown if whole[way] == there] for there in (True, False))
        mean = curves.groupby(["step", "way"]).loss.mean().unstack("way")
        return (
            Bars(
                name="loss", title="Loss with and without warm-up, by rate and place of the norms",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; {WORST:.2f} is a uniform guess.",
                alt=", ".join(f"{way}: {value:.3f}" for way, value in loss["mean"].items()), labels=list(loss.index), values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
            Lines(
                name="curves", title="Norms after the sums: how training goes with and without warm-up",
                caption=f"Loss on the training text, mean of {self.n_seeds} seeds over neighbouring steps."
                + (f" Not drawn, since some seed broke off: {'; '.join(broken)}." if broken else ""),
                alt="; ".join(f"{way} ends at {mean[way].iloc[-1]:.2f}" for way in drawn), x=mean.index.to_numpy(float),
                series={way: Series(y=mean[way].to_numpy()) for way in drawn}, x_label="step", y_label="nats per character",
            ),
        )  # fmt: skip


def _with(warm: bool) -> str:
    return "with warm-up" if warm else "without warm-up"


def _arm(way: Way, seed: int, steps: int, n_held_out: int) -> dict[str, list[dict[str, Any]]]:
    """One model, its loss and its learning curve."""
    dropout = Dropout(pattern=0.1, mlp=0.1) if way.dropout else Dropout()
    model = started_as_in_the_paper(dataclasses.replace(PAPER, n_layers=4, norm_place=way.place, dropout=dropout), seed)
    recipe = recipe_of(
        steps, learning_rate=way.rate, warmup=steps // 5 if way.warm else 0, decay="cosine" if way.decay else "none", clip_norm=None
    )
    row = {"way": str(way), **dataclasses.asdict(way), "seed": seed, "n_parameters": sum(p.numel() for p in model.parameters())}
    try:
        learnt = learn_characters(model, seed=seed, recipe=recipe, n_held_out=n_held_out)
    except FloatingPointError:
        return {"arm": [{**row, "loss": WORST, "flops": math.nan}], "curve": []}
    loss = min(learnt.loss, WORST) if math.isfinite(learnt.loss) else WORST
    curve = [{"way": str(way), "seed": seed, **part} for part in in_parts(learnt.history, "loss")]
    return {"arm": [{**row, "loss": loss, "flops": learnt.flops}], "curve": curve}


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", way=("", "how it was trained"), place=("", "where the norms stand"), rate=("1", "peak learning rate"),
        warm=("", "is there a warm-up?"), decay=("", "does the rate decay?"), dropout=("", "is there dropout?"), seed=("", "of weights and data"),
        n_parameters=("parameters", "of the model"), loss=("nats per character", "on held-out prose, behind the last step, at most that of a uniform guess"),
        flops=("FLOP", "of the training, 6 per weight and token; missing where it broke off"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The training.", way=("", "how it was trained"), seed=("", "of weights and data"), step=("steps", "middle of the steps that are averaged"),
        loss=("nats per character", "on the training text, mean of these steps"),
    )  # fmt: skip


STUDY = WarmupAndDropout
