"""Which variants are there? What BERT and GPT know of the same prose: a hidden character, the next one, the context of plain text."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_masking import (
    BERT,
    DECODER,
    ENCODER,
    PREFIX,
    BehindPrefix,
    Corrupted,
    context_known,
    learn_prose,
    loss_of_hidden,
)  # fmt: skip
from analyses.studies._training import bigram
from analyses.studies._verdict import Prediction
from model import TransformerConfig
from model.training import CausalLM
from model.training.objectives import Objective
from probes import Edit, intervene
from reports import Bars, Figure, Lines, Series, Table


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A kind of Transformer and how it is taught."""

    config: TransformerConfig
    objective: Objective
    updates: float = 1.0
    """how many times those of the others"""
    hides: Edit | None = None
    """what attention may not see while it learns"""

    @property
    def fills(self) -> bool:
        """Does it know the mask?"""
        return isinstance(self.objective, Corrupted)


ARMS = {
    "GPT": _Variant(config=DECODER, objective=CausalLM()), "BERT": _Variant(config=ENCODER, objective=BERT),
    "BERT, as many answers": _Variant(config=ENCODER, objective=BERT, updates=1 / BERT.rate),
    "prefix LM": _Variant(config=ENCODER, objective=BehindPrefix(), hides=PREFIX),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BertAndGpt(Study):
    number: ClassVar[int] = 28
    name: ClassVar[str] = "bert-and-gpt"
    question: ClassVar[str] = "Which variants of the Transformer are there?"
    popular: ClassVar[str] = "BERT is a bidirectional encoder that captures context; GPT is an autoregressive generator."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="from the same text, BERT knows a hidden character better", quantity="hidden character, GPT minus BERT", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="its states of plain text hold more of the context", quantity="probe of plain text, BERT minus GPT", relation=">", threshold=0.02),
        Prediction(says="GPT generates, BERT does not: it knows the next character less well", quantity="next character, BERT minus GPT", relation=">", threshold=0.1, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="GPT beats the bigram", quantity="GPT minus bigram", relation="<", threshold=0.0, unit="nats"),
        Prediction(
            says="BERT beats the bigram on hidden characters", quantity="BERT minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
    )
    method: ClassVar[str] = (
        "Networks of one shape read the same windows of prose in the same order: GPT, causal, learns the next character at every place; BERT, bidirectional, the 40 % that are masked "
        "(80/10/10); another BERT takes 2.5 times the updates, so that it answers for as many characters as GPT; a prefix language model reads the first 4 to 27 characters "
        "from both sides and learns what follows them. All have rotary positions. Hidden character: in the middle of held-out pieces, masked, both "
        "sides there; GPT and the prefix model have what precedes it. Next character: the same characters, the text ends before them; BERT gets a mask behind it. Probe: accuracy with which a line "
        "tells from the states of unmasked text how many letters of the word follow (0, 1, 2, more), no piece on both sides of the fit."
    )
    scale: ClassVar[str] = "0.1 M parameters, 2 layers, windows of 32 characters"
    limits: ClassVar[str] = (
        "Equal text and equal answers are two ways to be fair, equal scores on tasks another. The prefix model answers for fewer characters of a window than GPT. Models that learn "
        "to fill spans of many tokens, and fine-tuning, are not here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Devlin et al. 2019, BERT", "Radford et al. 2019, Language Models are Unsupervised Multitask Learners", "Wettig et al. 2023, Should You Mask 15% in Masked Language Modeling?",
        "Raffel et al. 2020, section 3.2",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 24},
        "default": {"n_seeds": 3, "steps": 400, "n_held_out": 256},
        "full": {"n_seeds": 5, "steps": 800, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 400
    """updates of GPT and of the first BERT"""
    n_held_out: int = 256
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        arms = pd.DataFrame(each(_arm, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS]))
        hidden, following, known = (arms.pivot(index="seed", columns="arm", values=value) for value in ("hidden", "following", "known"))
        counted, longer = bigram(n=self.n_held_out), "BERT, as many answers"
        effects = [
            Effect.over_seeds("hidden character, GPT minus BERT", hidden["GPT"] - hidden["BERT"], "nats"),
            Effect.over_seeds("probe of plain text, BERT minus GPT", known["BERT"] - known["GPT"]),
            Effect.over_seeds("next character, BERT minus GPT", following["BERT"] - following["GPT"], "nats"),
            Effect.over_seeds("hidden character, GPT minus BERT with as many answers", hidden["GPT"] - hidden[longer], "nats"),
            Effect.over_seeds("next character, BERT with as many answers minus GPT", following[longer] - following["GPT"], "nats"),
            Effect.over_seeds("next character, prefix LM minus GPT", following["prefix LM"] - following["GPT"], "nats"),
            Effect.over_seeds("GPT minus bigram", following["GPT"] - counted, "nats"),
            Effect.over_seeds("BERT minus bigram", hidden["BERT"] - counted, "nats"),
        ]
        return effects, {"arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        hidden, known, following = (effects[one.quantity].estimate for one in self.predictions)
        longer = effects["hidden character, GPT minus BERT with as many answers"].estimate
        return (
            f"After the same text BERT, which sees both sides, is {hidden:+.2f} nats ahead of GPT on hidden characters, and {longer:+.2f} after as many answers; where the text ends it is "
            f"{following:.2f} nats behind, the prefix model {effects['next character, prefix LM minus GPT'].estimate:+.2f}. BERT's states of plain text tell a probe {100 * known:+.1f} points more of what follows in the word."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["arms"].frame
        mean, known = frame.groupby("arm")[["hidden", "following"]].mean(), frame.groupby("arm").known
        names = list(ARMS)
        ends = frame.groupby("arm")[["hidden", "following"]].agg(["min", "max"])
        return (
            Lines(
                name="losses", title=f"Hidden characters cost BERT {mean.hidden['BERT']:.2f} nats and GPT {mean.hidden['GPT']:.2f}",
                caption=f"Loss of the same characters of held-out prose, mean of {self.n_seeds} seeds with the smallest and largest; 0: the text ends before them, 1: it goes on behind them.",
                alt=", ".join(f"{arm} {mean.following[arm]:.2f} at the end, {mean.hidden[arm]:.2f} in the middle" for arm in names), x=np.array([0.0, 1.0]),
                series={arm: Series(y=mean.loc[arm, ["following", "hidden"]].to_numpy(float), low=ends.loc[arm, [("following", "min"), ("hidden", "min")]].to_numpy(float), high=ends.loc[arm, [("following", "max"), ("hidden", "max")]].to_numpy(float)) for arm in names},
                x_label="is the right side there?", y_label="nats per character", markers=True,
            ),
            Bars(
                name="probe", title="What the states of plain text tell of the word's end",
                caption=f"Accuracy of a linear probe of the letters to the end of the word, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{arm} {known.mean()[arm]:.3f}" for arm in names), labels=names, values=known.mean()[names].to_numpy(), low=known.min()[names].to_numpy(),
                high=known.max()[names].to_numpy(), unit="accuracy",
            ),
        )  # fmt: skip


def _arm(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One network, and what it knows of held-out prose."""
    variant = ARMS[arm]
    model = started_as_in_the_paper(variant.config, seed)
    with intervene(model, variant.hides) if variant.hides else nullcontext():
        learnt = learn_prose(model, variant.objective, seed=seed, steps=round(variant.updates * steps))
    following = loss_of_hidden(model, n_held_out, "left" if variant.fills else "what precedes")
    return {
        "arm": arm, "seed": seed, "hidden": loss_of_hidden(model, n_held_out) if variant.fills else following, "following": following,
        "known": context_known(model, n_held_out, seed), "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network.", arm=("", "network and what it is taught"), seed=("", "of weights and data"), hidden=("nats per character", "of characters in the middle; GPT and the prefix model read what precedes them"),
        following=("nats per character", "of the same characters when the text ends before them"), known=("1", "accuracy of a probe of plain text"),
        n_parameters=("parameters", "of the network"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = BertAndGpt
