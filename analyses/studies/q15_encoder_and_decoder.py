"""How do encoder and decoder interact? What does the decoder write when it cannot read the source, or not choose where to look?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
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
from analyses.studies._tasks_pronunciation import asked, error_rate, held_out_pairs, learn_to_say
from analyses.studies._verdict import Prediction
from model import EncoderDecoder
from model.training import SequenceToSequence
from model.zoo.g2p import PHONEMES, SPECIALS
from probes import Edit, intervene, record, zero
from probes.statistics import View, monotonicity, row_entropy
from reports import AttentionMap, Bars, Figure, Lines, Series, Table

READINGS = ("as trained", "looks at all letters alike", "reads another word", "reads nothing")
LATE = 3
"""phonemes before one that counts as late"""
UNIFORM = math.log(len(SPECIALS) + len(PHONEMES))
"""nats of a guess among all that the decoder can write"""
N_STEPS = 7
"""phonemes whose loss is shown"""


def evenly(pattern: Tensor) -> Tensor:
    """Every letter that may be seen gets the same weight."""
    seen = (pattern > 0).to(pattern)
    return seen / seen.sum(-1, keepdim=True)


NOTHING = Edit("decoder.blocks.*.cross_attn_out", zero())
EVENLY = Edit("decoder.blocks.*.cross_attn.pattern", evenly)


@dataclass(frozen=True, kw_only=True)
class EncoderAndDecoder(Study):
    number: ClassVar[int] = 15
    name: ClassVar[str] = "encoder-and-decoder"
    question: ClassVar[str] = "How do encoder and decoder interact?"
    popular: ClassVar[str] = "The decoder attends to the encoder's output and uses the source's context while it generates."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the decoder uses the source", quantity="phoneme errors without the source", relation=">", threshold=0.1),
        Prediction(says="it attends: where it looks matters", quantity="phoneme errors with even attention", relation=">", threshold=0.1),
        Prediction(says="all the while it generates", quantity="loss of late phonemes without the source", relation=">", threshold=0.1, unit="nats"),
        Prediction(says="its attention goes through the source as it writes", quantity="monotonicity of the best head", relation=">", threshold=0.5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the model pronounces", quantity="phoneme error rate", relation="<", threshold=0.3),
        Prediction(
            says="the encoder does not see the target", quantity="change of the encoder by the target", relation="==", threshold=0.0
        ),
    )
    method: ClassVar[str] = (
        "An encoder-decoder learns to pronounce English words of 3 to 8 letters (CMUdict), and writes held-out words greedily: edit distance over "
        "length, in phonemes. Then the trained model is changed: what cross-attention adds is 0 (reads nothing); the encoder reads another held-out word, "
        "from the other half of the alphabet; the weights of cross-attention are the same on every letter. Effects: changed minus as trained. Loss by step: cross-entropy of each phoneme, those before "
        "it given; late are the fourth to the seventh that is written, the end among them. Monotonicity: correlation of query and key position, weighted by attention, of the head where "
        "it is largest, mean over words."
    )
    scale: ClassVar[str] = "0.25 M parameters, words of at most 8 letters"
    limits: ClassVar[str] = (
        "Letters and phonemes run in step; translation reorders. A model that was trained to see nothing would do better than one from whom the source is taken "
        "away: what is shown is that this one relies on it."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.3", "Bahdanau et al. 2015, Neural Machine Translation by Jointly Learning to Align and Translate",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_words": 4},
        "default": {"n_seeds": 3, "steps": 600, "n_words": 200},
        "full": {"n_seeds": 5, "steps": 800, "n_words": 400},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data"""
    steps: int = 600
    """updates of each model"""
    n_words: int = 200
    """held-out words that are written"""

    def measure(self) -> tuple[list[Effect], Tables]:
        found = each(_arm, [(seed, self.steps, self.n_words) for seed in range(self.seed, self.seed + self.n_seeds)])
        models = pd.DataFrame([one["model"] for one in found])
        errors, steps, heads = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("errors", "steps", "heads"))
        rate = errors.pivot(index="seed", columns="reading", values="error_rate")
        late = steps[steps.step > LATE].groupby("seed")[["with_source", "without", "another"]].mean()
        effects = [
            Effect.over_seeds("phoneme errors without the source", rate["reads nothing"] - rate["as trained"]),
            Effect.over_seeds("phoneme errors with even attention", rate["looks at all letters alike"] - rate["as trained"]),
            Effect.over_seeds("phoneme errors with another word", rate["reads another word"] - rate["as trained"]),
            Effect.over_seeds("loss of late phonemes without the source", late.without - late.with_source, "nats"),
            Effect.over_seeds("loss of late phonemes with another word", late.another - late.with_source, "nats"),
            Effect.over_seeds("monotonicity of the best head", heads.groupby("seed").monotonicity.max(), within=(-1, 1)),
            Effect.over_seeds("phoneme error rate", rate["as trained"]),
            Effect.exact("change of the encoder by the target", float(models.leak.max())),
        ]
        tables = {
            "models": _models_table(models),
            "errors": _errors_table(errors),
            "steps": _steps_table(steps),
            "heads": _heads_table(heads),
        }
        return effects, tables | {"alignment": _alignment_table(pd.DataFrame(found[0]["alignment"]))}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        rate, nothing, even, late, another, ahead = (
            effects[name].estimate for name in (
                "phoneme error rate", "phoneme errors without the source", "phoneme errors with even attention", "loss of late phonemes without the source",
                "loss of late phonemes with another word", "monotonicity of the best head",
            )
        )  # fmt: skip
        return (
            f"The model writes {rate:.0%} of the phonemes wrong, {rate + nothing:.0%} when it reads nothing and {rate + even:.0%} when it looks at all letters alike. A "
            f"phoneme behind the third still costs {late:+z.1f} nats when it reads nothing and {another:+z.1f} when it reads another word (a guess among all costs {UNIFORM:.1f} in "
            f"all), and the best head moves through the word with a correlation of {ahead:.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        rates, steps, pattern = (
            tables["errors"].frame.groupby("reading").error_rate,
            tables["steps"].frame.groupby("step").mean(),
            tables["alignment"].frame,
        )
        mean = rates.mean()
        order = dict(
            labels=list(READINGS),
            values=mean[list(READINGS)].to_numpy(),
            low=rates.min()[list(READINGS)].to_numpy(),
            high=rates.max()[list(READINGS)].to_numpy(),
        )
        grid = pattern.pivot(index="query", columns="key", values="weight")
        first = pattern.drop_duplicates("query").sort_values("query").writes, pattern.drop_duplicates("key").sort_values("key").letter
        return (
            Bars(
                name="errors", title=f"Without the source {mean['reads nothing']:.0%} of the phonemes are wrong, with it {mean['as trained']:.0%}",
                caption=f"Edit distance over length on {self.n_words} held-out words, mean of {self.n_seeds} seeds with the smallest and largest; insertions can exceed 100 %.",
                alt=", ".join(f"{reading} {mean[reading]:.2f}" for reading in READINGS), unit="phoneme error rate", **order,
            ),
            Lines(
                name="steps", title="Loss step by step, with the source, without it and with another",
                caption=f"Loss of each phoneme, those before it given, held-out words, mean of {self.n_seeds} seeds; a guess among all has {UNIFORM:.2f}.",
                alt=f"With the source {steps.with_source.mean():.2f}, without {steps.without.mean():.2f}, with another word {steps.another.mean():.2f} nats on average.", x=steps.index.to_numpy(float),
                series={"with the source": Series(y=steps.with_source.to_numpy()), "without": Series(y=steps.without.to_numpy()),
                        "another word": Series(y=steps.another.to_numpy())}, x_label="phoneme", y_label="nats",
                markers=True,
            ),
            AttentionMap(
                name="alignment", title="Where the decoder looks in the letters as it writes the phonemes",
                caption="Cross-attention of the most monotone head of the first seed over one held-out word; each row is the state that writes this phoneme.",
                alt=f"Largest weight on average {grid.max(axis=1).mean():.2f}.", patterns={str(pattern["head"].iloc[0]): grid.to_numpy()}, queries=list(first[0]), keys=list(first[1]),
                sees="cross",
            ),
        )  # fmt: skip


