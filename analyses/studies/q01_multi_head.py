"""Why multi-head attention and not one head? Can one head look at one place only, and what do more heads buy?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._tasks_sources import CHANCE, LOWER_RATE, N_TOKENS, RATE, TEXT_LENGTH, learn_sources
from analyses.studies._training import BASE, bigram, character_model, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from reports import Bars, Figure, Lines, Series, Table

HEADS = (1, 2, 4)
SOURCES = (2, 4)
"""how many tokens a place has to know"""
TEXT_HEADS = (1, 4, 16)
LONGER = "accuracy of one head with four sources, longer at a lower rate"


@dataclass(frozen=True, kw_only=True)
class MultiHead(Study):
    number: ClassVar[int] = 1
    name: ClassVar[str] = "multi-head"
    question: ClassVar[str] = "Why multi-head attention and not one head?"
    popular: ClassVar[str] = (
        "Heads extract context from different subspaces in parallel; a single head attends to only part of the information; many heads capture "
        "complex dependencies better."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="a single head misses part of two sources",
            quantity="accuracy lost by one head with two sources",
            relation=">",
            threshold=0.05,
        ),
        Prediction(
            says="a single head misses part of four sources",
            quantity="accuracy lost by one head with four sources",
            relation=">",
            threshold=0.05,
        ),
        Prediction(says="several heads learn text better than one", quantity="loss of one head", relation=">", threshold=0.02, unit="nats"),
    )
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="four heads name four sources", quantity="accuracy of four heads with four sources", relation=">", threshold=0.9),
        Prediction(says="four heads name two sources", quantity="accuracy of four heads with two sources", relation=">", threshold=0.9),
        Prediction(says="four heads beat the bigram", quantity="four heads minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "The width of all heads together is 64 throughout, so that models of other numbers of heads have the same weights but for the biases of relative "
        f"positions. Sources: a block (attention, feed-forward network) reads {TEXT_LENGTH} random tokens out of {N_TOKENS}; every place has to know the m "
        "tokens before it, in order. One head with four sources is taught once more, with `longer` times the updates at a rate of "
        f"{LOWER_RATE:g} in place of {RATE:g}. Accuracy lost: that of four heads minus that of one head, with four sources the better of its two. Text: character decoders of two layers; loss of one head: that "
        "of one head minus that of four."
    )
    scale: ClassVar[str] = "0.05 M parameters and 16 tokens (sources), 0.1 M parameters and 32 characters (text)"
    limits: ClassVar[str] = (
        "The sources stand at known offsets, so that weights need not depend on content. The rate was chosen for one head and two sources; with four only one "
        "other is tried, and what more updates would bring is not shown. Whether heads make training more stable in deep models (Liu et al. "
        "2021) is not measured, and in larger models many heads can be removed after training without loss (Michel et al. 2019)."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.2 and table 3", "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
        "Sanford et al. 2023, Representational Strengths and Limitations of Transformers",
        "Liu et al. 2021, Multi-head or Single-head? An Empirical Comparison for Transformer Training",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "task_steps": 3, "longer": 2, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 250, "task_steps": 600, "longer": 2, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 350, "task_steps": 1200, "longer": 2, "n_held_out": 400},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model of text"""
    task_steps: int = 600
    """updates of each model that names its sources"""
    longer: int = 2
    """times as many has the one that is taught at a lower rate"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        long = [(1, 4, seed, self.longer * self.task_steps, LOWER_RATE) for seed in seeds]  # first, since they take the longest
        usual = [(heads, m, seed, self.task_steps, RATE) for seed in seeds for m in SOURCES for heads in HEADS]
        task = pd.DataFrame(each(_task, long + usual))
        text = pd.DataFrame(each(_text, [(heads, seed, self.steps, self.n_held_out) for seed in seeds for heads in TEXT_HEADS]))
        named = task[task.rate == RATE].groupby(["n_sources", "n_heads"]).right.apply(lambda x: x.to_numpy())
        longer = task[task.rate == LOWER_RATE].right.to_numpy()
        loss = text.groupby("n_heads").loss.apply(lambda x: x.to_numpy())
        effects = [
            Effect.over_seeds("accuracy lost by one head with two sources", named[2, 4] - named[2, 1], within=(-1, 1)),
            Effect.over_seeds("accuracy lost by one head with four sources", named[4, 4] - np.maximum(named[4, 1], longer), within=(-1, 1)),
            Effect.over_seeds("loss of one head", loss[1] - loss[4], "nats"),
            Effect.over_seeds("accuracy of four heads with four sources", named[4, 4], within=(0, 1)),
            Effect.over_seeds("accuracy of four heads with two sources", named[2, 4], within=(0, 1)),
            Effect.over_seeds("four heads minus bigram", loss[4] - bigram(n=self.n_held_out), "nats"),
            Effect.over_seeds("accuracy of one head with two sources", named[2, 1], within=(0, 1)),
            Effect.over_seeds("accuracy of one head with four sources", named[4, 1], within=(0, 1)),
            Effect.over_seeds(LONGER, longer, within=(0, 1)),
            Effect.over_seeds("loss of sixteen heads minus that of four", loss[16] - loss[4], "nats"),
        ]
        return effects, {"sources": _task_table(task), "text": _text_table(text)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        two, four, longer, heads, loss, many = (
            effects[name].estimate
            for name in (
                "accuracy of one head with two sources", "accuracy of one head with four sources", LONGER, "accuracy of four heads with four sources",
                "loss of one head", "loss of sixteen heads minus that of four",
            )
        )  # fmt: skip
        return (
            f"After {self.task_steps} updates one head names {two:.2f} of two ordered sources (a guess: {CHANCE:.2f}): one softmax "
            f"{'carries two places, by unequal weights' if two > 0.9 else 'has not learnt to carry two places by then'}. Of four it names {four:.2f}, and {longer:.2f} after {self.longer} times as many "
            f"updates at a rate of {LOWER_RATE:g} in place of {RATE:g}; four heads name {heads:.2f}. On text one head ends {loss:+z.3f} nats from four of the same width "
            f"together, sixteen {many:+z.3f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        task, text = tables["sources"].frame, tables["text"].frame
        right = task[task.rate == RATE].groupby(["n_sources", "n_heads"]).right.agg(["mean", "min", "max"])
        longer = task[task.rate == LOWER_RATE].right.agg(["mean", "min", "max"])
        loss = text.groupby("n_heads").loss.agg(["mean", "min", "max"])
        series = {
            f"{m} sources": Series(
                y=right.loc[m]["mean"].to_numpy(), low=right.loc[m]["min"].to_numpy(), high=right.loc[m]["max"].to_numpy()
            )
            for m in SOURCES
        }
        alone = {end: np.array([longer[of], *[np.nan] * (len(HEADS) - 1)]) for end, of in (("y", "mean"), ("low", "min"), ("high", "max"))}
        series["4 sources, longer, lower rate"] = Series(**alone)
        return (
            Lines(
                name="sources", title=f"One head names {right['mean'][2, 1]:.0%} of two sources, {right['mean'][4, 1]:.0%} of four, {longer['mean']:.0%} of four when taught longer",
                caption=f"Share of sources named, all heads together 64 wide; mean of {self.n_seeds} seeds, bands from the smallest to the largest; a guess is right "
                f"in {CHANCE:.3f}. Longer: {self.longer} times the updates at a rate of {LOWER_RATE:g} in place of {RATE:g}.",
                alt="; ".join(f"{m} sources: " + ", ".join(f"{_heads(heads)} {right['mean'][m, heads]:.2f}" for heads in HEADS) for m in SOURCES)
                + f"; 4 sources, longer at a lower rate: 1 head {longer['mean']:.2f}",
                x=pd.Series(HEADS).to_numpy(float), series=series, x_label="heads", y_label="share of sources named", log_x=True, markers=True,
            ),
            Bars(
                name="text", title=f"On text one head ends {loss['mean'][1] - loss['mean'][4]:+z.3f} nats from four",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; character pairs reach {bigram(n=self.n_held_out):.2f}.",
                alt=", ".join(f"{_heads(n)} {value:.3f}" for n, value in loss["mean"].items()), labels=[_heads(n) for n in loss.index],
                values=loss["mean"].to_numpy(), low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _heads(n: int) -> str:
    return "1 head" if n == 1 else f"{n} heads"


def _task(n_heads: int, n_sources: int, seed: int, steps: int, rate: float) -> dict[str, Any]:
    """A block that is to name its sources."""
    learnt, right = learn_sources(n_heads, n_sources, seed=seed, steps=steps, rate=rate)
    return {
        "n_heads": n_heads, "n_sources": n_sources, "seed": seed, "steps": steps, "rate": rate, "right": right, "loss": learnt.loss,
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _text(n_heads: int, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A decoder of characters."""
    config = dataclasses.replace(BASE, n_heads=n_heads, n_kv_heads=n_heads, d_head=64 // n_heads)
    learnt = learn_characters(character_model(config, seed), seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    return {"n_heads": n_heads, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _task_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every block that names its sources.", n_heads=("heads", "64 wide together"), n_sources=("tokens", "that a place has to know"),
        seed=("", "of weights and data"), steps=("updates", "of the training"), rate=("", "of learning, at its highest"), right=("1", "share of sources named on new sequences"),
        loss=("nats per answer", "on new sequences; ln m is there even for who knows all m, since which is asked for is not told"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every decoder of characters.", n_heads=("heads", "64 wide together"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = MultiHead
