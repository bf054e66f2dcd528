"""Where does a Transformer fall behind a recurrent network? On a state, on long prose, or on what was read long ago?"""

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
from analyses.studies._recurrent import AT_RATES, LSTM, RNN, STARTS, recipe_for, right, rival
from analyses.studies._starts import PAPER
from analyses.studies._tasks_lengths import LONG, by_span, losses_by_context
from analyses.studies._tasks_lengths import SPANS as CONTEXTS
from analyses.studies._tasks_parity import SPANS as BITS
from analyses.studies._tasks_parity import TRAINED as TAUGHT
from analyses.studies._tasks_parity import learn_parity
from analyses.studies._tasks_recall import CONFIG, TRAINED, Marked, WhichMarked
from analyses.studies._training import LENGTH, bigram, learn, learn_characters
from analyses.studies._verdict import Prediction
from reports import Bars, Figure, Lines, Series, Table

ARMS = ("rotary", "alibi", LSTM)
"""of prose; neither kind of positions has a table which ends at the trained length"""
PARITY_ARMS = ("none", "alibi", LSTM, RNN)
"""that learn parity: with rotations a Transformer does later, and meets ones behind the trained length that it has never read"""
RECALL_ARMS = ("alibi", LSTM)
"""that learn to recall: with rotations a Transformer does, too, but reaches less far (question 10)"""
NEAR, FAR = next(iter(CONTEXTS)), tuple(CONTEXTS)[-1]
SHORT_BITS, LONG_BITS = tuple(BITS)[0], tuple(BITS)[-1]
TAUGHT_BITS = tuple(BITS)[:2]
"""spans of equal length that the sequences of training fill"""
REACHES = {"within": (TRAINED, 2), "far": (4 * TRAINED, 2 * TRAINED)}
"""length of a sequence, and how far back the marked token stands at least"""


