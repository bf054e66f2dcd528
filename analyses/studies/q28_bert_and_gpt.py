"""Which variants are there? What BERT and GPT know of the same prose: a hidden character, the next one, what follows in plain text, and what they write."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_masking import (
    BERT,
    DECODER,
    ENCODER,
    MASK,
    PREFIX,
    BehindPrefix,
    Corrupted,
    context_known,
    learn_prose,
    loss_of_hidden,
)  # fmt: skip
from analyses.studies._tasks_writing import log_probabilities
from analyses.studies._training import LENGTH, bigram, held_out
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig, load_model
from model.training import CausalLM
from model.training.objectives import Objective
from probes import Edit, intervene
from reports import Bars, Figure, Lines, Series, Table

BEGINNING, N_WRITTEN = 16, 10
"""characters of a held-out piece, and how many are written behind them: as long as the longest prefix that is learnt"""


@dataclass(frozen=True, kw_only=True)
class _Variant:
    """A kind of Transformer and how it is taught."""

    config: TransformerConfig
    objective: Objective
    updates: float = 1.0
    """how many times those of the others; 0: as it starts"""
    hides: Edit | None = None
    """what attention may not see while it learns"""

    @property
    def fills(self) -> bool:
        """Does it know the mask?"""
        return isinstance(self.objective, Corrupted)

    @property
    def reads_all(self) -> bool:
        """Has it learnt to read the whole of a window at once?"""
        return self.hides is None


LONGER = "BERT, about as many answers"
ARMS = {
    "GPT": _Variant(config=DECODER, objective=CausalLM()), "BERT": _Variant(config=ENCODER, objective=BERT),
    LONGER: _Variant(config=ENCODER, objective=BERT, updates=1 / BERT.rate),
    "prefix LM": _Variant(config=ENCODER, objective=BehindPrefix(), hides=PREFIX),
    "GPT, untrained": _Variant(config=DECODER, objective=CausalLM(), updates=0.0), "BERT, untrained": _Variant(config=ENCODER, objective=BERT, updates=0.0),
}  # fmt: skip
TRAINED = [arm for arm, variant in ARMS.items() if variant.updates]
PROBED = [arm for arm, variant in ARMS.items() if variant.reads_all]


@dataclass(frozen=True, kw_only=True)
class BertAndGpt(Study):
    number: ClassVar[int] = 28
    name: ClassVar[str] = "bert-and-gpt"
    question: ClassVar[str] = "Which variants of the Transformer are there?"
    popular: ClassVar[str] = "BERT is a bidirectional encoder that captures context; GPT is an autoregressive generator."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="from the same text, BERT knows a hidden character better", quantity="hidden character, GPT minus BERT", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="its states of plain text tell more of what follows in the word", quantity="probe of plain text, BERT minus GPT", relation=">", threshold=0.02),
        Prediction(says="where the text ends BERT knows the next character less well", quantity="next character, BERT minus GPT", relation=">", threshold=0.1, unit="nats"),
        Prediction(says="and what it writes is less likely as prose than what GPT writes", quantity="loss of what is written, BERT minus GPT", relation=">", threshold=0.1, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="GPT beats the bigram", quantity="GPT minus bigram", relation="<", threshold=0.0, unit="nats"),
        Prediction(
            says="BERT beats the bigram on hidden characters", quantity="BERT minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
    )
    method: ClassVar[str] = (
        "Networks of one shape read the same windows of prose in the same order: GPT, causal, learns the next character at every place; BERT, bidirectional, the 40 % that are chosen "
        f"(80/10/10); another BERT takes {1 / BERT.rate:g} times the updates, so that it answers for about as many characters as GPT ({round(BERT.rate * LENGTH)} of a window each time, GPT for {LENGTH - 1}); "
        "a prefix language model reads the first 4 to 26 characters from both sides and learns what follows them. All have rotary positions. Hidden character: in the middle of held-out pieces, masked, both "
        "sides there; GPT and the prefix model have what precedes it. Next character: the same characters, the text ends before them; BERT gets a mask behind it. Probe: accuracy with which a line "
        "tells from the states of unmasked text how many letters of the word follow (0, 1, 2, more), no piece on both sides of the fit; untrained networks beside it. "
        "The letters that are counted stand to the right, where GPT has not read; the prefix model, which has not learnt to read a whole piece from both sides, is not probed. "
        f"Written: {N_WRITTEN} characters behind the first {BEGINNING} of every piece, one at a time, each drawn from what the network says of it (BERT of a mask behind the text), "
        "and their loss to a judge, the decoder of characters that ships with prosect, which has read the prose of the training."
    )
    scale: ClassVar[str] = "0.1 M parameters, 2 layers, windows of 32 characters"
    limits: ClassVar[str] = (
        "Equal text and equal answers are two ways to be fair, equal scores on tasks another. The prefix model answers for fewer characters of a window than GPT. "
        "BERT never learns with a mask at the end of an otherwise whole text, and could write in other orders. What a judge finds likely need not be good prose. Models that learn "
        "to fill spans of many tokens, and fine-tuning, are not here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Devlin et al. 2019, BERT", "Radford et al. 2019, Language Models are Unsupervised Multitask Learners", "Wettig et al. 2023, Should You Mask 15% in Masked Language Modeling?",
        "Raffel et al. 2020, section 3.2",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_held_out": 24},
        "default": {"n_seeds": 3, "steps": 400, "n_held_out": 256},
        "full": {"n_seeds": 5, "steps": 500, "n_held_out": 600},
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
        written, flops = (arms.pivot(index="seed", columns="arm", values=value) for value in ("written", "flops"))
        counted = bigram(n=self.n_held_out)
        effects = [
            Effect.over_seeds("hidden character, GPT minus BERT", hidden["GPT"] - hidden["BERT"], "nats"),
            Effect.over_seeds("probe of plain text, BERT minus GPT", known["BERT"] - known["GPT"]),
            Effect.over_seeds("next character, BERT minus GPT", following["BERT"] - following["GPT"], "nats"),
            Effect.over_seeds("loss of what is written, BERT minus GPT", written["BERT"] - written["GPT"], "nats"),
            Effect.over_seeds(f"hidden character, GPT minus {LONGER}", hidden["GPT"] - hidden[LONGER], "nats"),
            Effect.over_seeds(f"next character, {LONGER} minus GPT", following[LONGER] - following["GPT"], "nats"),
            Effect.over_seeds(f"loss of what is written, {LONGER} minus GPT", written[LONGER] - written["GPT"], "nats"),
            Effect.over_seeds("loss of what is written, GPT minus prose", written["GPT"] - _judged(_pieces(self.n_held_out)), "nats"),
            Effect.exact(f"compute of the training, {LONGER} over GPT", (flops[LONGER] / flops["GPT"]).mean()),
            *(Effect.over_seeds(f"probe of plain text, {arm}", known[arm], within=(0, 1)) for arm in PROBED),
            Effect.over_seeds("next character, prefix LM minus GPT", following["prefix LM"] - following["GPT"], "nats"),
            Effect.over_seeds("GPT minus bigram", following["GPT"] - counted, "nats"),
            Effect.over_seeds("BERT minus bigram", hidden["BERT"] - counted, "nats"),
        ]
        return effects, {"arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        hidden, _, following, written = (effects[one.quantity].estimate for one in self.predictions)
        longer, later, prefix, compute, prose = (
            effects[name].estimate
            for name in (
                f"hidden character, GPT minus {LONGER}", f"next character, {LONGER} minus GPT", "next character, prefix LM minus GPT",
                f"compute of the training, {LONGER} over GPT", "loss of what is written, GPT minus prose",
            )
        )  # fmt: skip
        bert, gpt, bert_before, gpt_before = (effects[f"probe of plain text, {arm}"].estimate for arm in ("BERT", "GPT", "BERT, untrained", "GPT, untrained"))
        return (
            f"A hidden character costs GPT, which reads the left side alone, {hidden:+z.2f} nats against BERT after the same text, and {longer:+z.2f} after about as many answers, for which BERT takes {compute:.1f} times the "
            f"compute. Where the text ends the next character costs BERT {following:+z.2f} nats against GPT ({later:+z.2f} after about as many answers), the prefix model {prefix:+z.2f}; what BERT writes there costs a judge "
            f"{written:+z.2f} nats per character against what GPT writes, and GPT's {prose:+z.2f} against prose. From BERT's states of plain text a line tells how many letters of the word follow with accuracy {bert:.2f}, "
            f"from GPT's, which have not read them, with {gpt:.2f} (untrained {bert_before:.2f} and {gpt_before:.2f})."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["arms"].frame
        mean, known = frame.groupby("arm")[["hidden", "following"]].mean(), frame.groupby("arm").known
        ends = frame.groupby("arm")[["hidden", "following"]].agg(["min", "max"])
        return (
            Lines(
                name="losses", title=f"Hidden characters cost BERT {mean.hidden['BERT']:.2f} nats and GPT {mean.hidden['GPT']:.2f}",
                caption=f"Loss of the same characters of held-out prose, mean of {self.n_seeds} seeds with the smallest and largest; 0: the text ends before them, 1: it goes on behind them.",
                alt=", ".join(f"{arm} {mean.following[arm]:.2f} at the end, {mean.hidden[arm]:.2f} in the middle" for arm in TRAINED), x=np.array([0.0, 1.0]),
                series={arm: Series(y=mean.loc[arm, ["following", "hidden"]].to_numpy(float), low=ends.loc[arm, [("following", "min"), ("hidden", "min")]].to_numpy(float), high=ends.loc[arm, [("following", "max"), ("hidden", "max")]].to_numpy(float)) for arm in TRAINED},
                x_label="is the right side there?", y_label="nats per character", markers=True,
            ),
            Bars(
                name="probe", title="What the states of plain text tell of the word's end",
                caption=f"Accuracy of a linear probe of the letters to the end of the word, mean of {self.n_seeds} seeds with the smallest and largest. Untrained: the same networks as they start. GPT has not read what is asked.",
                alt=", ".join(f"{arm} {known.mean()[arm]:.3f}" for arm in PROBED), labels=PROBED, values=known.mean()[PROBED].to_numpy(), low=known.min()[PROBED].to_numpy(),
                high=known.max()[PROBED].to_numpy(), unit="accuracy",
            ),
        )  # fmt: skip


def _arm(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One network, and what it knows of held-out prose."""
    variant = ARMS[arm]
    model = started_as_in_the_paper(variant.config, seed)
    model.eval()
    flops = 0.0
    if variant.updates:
        with intervene(model, variant.hides) if variant.hides else nullcontext():
            flops = learn_prose(model, variant.objective, seed=seed, steps=round(variant.updates * steps)).flops
    following = loss_of_hidden(model, n_held_out, "left" if variant.fills else "what precedes")
    return {
        "arm": arm, "seed": seed, "hidden": loss_of_hidden(model, n_held_out) if variant.fills else following, "following": following,
        "known": context_known(model, n_held_out, seed) if variant.reads_all else np.nan, "written": _judged(_write(model, n_held_out, seed, fills=variant.fills)),
        "n_parameters": sum(p.numel() for p in model.parameters()), "flops": flops,
    }  # fmt: skip


