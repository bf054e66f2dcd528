"""Why does BERT mask inputs and not attention scores? Can the answer be read where only attention is masked, and is plain text a stranger?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_masking import BERT, ENCODER, N_SPECIAL, PLACES, Corrupted, Hidden, context_known, learn_prose, loss_of_hidden, tuned
from analyses.studies._training import BASE, LENGTH, RECIPE, bigram, held_out
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import Exercise, evaluate
from model.training.objectives import Batch, Objective
from model.training.randomness import generator_of
from probes import Edit, intervene, zero
from reports import Bars, Figure, Table


def hide_self(scores: Tensor) -> Tensor:
    """No query sees its own place."""
    return scores.masked_fill(torch.eye(scores.shape[-1], dtype=torch.bool), -torch.inf)


NOT_ITSELF, NO_ATTENTION = Edit("blocks.*.attn.scores", hide_self), Edit("blocks.*.attn_out", zero())


@dataclass(frozen=True, kw_only=True)
class Everything:
    """Every character, from a text that holds it: attention alone is to hide it.

    >>> Everything()((torch.tensor([[5, 6]]), None), torch.Generator()).answers
    tensor([[5, 6]])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        return Exercise(batch, batch[0], torch.ones_like(batch[0], dtype=torch.bool))


@dataclass(frozen=True, kw_only=True)
class Replaced:
    """The character at a place, in whose stead another is read: a model that copies what it reads is always wrong.

    >>> exercise = Replaced(place=1)((torch.tensor([[7, 8, 9]]), None), torch.Generator().manual_seed(0))
    >>> int(exercise.answers[0, 1]), bool(exercise.inputs[0][0, 1] != 8)
    (8, True)
    """

    place: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        exercise = Hidden(place=self.place)(batch, generator)
        others = torch.randint(1, BASE.d_vocab - N_SPECIAL, batch[0].shape, generator=generator)
        drawn = N_SPECIAL + (batch[0] - N_SPECIAL + others) % (BASE.d_vocab - N_SPECIAL)
        return Exercise((torch.where(exercise.counted, drawn, batch[0]), None), exercise.answers, exercise.counted)


ARMS: dict[str, Objective] = {
    "inputs, all masked": Corrupted(rate=BERT.rate), "inputs, 80/10/10": BERT, "inputs, 80/0/20": Corrupted(rate=BERT.rate, masked=0.8),
    "inputs, 90/10/0": Corrupted(rate=BERT.rate, masked=0.9, random=0.1), "scores": Everything(),
}  # fmt: skip
"""what is masked; of inputs, shares that are masked / replaced / kept"""
MASKED, MIXED, KEPT, REPLACED, SCORES = ARMS
UNTRAINED = "untrained"
TUNED = "loss when tuned on plain text"


