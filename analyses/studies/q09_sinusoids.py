"""What do sines and cosines tell a Transformer about position: order, distance, and positions that it never met?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
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
from analyses.studies._training import BASE, LENGTH, bigram, learn_characters, recipe_of
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
        "Sine and cosine functions give the order that attention alone does not have: a shift is a linear map, near positions are alike, attention's "
        "products tell the distance, and, since the functions go on, the model can read longer sequences than those of its training."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="they give an encoder the order", quantity="accuracy gained", relation=">", threshold=0.1),
        Prediction(says="a shift by k is one linear map for all positions", quantity="error of the linear map", relation="<", threshold=1e-4),
        Prediction(says="positions grow steadily less alike with distance", quantity="largest rise of likeness within the trained length", relation="<", threshold=0.02),
        Prediction(
            says="behind W_Q and W_K, too, their product depends on their distance alone", quantity="spread at one distance behind random W_Q and W_K",
            relation="<", threshold=0.05,
        ),
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
        "alone, for 64 dimensions; its rise is what it stands above the lowest value at a shorter distance, for k from 0 to 31, which occur in "
        "training. Spread: standard deviation of the products of two positions k apart, mean of k = 1 to 64, over that of all pairs of 512 positions; "
        "random W_Q and W_K have normal entries. Character models with sinusoids, trained on windows of 32 characters, read held-out pieces of 128: mean loss "
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
        "full": {"n_seeds": 5, "steps": 400, "task_steps": 400, "n_held_out": 160},
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
        geometry, projected, likeness = _geometry(), _projected(seeds), _likeness()
        effects = [
            Effect.over_seeds("accuracy gained", right["sinusoidal"] - right["none"], within=(-1, 1)),
            Effect.over_seeds("accuracy with sinusoids", right["sinusoidal"], within=(0, 1)),
            Effect.exact("error of the linear map", geometry.shift_error.max()),
            Effect.exact("largest rise of likeness within the trained length", geometry.rise[SIZES[0]]),
            Effect.exact("rank correlation of likeness and distance within it", geometry.trend[SIZES[0]]),
            *(Effect.exact(f"distance at which likeness first rises, {d} dimensions", geometry.rises_at[d], "tokens") for d in (SIZES[0], SIZES[-1])),
            Effect.exact("spread at one distance", geometry.spread[SIZES[0]]),
            Effect.over_seeds("spread at one distance behind random W_Q and W_K", projected[projected.d_model == SIZES[0]].spread),
            Effect.over_seeds("loss behind the trained length", text.beyond - text[WITHIN], "nats"),
            Effect.over_seeds("loss just behind the trained length", text["32–39"] - text[WITHIN], "nats"),
            Effect.over_seeds("sinusoidal minus bigram", text[WITHIN] - bigram(LONG, n=self.n_held_out), "nats"),
        ]
        return effects, {
            "task": _task_table(task),
            "text": _text_table(text),
            "geometry": _geometry_table(geometry.reset_index()),
            "projected": _projected_table(projected),
            "likeness": _likeness_table(likeness),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        gained, right, error, rise, trend, spread, just, beyond = (
            effects[name].estimate
            for name in (
                "accuracy gained", "accuracy with sinusoids", "error of the linear map", "largest rise of likeness within the trained length",
                "rank correlation of likeness and distance within it", "spread at one distance behind random W_Q and W_K",
                "loss just behind the trained length", "loss behind the trained length",
            )
        )  # fmt: skip
        first, paper = (effects[f"distance at which likeness first rises, {d} dimensions"].estimate for d in (SIZES[0], SIZES[-1]))
        order, shift, steadily, alone, reads = (one.outcome(effects[one.quantity]) for one in self.predictions)
        gives = {"holds": "give", "fails": "do not give", "open": "do not surely give"}[order]
        falls = f"{'falls' if trend < 0 else 'does not fall'} with distance, {'steadily within the trained length' if steadily == 'holds' else 'though not steadily'}"
        depends = {"holds": "depends on their distance alone", "fails": "depends on their place, too", "open": "may depend on their place, too"}[alone]
        carry = {"holds": "They carry the model", "fails": "They do not carry the model", "open": "It is open whether they carry the model"}[reads]
        return (
            f"Sinusoids {gives} an encoder the order ({gained:+z.2f} accuracy), and a shift is {'' if shift == 'holds' else 'not '}one linear map (to {error:.0e}). At "
            f"{SIZES[0]} dimensions likeness {falls}: it first rises at {first:.0f}, within the trained length by up to {rise:.2g}; at the paper's {SIZES[-1]} it first "
            f"rises at {paper:.0f}. It is the same on either side, so that alone it tells how far, not which way; behind trained W_Q and W_K an encoder names the left "
            f"neighbour in {right:.0%} of cases. Behind random ones the product of two positions {depends}: at one distance it spreads {spread:.2f} times as much as "
            f"over all pairs. {carry} beyond the trained length: {just:+z.2f} nats within the next 8 characters and {beyond:+z.2f} up to four times the length."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        text, likeness = tables["text"].frame, tables["likeness"].frame
        values = text[list(SPANS)]
        loss, centre = values.mean(), [(first + last) / 2 for first, last in SPANS.values()]
        rises = tables["geometry"].frame.rises_at
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
                alt=f"Likeness first rises at distance {rises.iloc[0]} with {SIZES[0]} dimensions, at {rises.iloc[-1]} with {SIZES[-1]}.",
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


def _geometry() -> pd.DataFrame:
    """What is exact about the encodings, a row for every width."""
    rows = []
    for d in SIZES:
        codes = _codes(d)
        like = codes[0] @ codes.T / (d / 2)
        near = pd.Series(like[:LENGTH].numpy())
        centre = codes[N_POSITIONS // 2] @ codes.T
        both_ways = (centre[N_POSITIONS // 2 + 1 :] - centre[1 : N_POSITIONS // 2].flip(0)).abs().max() / centre.max()
        rows.append({
            "d_model": d, "shift_error": _shift_error(codes), "rises_at": int((like.diff() > 0).nonzero()[0]) + 1, "rise": _largest_rise(near),
            "trend": near.corr(pd.Series(near.index), method="spearman"), "direction": float(both_ways), "spread": _spread(codes @ codes.T),
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("d_model")


def _largest_rise(values: pd.Series) -> float:
    """How far they come to stand above the lowest value before them.

    >>> _largest_rise(pd.Series([4.0, 2.0, 3.0, 1.0, 1.5]))
    1.0
    """
    return float((values - values.cummin()).max())


def _codes(d: int) -> Tensor:
    return sinusoids(torch.arange(N_POSITIONS)[None], d)[0].double()


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


def _projected(seeds: Sequence[int]) -> pd.DataFrame:
    """How much the products of positions spread at one distance behind random W_Q and W_K."""
    rows = []
    for d in (SIZES[0], SIZES[-1]):
        codes = _codes(d)
        for seed in seeds:
            w_q, w_k = torch.randn(2, d, d, generator=torch.Generator().manual_seed(seed), dtype=codes.dtype) / d**0.5
            rows.append({"d_model": d, "seed": seed, "spread": _spread((codes @ w_q) @ (codes @ w_k).T)})
    return pd.DataFrame(rows)


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
        shift_error=("1", "largest |PE(p + k) − R_k PE(p)| for k = 1, 7, 64"), rises_at=("tokens", "shortest distance at which likeness rises"),
        rise=("1", f"largest rise of likeness above its lowest value at a shorter distance, distances 0 to {LENGTH - 1}"),
        trend=("1", f"Spearman's rank correlation of likeness and distance, distances 0 to {LENGTH - 1}"),
        direction=("1", "largest difference in likeness between k and −k, over the largest likeness"),
        spread=("1", "standard deviation of PE·PE along a diagonal over that of all, offsets 1–64: 0 is a function of the offset alone"),
    )  # fmt: skip


def _projected_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Products of {N_POSITIONS} positions behind random W_Q and W_K.", d_model=("dimensions", "of an encoding"), seed=("", "of W_Q and W_K"),
        spread=("1", "standard deviation of the products along a diagonal over that of all, mean of the offsets 1–64"),
    )  # fmt: skip


def _likeness_table(frame: pd.DataFrame) -> Table:
    wide = {f"d{d}": ("1", f"likeness with {d} dimensions") for d in (SIZES[0], SIZES[-1])}
    return table(frame, "PE(p)·PE(p + k) over |PE|².", offset=("tokens", "k"), **wide)


STUDY = Sinusoids
