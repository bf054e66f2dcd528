"""What is the encoder? What do its residuals, its norms and its second direction bring, in nats per hidden character?"""

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
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_masking import BERT, DECODER, ENCODER, learn_prose, loss_of_hidden
from analyses.studies._training import bigram
from analyses.studies._verdict import Prediction
from model.training import CausalLM
from reports import Bars, Figure, Lines, Series, Table

ARMS = {
    "decoder": (DECODER, CausalLM()),
    "encoder": (ENCODER, BERT),
    "encoder, 15 % asked": (ENCODER, dataclasses.replace(BERT, rate=0.15)),
    "without residuals": (dataclasses.replace(ENCODER, residual=False), BERT),
    "without norms": (dataclasses.replace(ENCODER, norm="none"), BERT),
}
"""network, and what it is taught"""
FOLLOWED = ("decoder", "encoder", "encoder, 15 % asked")
"""are taught for fewer updates, too"""
SHARES = (0.1, 0.3)
"""of the updates"""
FLOWS = ("encoder", "without residuals", "without norms")
"""whose gradients are compared"""
FIRST = "decoder minus encoder after a tenth of the updates"


@dataclass(frozen=True, kw_only=True)
class Encoder(Study):
    number: ClassVar[int] = 7
    name: ClassVar[str] = "encoder"
    question: ClassVar[str] = "What is the encoder?"
    popular: ClassVar[str] = (
        "Identical layers of self-attention and feed-forward network, each with a residual connection and normalisation, so that information and gradients flow; it reads in both directions."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="reading in both directions, it knows a hidden character better", quantity="decoder minus encoder", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it does better with residual connections", quantity="lost without residuals", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it does better with normalisation", quantity="lost without norms", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="with both, gradients reach the first layer as they do the last", quantity="gradient of the first layer over the last, encoder", relation="==", threshold=1.0, margin=0.5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the decoder beats the bigram", quantity="decoder minus bigram", relation="<", threshold=0.0, unit="nats"),
        Prediction(says="the encoder beats the bigram", quantity="encoder minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Networks of one shape, with rotary positions and norms before the sub-layers, read the same windows of prose in the same order. The decoder learns "
        "the next character at every place; encoders learn 40 % of the characters (80 % of them masked, 10 % replaced, 10 % kept; one arm 15 %) from all others. "
        "All are asked for the same characters in the middle of held-out pieces of 32: the decoder from the left side, encoders from both sides with that "
        "character masked. Decoder and encoders are also taught for a tenth and three tenths of the updates, in trainings with a warm-up and a decay of their "
        "own. Without norms there is no final norm either. Gradient: norm of the first block's gradient over that of the last one's, mean over the training."
    )
    scale: ClassVar[str] = "0.1 M parameters, 2 layers, windows of 32 characters"
    limits: ClassVar[str] = (
        "An encoder learns from fewer characters of a window than a decoder does: which one is ahead may change with longer trainings than these. One learning "
        "rate for all arms (3e-3). The paper's norms stand behind the sums. Two layers may need residuals and norms less than twelve do (questions 11 and 25)."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.1", "Devlin et al. 2019, BERT", "Wettig et al. 2023, Should You Mask 15% in Masked Language Modeling?",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 400, "n_held_out": 256},
        "full": {"n_seeds": 5, "steps": 600, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 400
    """updates of each network"""
    n_held_out: int = 256
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        jobs = [(arm, self.steps) for arm in ARMS] + [(arm, steps) for arm in FOLLOWED for steps in self._shorter()]
        arms = pd.DataFrame(each(_arm, [(arm, seed, steps, self.n_held_out) for seed in seeds for arm, steps in jobs]))
        loss, flow = (arms[arms.steps == self.steps].pivot(index="seed", columns="arm", values=value) for value in ("loss", "flow"))
        first = arms[arms.steps == self._shorter()[0]].pivot(index="seed", columns="arm", values="loss")
        counted = bigram(n=self.n_held_out)
        effects = [
            Effect.over_seeds("decoder minus encoder", loss["decoder"] - loss["encoder"], "nats"),
            Effect.over_seeds("decoder minus encoder, 15 % asked", loss["decoder"] - loss["encoder, 15 % asked"], "nats"),
            Effect.over_seeds(FIRST, first["decoder"] - first["encoder"], "nats"),
            Effect.over_seeds("lost without residuals", loss["without residuals"] - loss["encoder"], "nats"),
            Effect.over_seeds("lost without norms", loss["without norms"] - loss["encoder"], "nats"),
            *(Effect.over_seeds(f"gradient of the first layer over the last, {arm}", flow[arm]) for arm in FLOWS),
            Effect.over_seeds("decoder minus bigram", loss["decoder"] - counted, "nats"),
            Effect.over_seeds("encoder minus bigram", loss["encoder"] - counted, "nats"),
        ]
        return effects, {"arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        both, residuals, norms, _ = (effects[one.quantity] for one in self.predictions)
        few, first = effects["decoder minus encoder, 15 % asked"], effects[FIRST]
        flow = {arm: effects[f"gradient of the first layer over the last, {arm}"].estimate for arm in FLOWS}
        ahead, loses = ("{} nats ahead", "{} nats behind"), ("loses {} nats", "gains {} nats")
        return (
            f"Asked for the same characters as the decoder, the encoder, which reads both sides, ends {_said(both, *ahead)} in the longest trainings "
            f"({_said(few, *ahead)} if it learns from 15 % of the characters in place of 40 %), and {_said(first, *ahead)} in those of a tenth of the updates. "
            f"Without residuals it {_said(residuals, *loses)}, without norms it {_said(norms, *loses)}. The first layer's gradient is {flow['encoder']:.2f} times "
            f"the last one's with both, {flow['without residuals']:.2f} times without residuals and {flow['without norms']:.2f} times without norms."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["arms"].frame
        by = frame[frame.steps == self.steps].groupby("arm").loss
        mean, low, high = (values[list(ARMS)] for values in (by.mean(), by.min(), by.max()))
        along = frame[frame.arm.isin(FOLLOWED)].groupby(["arm", "steps"]).loss.agg(["mean", "min", "max"])
        return (
            Bars(
                name="loss", title=f"Of hidden characters “{mean.idxmin()}” knows most after {self.steps} updates, “{mean.idxmax()}” least",
                caption=f"Nats of characters in the middle of held-out pieces, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt="; ".join(f"{arm}: {mean[arm]:.3f}" for arm in ARMS), labels=list(ARMS), values=mean.to_numpy(), low=low.to_numpy(), high=high.to_numpy(), unit="nats per character",
            ),
            Lines(
                name="updates", title="Hidden characters by the number of updates of a training",
                caption=f"Nats of characters in the middle of held-out pieces, mean of {self.n_seeds} seeds with the smallest and largest; every point is a training of its own.",
                alt="; ".join(f"{arm}: " + ", ".join(f"{value:.3f} after {n}" for n, value in along.loc[arm]["mean"].items()) for arm in FOLLOWED),
                x=along.loc["decoder"].index.to_numpy(float),
                series={arm: Series(y=along.loc[arm]["mean"].to_numpy(), low=along.loc[arm]["min"].to_numpy(), high=along.loc[arm]["max"].to_numpy()) for arm in FOLLOWED},
                x_label="updates", y_label="nats per character", log_x=True, markers=True,
            ),
        )  # fmt: skip

    def _shorter(self) -> list[int]:
        """Updates of the shorter trainings."""
        return sorted({max(1, round(share * self.steps)) for share in SHARES})


def _said(difference: Effect, more: str, less: str) -> str:
    """A difference by its sign, and whether the interval has it."""
    said = (more if difference.estimate > 0 else less).format(f"{abs(difference.estimate):.2f}")
    return said + ("" if difference.off_zero else " (the interval holds 0)")


def _arm(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One network: what it makes of hidden characters, and how much of the gradient reaches its first block."""
    config, objective = ARMS[arm]
    learnt = learn_prose(started_as_in_the_paper(config, seed), objective, seed=seed, steps=steps)
    gradients = [learnt.history[f"gradient_norm/blocks.{i}"] for i in (0, config.n_layers - 1)]
    return {
        "arm": arm, "seed": seed, "steps": steps, "loss": loss_of_hidden(learnt.model, n_held_out, "what precedes" if config.causal else "both sides"), "flow": float((gradients[0] / gradients[1]).mean()), "n_parameters": learnt.n_parameters,
        "flops": learnt.flops,
    }  # fmt: skip


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network.", arm=("", "network and what it is taught"), seed=("", "of weights and data"), steps=("", "updates of the training"), loss=("nats per character", "of hidden characters of held-out prose"),
        flow=("1", "norm of the first block's gradient over the last one's, mean over the training"), n_parameters=("parameters", "of the network"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = Encoder