def _arm(seed: int, steps: int, n_words: int) -> dict[str, Any]:
    """One model: its errors in every reading, its loss step by step, and its heads."""
    learnt, words = learn_to_say(seed, steps), asked(n_words)
    model, half = learnt.model, len(words) // 2
    others = words[half:] + words[:half]
    rates = {reading: _errors(model, words, others, reading) for reading in READINGS}
    batch = held_out_pairs(model, words)
    swapped = tuple(part.roll(-half, 0) for part in batch[0::2])  # source and its mask
    with_source, without = _step_losses(model, batch), _step_losses(model, batch, NOTHING)
    another = _step_losses(model, (swapped[0], batch[1], swapped[1], batch[3]))
    heads, alignment = _heads(model, words)
    return {
        "model": {"seed": seed, "leak": _leak(model, batch), "n_parameters": learnt.n_parameters, "flops": learnt.flops},
        "errors": [{"seed": seed, "reading": reading, "error_rate": rate} for reading, rate in rates.items()],
        "steps": [{"seed": seed, "step": i + 1, "with_source": with_source[i], "without": without[i], "another": another[i]} for i in range(len(without))],
        "heads": [{"seed": seed, **head} for head in heads],
        "alignment": alignment,
    }  # fmt: skip


def _errors(model: EncoderDecoder, words: list[str], others: list[str], reading: str) -> float:
    edit = {"looks at all letters alike": EVENLY, "reads nothing": NOTHING}.get(reading)
    with intervene(model, edit) if edit else nullcontext():
        return error_rate(model, words, others if reading == "reads another word" else None)