@dataclass(frozen=True, kw_only=True)
class MaskedInputs(Study):
    number: ClassVar[int] = 20
    name: ClassVar[str] = "masked-inputs"
    question: ClassVar[str] = "Why does BERT mask inputs and not attention scores?"
    popular: ClassVar[str] = (
        "Its mask is on the input, to learn from context on both sides without supervision; some masked tokens are replaced or kept, so that plain text is no stranger to it."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with masked inputs it learns from both sides", quantity="lost without the right side", relation=">", threshold=0.1, unit="nats"),
        Prediction(says="with masked scores the answer can still be read", quantity="loss in training with masked scores", relation="<", threshold=0.1, unit="nats"),
        Prediction(says="so that nothing is learnt of the context", quantity="probe of plain text, masked scores minus untrained", relation="==", threshold=0.0, margin=0.05),
        Prediction(says="80/10/10 keeps plain text from being a stranger", quantity=f"{TUNED}, all masked minus 80/10/10", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="kept tokens do", quantity=f"{TUNED}, all masked minus 80/0/20", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="replaced tokens do", quantity=f"{TUNED}, all masked minus 90/10/0", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="with masked inputs it beats the bigram", quantity="masked inputs minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
        Prediction(says="what it learnt helps when it is tuned", quantity=f"{TUNED}, untrained minus all masked", relation=">", threshold=0.02, unit="nats"),
    )
    method: ClassVar[str] = (
        "Encoders of one shape, with rotary positions, read the same windows of prose. Masked inputs: 40 % of the characters are asked for, and become the mask, another character, or stay, by shares. "
        "Masked scores: every character is asked for and is in the input, but no query may attend to its own place. True character: in the middle of "
        "held-out pieces another character is put in its stead, and the true one asked for; what is read there is left out of the answers, so that who copies loses nothing by that. "
        "One test for both, after as many updates. Lost without the right side: the loss of a character with the mask in its place when the text ends with the mask, minus that when it goes on. "
        "Tuned on plain text: all weights learn on, for `tuning_steps` updates on text without a mask, to tell of every letter how many of its word follow (0, 1, 2, more); the loss is that of held-out letters. "
        "Probe of plain text: accuracy with which a line tells the same from the states of the network before that, no piece on both sides of the fit; the "
        "network of masked scores reads as it learnt to."
    )
    scale: ClassVar[str] = "0.1 M parameters, 2 layers, windows of 32 characters"
    limits: ClassVar[str] = (
        "A small model learns little in the time of the default budget. It is tuned for one task, at one rate; who is ahead earlier in the tuning is not shown. "
        "A single place is hidden in the end, two fifths in training. A network that had learnt from the left side alone would lose less without the right (question 28). That the true "
        "character is missed where another is read is trust in what is read as much as ignorance of the context. Where tokens are kept and none is replaced, one that can be "
        "read is always the answer; that a probe finds less there because copying is enough is an explanation, not a measurement. One rate of asking."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Devlin et al. 2019, BERT",
        "Wettig et al. 2023, Should You Mask 15% in Masked Language Modeling?",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "tuning_steps": 2, "n_held_out": 24},
        "default": {"n_seeds": 3, "steps": 400, "tuning_steps": 200, "n_held_out": 128},
        "full": {"n_seeds": 6, "steps": 1000, "tuning_steps": 200, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 400
    """updates of each network"""
    tuning_steps: int = 200
    """updates on plain text, behind those"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        jobs = [(arm, seed, self.steps, self.tuning_steps, self.n_held_out) for seed in range(self.seed, self.seed + self.n_seeds) for arm in (*ARMS, UNTRAINED)]
        arms = pd.DataFrame(each(_arm, jobs))
        hidden, left, known, training, true, silenced, tuning = (
            arms.pivot(index="seed", columns="arm", values=value) for value in ("hidden", "left", "known", "training", "true", "silenced", "tuned")
        )
        effects = [
            Effect.over_seeds("lost without the right side", left[MASKED] - hidden[MASKED], "nats"),
            Effect.over_seeds("loss in training with masked scores", training[SCORES], "nats"),
            Effect.over_seeds("probe of plain text, masked scores minus untrained", known[SCORES] - known[UNTRAINED], within=(-1, 1)),
            *(Effect.over_seeds(f"{TUNED}, all masked minus {arm.removeprefix('inputs, ')}", tuning[MASKED] - tuning[arm], "nats") for arm in (MIXED, KEPT, REPLACED)),
            Effect.over_seeds(f"{TUNED}, untrained minus all masked", tuning[UNTRAINED] - tuning[MASKED], "nats"),
            Effect.over_seeds(f"{TUNED}, all masked", tuning[MASKED], "nats"),
            *(Effect.over_seeds(f"probe of plain text, {arm.removeprefix('inputs, ')} minus all masked", known[arm] - known[MASKED], within=(-1, 1)) for arm in (MIXED, KEPT, REPLACED)),
            Effect.over_seeds("loss in training with masked scores, attention silenced", silenced[SCORES], "nats"),
            *(Effect.over_seeds(f"true character, masked scores minus {arm}", true[SCORES] - true[arm], "nats") for arm in (MASKED, MIXED)),
            Effect.over_seeds("hidden character, 80/10/10 minus all masked", hidden[MIXED] - hidden[MASKED], "nats"),
            Effect.over_seeds("true character with masked scores", true[SCORES], "nats"),
            Effect.over_seeds("masked inputs minus bigram", hidden[MASKED] - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"arms": _arms_table(arms)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        right, copied, learnt, mixed, kept, replaced = (effects[one.quantity].estimate for one in self.predictions)
        silenced, tuned_to = (effects[name].estimate for name in ("loss in training with masked scores, attention silenced", f"{TUNED}, all masked"))
        probed = [effects[f"probe of plain text, {arm.removeprefix('inputs, ')} minus all masked"].estimate for arm in (MIXED, KEPT, REPLACED)]
        return (
            f"Taking the right side away costs a model of masked inputs {right:+z.2f} nats. With masked scores the loss in training is {copied:.3f} nats, and {silenced:.3f} with attention silenced: "
            f"the residual stream alone carries the answer; what plain text tells a probe is {learnt:+z.3f} in accuracy from an untrained network. Tuned on plain text, a model of which all that "
            f"was asked for was masked ends at {tuned_to:.3f} nats per letter; against it 80/10/10 gains {mixed:+z.3f}, keeping a fifth {kept:+z.3f}, replacing a tenth {replaced:+z.3f} "
            f"(a probe before the tuning: {', '.join(f'{100 * one:+z.0f}' for one in probed)} points)."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["arms"].frame
        by, tuning = frame.groupby("arm").true, frame.groupby("arm").tuned
        arms, compared = list(ARMS), [MASKED, MIXED, KEPT, REPLACED, UNTRAINED]
        return (
            Bars(
                name="hidden", title="Loss of a character that is not there, by what training hid",
                caption=f"Another character is read in its stead, and left out of the answers; held-out prose, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{arm} {by.mean()[arm]:.2f}" for arm in arms), labels=arms, values=by.mean()[arms].to_numpy(), low=by.min()[arms].to_numpy(),
                high=by.max()[arms].to_numpy(), unit="nats per character",
            ),
            Bars(
                name="tuned", title=f"Loss after {self.tuning_steps} updates on plain text, by what training hid",
                caption="Letters to the end of the word, held-out prose; of inputs, shares that are masked / replaced / kept; mean of "
                f"{self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{arm} {tuning.mean()[arm]:.3f}" for arm in compared), labels=compared, values=tuning.mean()[compared].to_numpy(),
                low=tuning.min()[compared].to_numpy(), high=tuning.max()[compared].to_numpy(), unit="nats per letter",
            ),
        )  # fmt: skip


def _arm(arm: str, seed: int, steps: int, tuning_steps: int, n_held_out: int) -> dict[str, Any]:
    """One network: what it reached in training, and what it makes of hidden characters and of plain text."""
    model = started_as_in_the_paper(ENCODER, seed)
    if arm == UNTRAINED:
        size = {"n_parameters": sum(p.numel() for p in model.parameters()), "flops": 0.0}
        known = context_known(model.eval(), n_held_out, seed)
        return {"arm": arm, "seed": seed, "known": known, "tuned": tuned(model, seed=seed, steps=tuning_steps, n_held_out=n_held_out), **size}
    if arm != SCORES:
        learnt = learn_prose(model, ARMS[arm], seed=seed, steps=steps, n_held_out=64)
        found = {"true": _loss_of_replaced(model, n_held_out), "hidden": loss_of_hidden(model, n_held_out), "left": loss_of_hidden(model, n_held_out, "left")}
        found["known"] = context_known(model, n_held_out, seed)
        found["tuned"] = tuned(model, seed=seed, steps=tuning_steps, n_held_out=n_held_out)
    else:
        with intervene(model, NOT_ITSELF):
            learnt = learn_prose(model, ARMS[arm], seed=seed, steps=steps, n_held_out=64)
            found = {"true": _loss_of_replaced(model, n_held_out), "known": context_known(model, n_held_out, seed)}
        with intervene(model, NO_ATTENTION), torch.no_grad():
            found["silenced"] = evaluate(model, held_out(LENGTH, 64), ARMS[arm], RECIPE)
    return {"arm": arm, "seed": seed, "training": learnt.loss, **found, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


@torch.no_grad()
def _loss_of_replaced(model: Transformer, n_held_out: int) -> float:
    """Nats of the true characters when another is read in their stead, which is left out of the answers."""
    losses = []
    for place in PLACES:
        generator = generator_of(0, "replaced", place)
        for batch in held_out(LENGTH, n_held_out):
            exercise = Replaced(place=place)(batch, generator)
            read, answers = exercise.inputs[0][exercise.counted], exercise.answers[exercise.counted]
            logits = model(*exercise.inputs)[exercise.counted].scatter(1, read[:, None], -torch.inf)
            losses.append(F.cross_entropy(logits, answers, reduction="none"))
    return float(torch.cat(losses).double().mean())


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network.", arm=("", "what is masked; of inputs, shares that are masked / replaced / kept"), seed=("", "of weights and data"),
        training=("nats per character", "loss of held-out prose, masked as in training"), true=("nats per character", "of characters in the middle, another read in their stead"),
        hidden=("nats per character", "of the same, the mask read in their stead; not asked of masked scores"),
        left=("nats per character", "of the same characters when the text ends there; not asked of masked scores"),
        known=("1", "accuracy of a probe of plain text"), tuned=("nats per letter", "of letters to the end of the word, after tuning; not asked of masked scores"), n_parameters=("parameters", "of the network"),
        flops=("FLOP", "of the training, 6 per weight and token"), silenced=("nats per character", "as in training, but attention adds nothing; of masked scores"),
    )  # fmt: skip


STUDY = MaskedInputs