@dataclass(frozen=True, kw_only=True)
class Limitations(Study):
    number: ClassVar[int] = 33
    name: ClassVar[str] = "limitations"
    question: ClassVar[str] = "What are the limitations of the Transformer?"
    popular: ClassVar[str] = "For some tasks, such as very long sequences, a recurrent network (RNN, LSTM) can suit better."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="there is a task that an LSTM does and a Transformer does not", quantity="parity behind the trained length, LSTM minus best Transformer", relation=">", threshold=0.1),
        Prediction(says="so does a plain RNN", quantity="parity behind the trained length, RNN minus best Transformer", relation=">", threshold=0.1),
        Prediction(says="an LSTM reads long text better", quantity="loss on long text, best Transformer minus LSTM", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="an LSTM finds better what was read long ago", quantity="recall from far back, LSTM minus Transformer", relation=">", threshold=0.1),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the LSTM learns parity at the trained length", quantity="parity within by the LSTM", relation=">", threshold=0.9),
        Prediction(says="so does a Transformer", quantity="parity within by the best Transformer", relation=">", threshold=0.9),
        Prediction(
            says="the LSTM beats the bigram within the trained length",
            quantity="LSTM minus bigram",
            relation="<",
            threshold=0.0,
            unit="nats",
        ),
        Prediction(says="the LSTM learns to recall at the trained length", quantity="recall within by the LSTM", relation=">", threshold=0.9),
        Prediction(says="so does a Transformer", quantity="recall within by the Transformer", relation=">", threshold=0.9),
        Prediction(says="all have as many weights", quantity="weights, recurrent over Transformer, furthest from 1", relation="==", threshold=1.0, margin=0.05),
    )
    method: ClassVar[str] = (
        "Transformers and a two-layer LSTM of as many weights learn three tasks from the same batches in the same order. "
        f"{STARTS} "
        f"Parity, Transformers without positions and with ALiBi (with rotations one learns it later), and beside the LSTM a network of plain tanh cells (RNN) of as many weights, all at a rate of 0.003: after every bit, is the number of ones so far odd? "
        f"Sequences of a start and {TAUGHT} bits are learnt, of 48 bits are read (behind: bits {LONG_BITS}). Prose, with rotations and with ALiBi, {AT_RATES}: "
        "windows of 32 characters are learnt, pieces of 128 are read (long text: after 64 to 127 characters). Recall, at the same rates, a Transformer with ALiBi alone, since with rotations it reaches less far (question 10): which of ten marked tokens stands "
        "among random ones? Sequences of 24 are learnt; in those of 96 it stands at least 48 back. The best Transformer of parity and of prose is chosen within each seed."
    )
    scale: ClassVar[str] = "0.1 M parameters (recall: 0.02 M), 12 to 32 tokens in training, up to 128 in the end"
    limits: ClassVar[str] = (
        "There are 4,096 sequences of 12 bits, all of which training reads. On prose, rotations behind the trained length "
        "occur in no training, so that the loss of that Transformer there is one of its positions, too. "
        "Behind the trained length the question is of what was learnt, not of memory or time: what a context of 100,000 tokens costs is not measured here "
        "(questions 31 and 32). A Transformer may do parity with a scratchpad or far more training; that it cannot is not shown."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Hahn 2020, Theoretical Limitations of Self-Attention in Neural Sequence Models",
        "Bhattamishra et al. 2020, On the Ability and Limitations of Transformers to Recognize Formal Languages",
        "Press et al. 2022, Train Short, Test Long",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "n_recall_seeds": 2, "parity_steps": 2, "steps": 2, "recall_steps": 2, "n_held_out": 2},
        "default": {"n_seeds": 3, "n_recall_seeds": 3, "parity_steps": 600, "steps": 400, "recall_steps": 600, "n_held_out": 64},
        "full": {"n_seeds": 5, "n_recall_seeds": 6, "parity_steps": 900, "steps": 500, "recall_steps": 1000, "n_held_out": 160},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    n_recall_seeds: int = 3
    """the same of recall, which is cheap and scatters widely"""
    parity_steps: int = 600
    """updates of each network that learns parity"""
    steps: int = 400
    """updates of each network that learns prose"""
    recall_steps: int = 600
    """updates of each network that learns to recall"""
    n_held_out: int = 64
    """held-out pieces of 128 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        parity = pd.DataFrame(each(_parity, [(arm, seed, self.parity_steps) for seed in seeds for arm in PARITY_ARMS]))
        prose = pd.DataFrame(each(_prose, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS]))
        more_seeds = range(self.seed, self.seed + self.n_recall_seeds)
        recall = pd.DataFrame(each(_recall, [(arm, seed, self.recall_steps) for seed in more_seeds for arm in RECALL_ARMS]))
        bits, near_bits = _by_arm(parity, LONG_BITS), sum(_by_arm(parity, span) for span in TAUGHT_BITS) / len(TAUGHT_BITS)
        loss, near, far, within = _by_arm(prose, FAR), _by_arm(prose, NEAR), _by_arm(recall, "far"), _by_arm(recall, "within")
        ratios = np.concatenate([_ratios_of_weights(one) for one in (parity, prose, recall)])
        effects = [
            Effect.over_seeds("parity behind the trained length, LSTM minus best Transformer", bits[LSTM] - _best(bits)),
            Effect.over_seeds("parity behind the trained length, RNN minus best Transformer", bits[RNN] - _best(bits)),
            Effect.over_seeds("loss on long text, best Transformer minus LSTM", -_best(-loss) - loss[LSTM], "nats"),
            Effect.over_seeds("recall from far back, LSTM minus Transformer", far[LSTM] - _best(far)),
            Effect.over_seeds("parity within by the LSTM", near_bits[LSTM], within=(0, 1)),
            Effect.over_seeds("parity within by the best Transformer", _best(near_bits), within=(0, 1)),
            Effect.over_seeds("LSTM minus bigram", near[LSTM] - bigram(LONG, n=self.n_held_out), "nats"),
            Effect.over_seeds("recall within by the LSTM", within[LSTM], within=(0, 1)),
            Effect.over_seeds("recall within by the Transformer", _best(within), within=(0, 1)),
            Effect.over_seeds("parity within by the RNN", near_bits[RNN], within=(0, 1)),
            Effect.exact("weights, recurrent over Transformer, furthest from 1", ratios[np.abs(ratios - 1).argmax()]),
            Effect.over_seeds("loss within, best Transformer minus LSTM", -_best(-near) - near[LSTM], "nats"),
        ]
        return effects, {
            "parity": _table(parity, BITS, "Parity"),
            "prose": _prose_table(prose),
            "recall": _table(recall, REACHES, "Recall"),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        lstm, rnn, text, recall = (effects[one.quantity] for one in self.predictions)
        within, asked = effects["parity within by the best Transformer"].estimate, self.predictions[-1]
        ahead = {"holds": "is shown", "fails": "is ruled out", "open": "is undecided"}[asked.outcome(recall)]
        return (
            f"Of bits {LONG_BITS} the LSTM gets {_points(lstm)} and a plain RNN {_points(rnn)} against the best Transformer, which has {within:.1%} at the length it was taught. On "
            f"long prose the best Transformer minus the LSTM is {text.estimate:+z.2f} [{text.low:+z.2f}, {text.high:+z.2f}] nats per character; of marked tokens far back the LSTM finds {_points(recall)} "
            f"against a Transformer with ALiBi, both having learnt to find them within the trained length; whether it is ahead by the {100 * asked.threshold:.0f} points that would matter {ahead}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        parity, prose, recall = (tables[name].frame.groupby("arm").mean(numeric_only=True) for name in ("parity", "prose", "recall"))
        names, bits = list(PARITY_ARMS), {arm: parity.loc[arm, LONG_BITS] for arm in PARITY_ARMS}
        last, far = recall.loc[list(RECALL_ARMS), "far"], {arm: prose.loc[arm, FAR] for arm in ARMS}
        return (
            Lines(
                name="parity", title=f"Right parities of bits {LONG_BITS}: {', '.join(f'{arm} {share:.1%}' for arm, share in bits.items())}",
                caption=f"Share of right parities by the number of bits read, mean of {self.n_seeds} seeds; sequences of {TAUGHT} bits were learnt, a guess has 50 %.",
                alt=", ".join(f"{arm} {parity.loc[arm, SHORT_BITS]:.2f} at first, {parity.loc[arm, LONG_BITS]:.2f} in the end" for arm in names),
                x=_middles(BITS), series={arm: Series(y=parity.loc[arm, list(BITS)].to_numpy(float)) for arm in names}, x_label="bits read",
                y_label="share of right answers", log_x=True, markers=True,
            ),
            Lines(
                name="prose", title=f"Nats per character after {FAR} characters: {', '.join(f'{arm} {loss:.2f}' for arm, loss in far.items())}",
                caption=f"Held-out loss by characters read before, mean of {self.n_seeds} seeds; windows of {LENGTH} were learnt.",
                alt=", ".join(f"{arm} {prose.loc[arm, NEAR]:.2f} within, {prose.loc[arm, FAR]:.2f} far behind" for arm in ARMS),
                x=_middles(CONTEXTS), series={arm: Series(y=prose.loc[arm, list(CONTEXTS)].to_numpy(float)) for arm in ARMS},
                x_label="characters read before", y_label="nats per character", log_x=True, markers=True,
            ),
            Bars(
                name="recall", title=f"Marked tokens found that lie far back: {', '.join(f'{arm} {share:.1%}' for arm, share in last.items())}",
                caption=f"Share of marked tokens named, at least 48 places back in sequences of 96; mean of {self.n_recall_seeds} seeds with the smallest and largest; a guess has 10 %.",
                alt=", ".join(f"{arm} {last[arm]:.2f}" for arm in RECALL_ARMS), labels=list(RECALL_ARMS), values=last.to_numpy(), unit="share of right answers",
                **_ends(tables["recall"].frame),
            ),
        )  # fmt: skip


def _points(effect: Effect) -> str:
    """A difference of shares with its interval, in points of a hundred."""
    return f"{100 * effect.estimate:+z.1f} points [{100 * effect.low:+z.1f}, {100 * effect.high:+z.1f}]"


def _by_arm(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    return frame.pivot(index="seed", columns="arm", values=column)


def _best(by_arm: pd.DataFrame) -> pd.Series:
    """The largest number of a Transformer in each seed."""
    return by_arm.drop(columns=[LSTM, RNN], errors="ignore").max(axis=1)


def _ratios_of_weights(frame: pd.DataFrame) -> np.ndarray:
    """Of every recurrent network over every Transformer of a task."""
    sizes = frame.groupby("arm").n_parameters.first()
    recurrent = sizes[sizes.index.isin([LSTM, RNN])]
    return np.divide.outer(recurrent.to_numpy(float), sizes.drop(recurrent.index).to_numpy(float)).ravel()


def _middles(spans: Mapping[str, tuple[int, int]]) -> np.ndarray:
    return np.array([(first + last) / 2 for first, last in spans.values()])


def _ends(recall: pd.DataFrame) -> dict[str, np.ndarray]:
    by = recall.groupby("arm").far
    return {"low": by.min()[list(RECALL_ARMS)].to_numpy(), "high": by.max()[list(RECALL_ARMS)].to_numpy()}


def _parity(arm: str, seed: int, steps: int) -> dict[str, Any]:
    learnt, hits = learn_parity(arm, seed=seed, steps=steps)
    return {"arm": arm, "seed": seed, **hits, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _prose(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    config = dataclasses.replace(PAPER, n_ctx=LONG)
    learnt = learn_characters(rival(arm, config, seed), seed=seed, recipe=recipe_for(arm, steps), n_held_out=2)
    losses = by_span(losses_by_context(learnt.model, n_held_out))
    return {"arm": arm, "seed": seed, **losses, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _recall(arm: str, seed: int, steps: int, n_test: int = 200) -> dict[str, Any]:
    lessons = Marked(n_batches=steps, batch=32, length=TRAINED, least=2, seed=seed)
    tests = {name: Marked(n_batches=1, batch=n_test, length=n, least=least, seed=seed + 10_000) for name, (n, least) in REACHES.items()}
    model = rival(arm, CONFIG, seed)
    learnt = learn(model, lessons, WhichMarked(), dataclasses.replace(recipe_for(arm, steps), seed=seed), validation=tests["within"])
    found = {}
    for name, test in tests.items():
        hits, asked = right(model, test[0], WhichMarked())
        found[name] = float(hits[asked].double().mean())
    return {"arm": arm, "seed": seed, **found, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _table(frame: pd.DataFrame, spans: Mapping[str, Any], task: str) -> Table:
    return table(
        frame, f"{task}: every network.", arm=("", "LSTM, RNN, or the positions of a Transformer (none: without)"), seed=("", "of weights and data"),
        **{span: ("1", f"share of right answers, {span}") for span in spans}, n_parameters=("parameters", "of the network"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _prose_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Prose: every network.", arm=("", "LSTM, RNN, or the positions of a Transformer (none: without)"), seed=("", "of weights and data"),
        **{span: ("nats per character", f"held-out loss after {span} characters") for span in CONTEXTS}, n_parameters=("parameters", "of the network"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = Limitations
