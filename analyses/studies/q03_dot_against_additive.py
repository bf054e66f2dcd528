"""Why dot product and not additive scores? What does each cost, and is a dot product a similarity?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from analyses._contract import table
from analyses._live_memory import peak_bytes
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._passes import DEPENDS, measured, ratios, spread, timed, times_table
from analyses.studies._row_ranks import row_rank_correlation
from analyses.studies._starts import start_scores
from analyses.studies._training import BASE, bigram, character_model, held_out, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig
from probes import record
from reports import Bars, Figure, Lines, Series, Table

D_HEAD = 64
LENGTHS = (32, 64, 128, 256)
ARMS: Mapping[str, Mapping[str, Any]] = {"dot": {}, "dot, unscaled": {"score_scale": 1.0}, "additive": {"score": "additive"}}
LEAST = 8
"""keys that a row must see for the order of its scores to be judged"""
NO_TANH = "additive, without tanh"
OPERATIONS = {"dot": 2, "additive": 4}
"""for each score and coordinate: a multiplication and an addition; before them an addition and a tanh"""


@dataclass(frozen=True, kw_only=True)
class DotAgainstAdditive(Study):
    number: ClassVar[int] = 3
    name: ClassVar[str] = "dot-against-additive"
    timed: ClassVar[bool] = True
    question: ClassVar[str] = "Why dot product and not additive scores?"
    popular: ClassVar[str] = "Dot-product attention costs O(n²·d_k); additive attention costs more; the dot product captures similarity."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="additive attention takes more time", quantity="time of additive over dot", relation=">", threshold=2.0),
        Prediction(says="additive attention takes more memory", quantity="memory of additive over dot", relation=">", threshold=2.0),
        Prediction(
            says="the dot product captures similarity", quantity="rank correlation of score and similarity", relation=">", threshold=0.5
        ),
    )
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the model with dot products beats the bigram", quantity="dot minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
        Prediction(says="ratios of times repeat", quantity="spread of the ratios of times", relation="<", threshold=0.25),
    )
    method: ClassVar[str] = (
        f"Dot: q·k/√d_k. Additive: w·tanh(q + k). One attention of one head, d_k = {D_HEAD}, {LENGTHS[-1]} tokens, its pattern written out in both: CPU "
        "time of a forward pass, the ratio round by round, and the peak of living tensors, counted. Without tanh: the same additive pass, in which a copy "
        f"takes the place of the tanh, so that it adds and writes as much. Operations of a score: {OPERATIONS['dot']} d_k (dot), {OPERATIONS['additive']} d_k (additive; a tanh "
        "counts as one, which hides its price). Text: character decoders with one head a layer, Glorot's weights for W_Q and W_K. Similarity: cosine of "
        "what queries and keys are made from (the normalised stream, before its gain; it holds positions, too), ranked within a row against the scores of "
        f"the trained model, over rows with at least {LEAST} keys."
    )
    scale: ClassVar[str] = f"0.1 M parameters, one head a layer with d_k = {D_HEAD}, windows of 32 characters"
    limits: ClassVar[str] = (
        f"{DEPENDS} The peak of memory depends on the operations that the library makes: a kernel of its own would not have to hold n²·d_k values at once; "
        "none is measured. One width of head. How alike two tokens are is taken to be the cosine of their normalised streams; other measures are not tried."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.1", "Bahdanau et al. 2015, Neural Machine Translation by Jointly Learning to Align and Translate",
        "Britz et al. 2017, Massive Exploration of Neural Machine Translation Architectures",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "n_held_out": 8, "repeats": 3},
        "default": {"n_seeds": 4, "steps": 400, "n_held_out": 128, "repeats": 20},
        "full": {"n_seeds": 5, "steps": 500, "n_held_out": 600, "repeats": 60},
    }

    n_seeds: int = 4
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 400
    """updates of each model of text"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""
    repeats: int = 20
    """how often a pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        text = pd.DataFrame(each(_text, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS]))
        loss = text.groupby("arm").loss.apply(lambda x: x.to_numpy())
        costs = pd.DataFrame([{"arm": arm, "length": n, "bytes": _peak(arm, n)} for n in LENGTHS for arm in ("dot", "additive")])
        longest = costs[costs.length == LENGTHS[-1]].set_index("arm").bytes
        passes = {arm: _pass(*_attention(arm, LENGTHS[-1])) for arm in ("dot", "additive")}
        passes[NO_TANH] = _pass(*_attention("additive", LENGTHS[-1]), WithoutTanh())
        times = timed(passes, self.repeats, self.seed)
        similar = text.groupby("arm").similarity.apply(lambda x: x.to_numpy())
        reached = bigram(n=self.n_held_out)
        effects = [
            measured("time of additive over dot", ratios(times, "additive", "dot")),
            dataclasses.replace(
                Effect.exact("memory of additive over dot", longest["additive"] / longest["dot"]),
                kind="measured: peak of living tensors, counted",
            ),
            Effect.exact("operations of additive over dot", OPERATIONS["additive"] / OPERATIONS["dot"]),
            measured("time of additive without tanh over dot", ratios(times, NO_TANH, "dot")),
            measured("share of tanh in the time of additive", 1 - ratios(times, NO_TANH, "additive")),
            measured("spread of the ratios of times", [spread(times)]),
            Effect.over_seeds("rank correlation of score and similarity", similar["dot"], within=(-1, 1)),
            Effect.over_seeds("rank correlation of additive score and similarity", similar["additive"], within=(-1, 1)),
            Effect.over_seeds("rank correlation, additive minus dot", similar["additive"] - similar["dot"], within=(-2, 2)),
            Effect.over_seeds("dot minus bigram", loss["dot"] - reached, "nats"),
            Effect.over_seeds("loss of additive minus that of dot", loss["additive"] - loss["dot"], "nats"),
            Effect.over_seeds("loss of unscaled dot minus that of additive", loss["dot, unscaled"] - loss["additive"], "nats"),
            Effect.over_seeds("unscaled dot minus bigram", loss["dot, unscaled"] - reached, "nats"),
        ]
        tables = {
            "text": _text_table(text), "memory": _costs_table(costs),
            "times": times_table(times, f"Forward pass of one attention over {LENGTHS[-1]} tokens, pattern written out."),
        }  # fmt: skip
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        operations, time, rest, share, memory, dot, additive, loss, unscaled, above = (
            effects[name].estimate
            for name in (
                "operations of additive over dot", "time of additive over dot", "time of additive without tanh over dot", "share of tanh in the time of additive",
                "memory of additive over dot", "rank correlation of score and similarity", "rank correlation of additive score and similarity",
                "loss of additive minus that of dot", "loss of unscaled dot minus that of additive", "unscaled dot minus bigram",
            )
        )  # fmt: skip
        more = effects["rank correlation, additive minus dot"]
        return (
            f"Additive scores take {operations:g} times the operations, whatever n and d_k: of the same order. They take {memory:.2g} times the memory, since n²·d_k values are "
            f"written out, and {time:.2g} times the time: {share:.0%} of it is the tanh, with a copy in its place they take {rest:.2g} times. Scores of a trained dot product "
            f"follow the similarity of the tokens by {dot:+z.2f} (1: in full), additive ones by {additive:+z.2f} (difference {more.estimate:+z.2f}, {more.low:+z.2f} to "
            f"{more.high:+z.2f}). On text additive scores end {loss:+z.3f} nats from scaled dot products; unscaled ones end {unscaled:+z.3f} from additive and {above:+z.3f} "
            f"from the bigram."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        text, memory = tables["text"].frame, tables["memory"].frame
        loss = text.groupby("arm", sort=False).loss.agg(["mean", "min", "max"])
        peak = memory.pivot(index="length", columns="arm", values="bytes") / 1e6
        ratio = peak["additive"].iloc[-1] / peak["dot"].iloc[-1]
        return (
            Lines(
                name="memory", title=f"Additive scores hold {ratio:.0f} times the memory at {LENGTHS[-1]} tokens",
                caption=f"Peak of living tensors in a forward pass of one attention, one head, d_k = {D_HEAD}, pattern written out.",
                alt=f"At {LENGTHS[-1]} tokens: " + ", ".join(f"{arm} {peak[arm].iloc[-1]:.1f} MB" for arm in peak), x=np.array(LENGTHS, dtype=float),
                series={arm: Series(y=peak[arm].to_numpy()) for arm in peak}, x_label="tokens", y_label="MB", log_x=True, log_y=True, markers=True,
            ),
            Bars(
                name="text", title=f"On text additive scores end {loss['mean']['additive'] - loss['mean']['dot']:+z.3f} nats from scaled dot products",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; character pairs reach {bigram(n=self.n_held_out):.2f}.",
                alt=", ".join(f"{arm} {value:.3f}" for arm, value in loss["mean"].items()), labels=list(loss.index), values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


class WithoutTanh(TorchFunctionMode):
    """Inside, a copy takes the place of every tanh: as much is read and written.

    >>> with WithoutTanh():
    ...     torch.tanh(torch.tensor([5.0]))
    tensor([5.])
    """

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        return args[0].clone() if func is torch.tanh else func(*args, **(kwargs or {}))


def _attention(arm: str, n: int) -> tuple[Transformer, Tensor]:
    """One layer that is nothing but attention, and tokens for it."""
    config = TransformerConfig(
        family="study", n_layers=1, d_model=D_HEAD, n_heads=1, d_head=D_HEAD, d_mlp=0, d_vocab=8, n_ctx=n, causal=False, head="none", positions="none",
        norm="none", **ARMS[arm],
    )  # fmt: skip
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    return model, torch.arange(n)[None] % config.d_vocab


def _pass(model: Transformer, tokens: Tensor, inside: AbstractContextManager[Any] = nullcontext()) -> Callable[[], Tensor]:
    """A forward pass whose pattern somebody looks at, so that no arm is fused."""

    def run() -> Tensor:
        with inside, record(model, "blocks.0.attn.pattern"):
            return model(tokens)

    return run


def _peak(arm: str, n: int) -> int:
    model, tokens = _attention(arm, n)
    return peak_bytes(_pass(model, tokens), torch.device("cpu"), [*model.parameters(), tokens])


def _text(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A decoder of characters: its loss, and whether its scores are similarities."""
    model = character_model(dataclasses.replace(BASE, n_heads=1, n_kv_heads=1, d_head=D_HEAD, **ARMS[arm]), seed)
    start_scores(model, "Glorot", seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    return {
        "arm": arm, "seed": seed, "loss": learnt.loss, "similarity": _similarity(model, held_out(n=n_held_out)[0][0]),
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


@torch.no_grad()
def _similarity(model: Transformer, tokens: Tensor) -> float:
    """Mean rank correlation, within rows, of scores and of cosines between what queries and keys are made from."""
    with record(model, ["blocks.*.attn.scores", "blocks.*.ln1.normalized"]) as activations:
        model(tokens)
    found = []
    for i in range(model.n_layers):
        x = F.normalize(activations[f"blocks.{i}.ln1.normalized"].double(), dim=-1)  # batch pos d_model
        cosines = (x @ x.mT).unsqueeze(1)  # batch 1 query key
        found.append(row_rank_correlation(activations[f"blocks.{i}.attn.scores"], cosines, least=LEAST).mean())
    return float(np.mean(found))


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every decoder of characters.", arm=("", "how scores are made"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"),
        similarity=("1", "rank correlation, within rows, of scores and cosines of the normalised stream before its gain"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token, attention's own products left out"),
    )  # fmt: skip


def _costs_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Peak of living tensors in a forward pass of one attention, one head, d_k = {D_HEAD}, pattern written out.", measurement=True,
        arm=("", "how scores are made"), length=("tokens", "of the sequence"), bytes=("bytes", "most that lived at once"),
    )  # fmt: skip


STUDY = DotAgainstAdditive