@torch.no_grad()
def _step_losses(model: EncoderDecoder, batch: tuple[Tensor, ...], edit: Edit | None = None) -> list[float]:
    """Nats of the first phonemes, mean over the words that have them."""
    exercise = SequenceToSequence(end_id=model.target_tokenizer.eos_id)(batch, torch.Generator())
    with intervene(model, edit) if edit else nullcontext():
        logits = model(*exercise.inputs)
    losses = F.cross_entropy(logits.double().flatten(0, 1), exercise.answers.flatten(), reduction="none").view_as(exercise.answers)
    return [float(losses[:, i][exercise.counted[:, i]].mean()) for i in range(min(N_STEPS, losses.shape[1]))]


@torch.no_grad()
def _heads(model: EncoderDecoder, words: list[str]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """Monotonicity and entropy of every head of cross-attention, and the pattern of the most monotone one over the first long word."""
    source, target, source_mask, target_mask = held_out_pairs(model, words)
    with record(model, "decoder.blocks.*.cross_attn.pattern") as activations:
        model(source, target, source_mask, target_mask)
    view, rows = View(kind="cross", mask=target_mask, key_mask=source_mask), []
    for layer, pattern in enumerate(activations.values()):
        ahead, entropy = monotonicity(pattern, view).nanmean(0), row_entropy(pattern, view).nanmean((0, 2))
        rows += [{"layer": layer, "head": h, "monotonicity": float(ahead[h]), "entropy": float(entropy[h])} for h in range(len(ahead))]
    best = max(rows, key=lambda row: row["monotonicity"])
    word = max(range(len(words)), key=lambda i: len(words[i]))
    pattern = list(activations.values())[best["layer"]][word, best["head"]]
    writes = [*model.target_tokenizer.to_str_tokens(target[word][target_mask[word]].tolist())[1:], "<eos>"]
    letters = model.tokenizer.to_str_tokens(source[word][source_mask[word]].tolist())
    cells = [(q, k) for q in range(len(writes)) for k in range(len(letters))]
    name = f"L{best['layer']}H{best['head']}"
    return rows, {
        "head": [name] * len(cells), "query": [q for q, _ in cells], "writes": [writes[q] for q, _ in cells], "key": [k for _, k in cells],
        "letter": [letters[k] for _, k in cells], "weight": [float(pattern[q, k]) for q, k in cells],
    }  # fmt: skip


@torch.no_grad()
def _leak(model: EncoderDecoder, batch: tuple[Tensor, ...]) -> float:
    """The largest change of the encoder's final states when every word is given another's target."""
    source, target, source_mask, target_mask = batch
    states = []
    for order in (slice(None), torch.arange(len(target)).roll(1)):
        with record(model, "encoder.ln_final.normalized") as activations:
            model(source, target[order], source_mask, target_mask[order])
        states.append(activations["encoder.ln_final.normalized"])
    return float((states[0] - states[1])[source_mask].abs().max())


def _models_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", seed=("", "of weights and data"), leak=("1", "largest change of the encoder's final states by another target"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token of the source; a target has about as many"),
    )  # fmt: skip


def _errors_table(frame: pd.DataFrame) -> Table:
    return table(
        frame,
        "Phoneme errors of every model.",
        seed=("", "of weights and data"),
        reading=("", "how the source is read"),
        error_rate=("1", "edit distance over length"),
    )


def _steps_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Loss of each phoneme.", seed=("", "of weights and data"), step=("", "phoneme, counted from 1"), with_source=("nats", "as trained"),
        without=("nats", "cross-attention adds nothing"), another=("nats", "the encoder reads another word"),
    )  # fmt: skip


def _heads_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Heads of cross-attention.", seed=("", "of weights and data"), layer=("", "of the decoder"), head=("", "of the layer"),
        monotonicity=("1", "correlation of query and key, weighted by attention"), entropy=("nats", "of a row"),
    )  # fmt: skip


def _alignment_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The most monotone head over one word.", head=("", "layer and head"), query=("", "step"), writes=("", "phoneme that is written"), key=("", "place in the word"),
        letter=("", "letter that stands there"), weight=("1", "attention"),
    )  # fmt: skip


STUDY = EncoderAndDecoder
