"""What do sines and cosines tell a Transformer about position: order, distance, and positions that it never met?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
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
from analyses.studies._tasks_lengths import LONG, SPANS, by_span, losses_by_context
from analyses.studies._tasks_neighbour import CONFIG, learn_neighbour
from analyses.studies._training import BASE, bigram, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model.positions import sinusoids
from reports import Figure, Lines, Series, Table

SIZES = (64, 128, 256, 512)
"""widths at which the encodings are examined"""
N_POSITIONS = 512
WITHIN = next(iter(SPANS))


@dataclass(frozen=True, kw_only=True)
class Sinusoids(Study):
    number: ClassVar[int] = 9
    name: ClassVar[str] = "sinusoids"
    question: ClassVar[str] = "What are the position encodings of the paper?"
    popular: ClassVar[str] = (
        "Sine and cosine functions give the order that attention alone does not have: a shift is a linear map, near positions are alike, "
        "and, since the functions go on, the model can read longer sequences than those of its training."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="they give an encoder the order", quantity="accuracy gained", relation=">", threshold=0.1),
        Prediction(says="a shift by k is one linear map for all positions", quantity="error of the linear map", relation="<", threshold=1e-4),
        Prediction(says="positions grow less alike with distance", quantity="distance at which likeness grows again", relation=">", threshold=31.0, unit="tokens"),
        Prediction(says="the model reads on behind its trained length", quantity="loss behind the trained length", relation="<", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="within the trained length it beats the bigram",
            quantity="sinusoidal minus bigram",
            relation="<",
            threshold=0.0,
            unit="nats",
        ),
    )
    method: ClassVar[str] = (
        "Encoders with sinusoids and with no positions learn to name the left neighbour in random permutations of 12 tokens. PE(p + k) is compared "
        "with R_k PE(p), R_k turning each pair (sine, cosine) by k times its frequency. Likeness: PE(p)·PE(p + k) over |PE|², which depends on k "
        "alone, for 64 dimensions. Character models with sinusoids, trained on windows of 32 characters, read held-out pieces of 128: mean loss "
        "after 32–127 characters minus that after 17–31. Weights start as in the paper: Glorot's matrices, embeddings N(0, 1/d_model) times √d_model."
    )
    scale: ClassVar[str] = "0.1 M parameters, trained on windows of 32 characters, read to 128"
    limits: ClassVar[str] = (
        "Large models on long text may learn to read on a little further; the encodings' geometry is exact, what a trained model makes of it is not."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.5",
        "Press et al. 2022, Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
        "Kazemnejad et al. 2023, The Impact of Positional Encoding on Length Generalization in Transformers",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "task_steps": 4, "n_held_out": 4},
        "default": {"n_seeds": 5, "steps": 250, "task_steps": 300, "n_held_out": 100},
        "full": {"n_seeds": 6, "steps": 600, "task_steps": 500, "n_held_out": 160},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; both arms share them"""
    steps: int = 250
    """updates of each character model"""
    task_steps: int = 300
    """updates of each model that names neighbours"""
    n_held_out: int = 100
    """held-out pieces of 128 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        task = pd.DataFrame(each(_neighbour, [(kind, seed, self.task_steps) for seed in seeds for kind in ("sinusoidal", "none")]))
        text = pd.DataFrame(each(_text, [(seed, self.steps, self.n_held_out) for seed in seeds]))
        right = {kind: part.accuracy.reset_index(drop=True) for kind, part in task.groupby("positions")}
        geometry, likeness = _geometry(self.seed), _likeness()
        effects = [
            Effect.over_seeds("accuracy gained", right["sinusoidal"] - right["none"]),
            Effect.exact("error of the linear map", geometry.shift_error.max()),
            Effect.exact("distance at which likeness grows again", geometry.grows_at[0], "tokens"),
            Effect.over_seeds("loss behind the trained length", text.beyond - text[WITHIN], "nats"),
            Effect.over_seeds("loss just behind the trained length", text["32–39"] - text[WITHIN], "nats"),
            Effect.over_seeds("sinusoidal minus bigram", text[WITHIN] - bigram(LONG, n=self.n_held_out), "nats"),
        ]
        return effects, {
            "task": _task_table(task),
            "text": _text_table(text),
            "geometry": _geometry_table(geometry),
            "likeness": _likeness_table(likeness),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        gained, beyond, just, grows = (
            effects[name].estimate
            for name in (
                "accuracy gained",
                "loss behind the trained length",
                "loss just behind the trained length",
                "distance at which likeness grows again",
            )
        )
        return (
            f"Sinusoids give an encoder the order ({gained:+.2f} accuracy), and a shift is exactly one linear map. They do not carry it beyond the "
            f"trained length: {just:+.2f} nats within the next 8 characters and {beyond:+.2f} up to four times the length. Likeness rises again from "
            f"distance {grows:.0f} on, and is the same on either side: it tells how far, not which way."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        text, likeness = tables["text"].frame, tables["likeness"].frame
        values = text[list(SPANS)]
        loss, centre = values.mean(), [(first + last) / 2 for first, last in SPANS.values()]
        grows = tables["geometry"].frame.grows_at
        return (
            Lines(
                name="lengths", title=f"Around the trained length of 32 the loss goes from {loss.iloc[0]:.2f} to {loss.iloc[1]:.2f}",
                caption=f"Held-out loss by characters read before, mean of {self.n_seeds} seeds; the band is the smallest and largest seed.",
                alt=", ".join(f"after {span} characters {value:.2f}" for span, value in loss.items()), x=np.array(centre), log_x=True, markers=True,
                series={"sinusoids": Series(y=loss.to_numpy(), low=values.min().to_numpy(), high=values.max().to_numpy())},
                x_label="characters read before", y_label="nats per character",
            ),
            Lines(
                name="likeness", title="How alike two sinusoidal positions are, by their distance",
                caption="PE(p)·PE(p + k) over |PE|², exact and the same for every p.",
                alt=f"Likeness rises again from distance {grows.iloc[0]} on with 64 dimensions, {grows.iloc[-1]} with {SIZES[-1]}.",
                x=likeness.offset.to_numpy(), series={f"{d} dimensions": Series(y=likeness[f"d{d}"].to_numpy()) for d in (SIZES[0], SIZES[-1])},
                x_label="offset k", y_label="likeness",
            ),
        )  # fmt: skip


def _neighbour(positions: str, seed: int, steps: int) -> dict[str, Any]:
    """An encoder that is to name the left neighbour."""
    config = dataclasses.replace(CONFIG, positions=positions, causal=False, embed_scale=CONFIG.d_model**0.5)
    learnt, accuracy = learn_neighbour(config, seed=seed, steps=steps)
    return {"positions": positions, "seed": seed, "accuracy": accuracy, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _text(seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A character model with sinusoids, and its loss within and behind the trained length."""
    config = dataclasses.replace(BASE, positions="sinusoidal", n_ctx=LONG, embed_scale=BASE.d_model**0.5)
    learnt = learn_characters(started_as_in_the_paper(config, seed), seed=seed, recipe=recipe_of(steps), n_held_out=2)
    losses = losses_by_context(learnt.model, n_held_out)
    first = SPANS["32–39"][0]
    return {
        "seed": seed, **by_span(losses), "beyond": float(losses[:, first - 1 :].mean()), "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _geometry(seed: int) -> pd.DataFrame:
    """What is exact about the encodings, at several widths."""
    rows = []
    for d in SIZES:
        codes = sinusoids(torch.arange(N_POSITIONS)[None], d)[0].double()
        like = codes[0] @ codes.T
        rising = (like.diff() > 0).nonzero()[0]
        centre = codes[N_POSITIONS // 2] @ codes.T
        both_ways = (centre[N_POSITIONS // 2 + 1 :] - centre[1 : N_POSITIONS // 2].flip(0)).abs().max() / centre.max()
        rows.append({
            "d_model": d, "shift_error": _shift_error(codes), "grows_at": int(rising) + 1, "direction": float(both_ways),
            "spread": _spread(codes @ codes.T), "spread_projected": _spread(_projected(codes, seed)),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _shift_error(codes: Tensor, shifts: tuple[int, ...] = (1, 7, 64)) -> float:
    """max |PE(p + k) − R_k PE(p)|: R_k turns the pair of frequency ω by kω."""
    d = codes.shape[1]
    frequencies = 10000.0 ** (-2 * torch.arange(d // 2).double() / d)
    sine, cosine = codes[:, : d // 2], codes[:, d // 2 :]
    worst = 0.0
    for k in shifts:
        c, s = (k * frequencies).cos(), (k * frequencies).sin()
        turned = torch.cat((sine * c + cosine * s, cosine * c - sine * s), dim=1)
        worst = max(worst, float((turned[:-k] - codes[k:]).abs().max()))
    return worst


def _projected(codes: Tensor, seed: int) -> Tensor:
    """Scores between positions behind random W_Q and W_K."""
    d = codes.shape[1]
    w_q, w_k = torch.randn(2, d, d, generator=torch.Generator().manual_seed(seed), dtype=codes.dtype) / d**0.5
    return (codes @ w_q) @ (codes @ w_k).T


def _spread(scores: Tensor) -> float:
    """Standard deviation along a diagonal over that of all scores, mean over the offsets 1 to 64: 0 where scores depend on the offset alone."""
    return float(torch.stack([scores.diagonal(k).std() for k in range(1, 65)]).mean() / scores.std())


def _likeness(reach: int = 64) -> pd.DataFrame:
    """PE(p)·PE(p + k) / |PE|² for k from −64 to 64."""
    columns = {"offset": np.arange(-reach, reach + 1)}
    for d in (SIZES[0], SIZES[-1]):
        codes = sinusoids(torch.arange(2 * reach + 1)[None], d)[0].double()
        columns[f"d{d}"] = (codes[reach] @ codes.T / (d / 2)).numpy()
    return pd.DataFrame(columns)


def _task_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every encoder that names the left neighbour.", positions=("", "kind of positions"), seed=("", "of weights and data"),
        accuracy=("1", "share of right answers on new permutations"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _text_table(frame: pd.DataFrame) -> Table:
    spans = {span: ("nats per character", f"held-out loss after {span} characters") for span in SPANS}
    return table(
        frame, "Every character model.", seed=("", "of weights and data"), **spans, beyond=("nats per character", "held-out loss after 32–127 characters"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _geometry_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"The encodings of {N_POSITIONS} positions.", d_model=("dimensions", "of an encoding"),
        shift_error=("1", "largest |PE(p + k) − R_k PE(p)| for k = 1, 7, 64"), grows_at=("tokens", "shortest distance at which likeness grows again"),
        direction=("1", "largest difference in likeness between k and −k, over the largest likeness"),
        spread=("1", "standard deviation of PE·PE along a diagonal over that of all, offsets 1–64: 0 is a function of the offset alone"),
        spread_projected=("1", "the same behind random W_Q and W_K"),
    )  # fmt: skip


def _likeness_table(frame: pd.DataFrame) -> Table:
    wide = {f"d{d}": ("1", f"likeness with {d} dimensions") for d in (SIZES[0], SIZES[-1])}
    return table(frame, "PE(p)·PE(p + k) over |PE|².", offset=("tokens", "k"), **wide)


STUDY = Sinusoids
