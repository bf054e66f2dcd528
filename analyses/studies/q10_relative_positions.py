"""What other position encodings are there? Do relative ones learn more within the trained length, and hold on behind it?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import EFFECTS, Effect
from analyses.studies._jobs import each
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_lengths import LONG, SPANS, by_span, context_gain, losses_by_context
from analyses.studies._tasks_recall import CHANCE, learn_recall
from analyses.studies._training import BASE, LENGTH, bigram, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer
from model.choices import RotaryScaling
from reports import Bars, Figure, Lines, Series, Table

RELATIVE = ("shaw", "t5", "alibi", "rotary")
ABSOLUTE = ("sinusoidal", "learned")
SCHEMES = (*ABSOLUTE, *RELATIVE, "none")
WITHIN, FAR = next(iter(SPANS)), tuple(SPANS)[-1]
FOUND = 0.9
"""share of right answers above which a token is said to be found"""
TEXT = dataclasses.replace(BASE, n_ctx=LONG, max_distance=LENGTH // 2, n_buckets=LENGTH // 2, embed_scale=BASE.d_model**0.5)
"""the character model, with positions to choose; all that it reads of distances behind the trained length was trained"""
STRETCHED = {f"rotary, {kind}": dataclasses.replace(TEXT.rotary, scaling=RotaryScaling(kind=kind, factor=LONG / LENGTH)) for kind in ("linear", "ntk")}
"""a trained rotary model that reads with angles as if positions lay LONG / LENGTH times as close"""


@dataclass(frozen=True, kw_only=True)
class RelativePositions(Study):
    number: ClassVar[int] = 10
    name: ClassVar[str] = "relative-positions"
    question: ClassVar[str] = "What other position encodings are there?"
    popular: ClassVar[str] = (
        "Relative ones, which capture the distance between tokens more precisely than sinusoids and do better on long sequences."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="on average relative encodings learn better within the trained length", quantity="gained within by relative", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="every one of them is better far behind it", quantity="gained far behind by the worst relative", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="the best of them reads on as before", quantity="lost far behind by the best relative", relation="<", threshold=0.02, unit="nats"),
        Prediction(says="ALiBi still finds what lies far back", quantity="recall of ALiBi far behind over chance", relation=">", threshold=0.1),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="sinusoids beat the bigram within the trained length",
            quantity="sinusoidal minus bigram",
            relation="<",
            threshold=0.0,
            unit="nats",
        ),
        Prediction(
            says="the recall task is learnt by somebody", quantity="best recall within the trained length", relation=">", threshold=0.9
        ),
    )
    method: ClassVar[str] = (
        "Character models that differ in their positions alone start from the same weights, are trained on windows of 32 characters and read "
        "held-out pieces of 128: mean loss after 17–31 (within), 32–39, 40–63 and 64–127 characters (far behind). Gains are sinusoidal minus "
        "relative, the same seed; the worst and the best relative encoding are chosen within each seed. A flat curve may mean a short sight: a "
        "second task asks which of ten marked tokens stands among random ones, in sequences of the trained length and of four times it, where the "
        "token stands further back than in any sequence of the training. Gain from far context: loss of 32 characters when 31 are read before "
        "them, minus that when 96 are. Distances from half the trained length on share a vector (shaw) or a bucket (t5), so that what is read behind "
        "it was trained. The trained rotary models also read with stretched angles, as if positions lay closer by a factor of 4: all angles divided "
        "(linear), or the base raised (ntk). Weights start as in the paper: Glorot's matrices, embeddings N(0, 1/d_model) times √d_model, learned positions "
        "as large as sinusoids; those behind the trained length were never trained."
    )
    scale: ClassVar[str] = "0.1 M parameters, trained on windows of 32, read to 128"
    limits: ClassVar[str] = (
        "No scheme was tuned, nor trained on for longer contexts, and trained lengths are those of a toy. Schemes differ in cost, too, which is not weighed."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Shaw et al. 2018, Self-Attention with Relative Position Representations", "Raffel et al. 2020, section 2.1",
        "Press et al. 2022, Train Short, Test Long", "Su et al. 2021, RoFormer",
        "Kazemnejad et al. 2023, The Impact of Positional Encoding on Length Generalization in Transformers",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "recall_steps": 2, "n_held_out": 2},
        "default": {"n_seeds": 3, "steps": 200, "recall_steps": 200, "n_held_out": 64},
        "full": {"n_seeds": 5, "steps": 250, "recall_steps": 200, "n_held_out": 160},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 200
    """updates of each character model"""
    recall_steps: int = 200
    """updates of each model of the recall task"""
    n_held_out: int = 64
    """held-out pieces of 128 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        text = pd.concat(each(_text, [(kind, seed, self.steps, self.n_held_out) for seed in seeds for kind in SCHEMES]), ignore_index=True)
        recall = pd.DataFrame(each(_recall, [(kind, seed, self.recall_steps) for seed in seeds for kind in SCHEMES]))
        gains = _gains(text)
        within, far = (text.pivot(index="seed", columns="positions", values=span) for span in (WITHIN, FAR))
        relative, lost = list(RELATIVE), far - within
        known = recall.pivot(index="seed", columns="positions", values="within")
        alibi = recall[recall.positions == "alibi"]
        effects = [
            Effect.over_seeds("gained within by relative", within["sinusoidal"] - within[relative].mean(axis=1), "nats"),
            Effect.over_seeds("gained far behind by the worst relative", far["sinusoidal"] - far[relative].max(axis=1), "nats"),
            Effect.over_seeds("lost far behind by the best relative", lost[relative].min(axis=1), "nats"),
            Effect.over_seeds("recall of ALiBi far behind over chance", alibi.far - CHANCE, within=(-CHANCE, 1 - CHANCE)),
            Effect.over_seeds("sinusoidal minus bigram", within["sinusoidal"] - bigram(LONG, n=self.n_held_out), "nats"),
            Effect.over_seeds("best recall within the trained length", known.max(axis=1), within=(0, 1)),
            *gains,
        ]
        return effects, {"text": _text_table(text), "recall": _recall_table(recall)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        within, far = ({kind: effects[f"gained {where} by {kind}"].estimate for kind in RELATIVE} for where in ("within", "far behind"))
        each_one = ", ".join(f"{kind} {within[kind]:+z.2f} and {far[kind]:+z.2f}" for kind in RELATIVE)
        worst, last, first = min(RELATIVE, key=within.get), min(RELATIVE, key=far.get), max(RELATIVE, key=far.get)
        stretched = ", ".join(f"{effects[f'gained far behind by {kind}'].estimate:+z.2f} ({kind.split(', ')[1]})" for kind in STRETCHED)
        return (
            f"Gained over sinusoids within and far behind the trained length, in nats: {each_one}. The worst within is {worst}; far behind {first} and {last} "
            f"are {far[first] - far[last]:.2f} nats apart, and rotary with stretched angles gains {stretched}. ALiBi finds a far token "
            f"{effects['recall of ALiBi far behind over chance'].estimate:+z.2f} over chance."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        text, recall = tables["text"].frame, tables["recall"].frame
        loss = text.groupby("positions")[list(SPANS)].mean().loc[list(SCHEMES)]
        right = recall.groupby("positions")[["within", "twice", "far"]].mean().loc[list(SCHEMES)]
        lost = (loss[FAR] - loss[WITHIN]).sort_values()
        found = tables[EFFECTS].frame.set_index("quantity")
        by = {"within": SCHEMES[1:], "far behind": (*SCHEMES[1:], *STRETCHED)}
        gains = found.loc[[f"gained {where} by {kind}" for where, kinds in by.items() for kind in kinds]]
        return (
            Lines(
                name="lengths", title=f"Behind the trained length {lost.index[0]} loses least, {lost.index[-1]} most",
                caption=f"Held-out loss by characters read before, mean of {self.n_seeds} seeds; models were trained on windows of {LENGTH}.",
                alt=", ".join(f"{kind} {loss[WITHIN][kind]:.2f} within, {loss[FAR][kind]:.2f} far behind" for kind in SCHEMES), markers=True, log_x=True,
                x=np.array([(first + last) / 2 for first, last in SPANS.values()]), series={kind: Series(y=loss.loc[kind].to_numpy()) for kind in SCHEMES},
                x_label="characters read before", y_label="nats per character",
            ),
            Lines(
                name="recall", title=_who_finds(right.far),
                caption=f"Share of right answers at the trained length, twice and four times it, mean of {self.n_seeds} seeds. "
                f"Found: more than {FOUND:.0%} at four times.",
                alt=", ".join(f"{kind} {right['within'][kind]:.2f} within, {right['far'][kind]:.2f} far behind" for kind in SCHEMES), markers=True, log_x=True,
                x=np.array([1.0, 2.0, 4.0]), series={kind: Series(y=right.loc[kind].to_numpy()) for kind in SCHEMES},
                x_label="length over the trained length", y_label="share of right answers",
            ),
            Bars(
                name="gains", title="What each scheme gains over sinusoids, within the trained length and far behind it",
                caption=f"Held-out loss with sinusoids minus that with the scheme, mean of {self.n_seeds} seeds with its 95 % interval.",
                alt=", ".join(f"{name} {value:+z.2f}" for name, value in gains.estimate.items()), labels=[name.removeprefix("gained ") for name in gains.index],
                values=gains.estimate.to_numpy(), low=gains.low.to_numpy(), high=gains.high.to_numpy(), unit="nats per character", signed=True,
            ),
        )  # fmt: skip


def _who_finds(right: pd.Series) -> str:
    """The finding of the recall task in a line."""
    able = [kind for kind in SCHEMES if right[kind] > FOUND]
    return f"At least twice as far back as in training a token is found by {', '.join(able) or 'none of them'}"


def _gains(text: pd.DataFrame) -> list[Effect]:
    """Sinusoidal minus each other scheme, within and far behind the trained length, and what it gains from far context."""
    within, far = (text.pivot(index="seed", columns="positions", values=span) for span in (WITHIN, FAR))
    others = [kind for kind in SCHEMES if kind != "sinusoidal"]
    found = [Effect.over_seeds(f"gained within by {kind}", within["sinusoidal"] - within[kind], "nats") for kind in others]
    found += [Effect.over_seeds(f"gained far behind by {kind}", far["sinusoidal"] - far[kind], "nats") for kind in (*others, *STRETCHED)]
    gain = text.pivot(index="seed", columns="positions", values="context_gain")
    return found + [Effect.over_seeds(f"gained from far context by {kind}", gain[kind], "nats") for kind in SCHEMES]


def _text(positions: str, seed: int, steps: int, n_held_out: int) -> pd.DataFrame:
    """A character model with its loss within and behind the trained length; a rotary one also with stretched angles."""
    config = dataclasses.replace(TEXT, positions=positions)
    learnt = learn_characters(started_as_in_the_paper(config, seed), seed=seed, recipe=recipe_of(steps), n_held_out=2)
    readers = {positions: learnt.model}
    for name, rotary in STRETCHED.items() if positions == "rotary" else ():
        readers[name] = Transformer(dataclasses.replace(config, rotary=rotary))
        readers[name].load_state_dict(learnt.model.state_dict())
    return pd.DataFrame([
        {
            "positions": name, "seed": seed, **by_span(losses_by_context(model, n_held_out)), "context_gain": context_gain(model, n_held_out),
            "n_parameters": learnt.n_parameters, "flops": learnt.flops,
        }
        for name, model in readers.items()
    ])  # fmt: skip


def _recall(positions: str, seed: int, steps: int) -> dict[str, Any]:
    """A model that is to name the marked token: how often it does, at the trained length and behind it."""
    learnt, right = learn_recall(positions, seed=seed, steps=steps)
    return {"positions": positions, "seed": seed, **right, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _text_table(frame: pd.DataFrame) -> Table:
    spans = {span: ("nats per character", f"held-out loss after {span} characters") for span in SPANS}
    return table(
        frame, "Every character model.", positions=("", "kind of positions; with linear or ntk it is the rotary model, which reads with stretched angles"),
        seed=("", "of weights and data"), **spans, context_gain=("nats per character", "loss with 31 characters before the window minus that with 96"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _recall_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model of the recall task.", positions=("", "kind of positions"), seed=("", "of weights and data"),
        within=("1", "share of right answers at the trained length"), twice=("1", "at twice that length, the marked token further back than in any sequence of the training"),
        far=("1", "at four times that length, at least twice as far back"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = RelativePositions