def _pieces(n: int) -> Tensor:
    """Of n held-out pieces the beginning and as many characters behind it as are written (piece, character)."""
    return torch.cat([batch[0] for batch in held_out(LENGTH, n)])[:, : BEGINNING + N_WRITTEN]


@torch.no_grad()
def _write(model: Transformer, n: int, seed: int, *, fills: bool) -> Tensor:
    """The beginnings of n pieces and what the model writes behind them, each character drawn; one that fills masks gets one at the end."""
    text, generator = _pieces(n)[:, :BEGINNING], torch.Generator().manual_seed(seed)
    for _ in range(N_WRITTEN):
        read = torch.cat((text, torch.full((n, 1), MASK)), dim=1) if fills else text
        drawn = torch.multinomial(model(read)[:, -1].softmax(-1), 1, generator=generator)
        text = torch.cat((text, drawn), dim=1)
    return text


def _judged(texts: Tensor) -> float:
    """Nats per character behind the beginnings, to the shipped character model."""
    return -float(log_probabilities(load_model("chars").eval(), texts, N_WRITTEN, batch=len(texts)).mean())


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network.", arm=("", "network and what it is taught"), seed=("", "of weights and data"), hidden=("nats per character", "of characters in the middle; GPT and the prefix model read what precedes them"),
        following=("nats per character", "of the same characters when the text ends before them"), known=("1", "accuracy of a probe of plain text; none for the prefix model"),
        written=("nats per character", "of what it writes, to the judge"),
        n_parameters=("parameters", "of the network"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = BertAndGpt
