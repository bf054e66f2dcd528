"""What limits the length of a sequence? From where on is its cost quadratic, and what do windows and segments give up?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._contract import table
from analyses._flops import flops_crossover, forward_flops
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._passes import GPT2
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import BASE, bigram, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Span, Transformer
from probes import record
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

WIDTHS = (256, 768, 4096)
LENGTHS = tuple(2**i for i in range(7, 18))
LENGTH, BATCH = 64, 8
WINDOW, SEGMENT = 8, 16
"""keys of a query: 8 in a window, 8.5 on average in a segment"""
SPANS = {"full": Span(), "window": Span(kind="window", size=WINDOW), "segments": Span(kind="block", size=SEGMENT)}


@dataclass(frozen=True, kw_only=True)
class SequenceLength(Study):
    number: ClassVar[int] = 32
    name: ClassVar[str] = "sequence-length"
    question: ClassVar[str] = "What limits the length of a sequence?"
    popular: ClassVar[str] = (
        "The cost is quadratic in the length, in compute and in memory; long sequences need better attention, such as windows, or segments in its place."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="compute is nearer to quadratic than to linear at 1,024 tokens", quantity="exponent of compute at 1,024", relation=">", threshold=1.5),
        Prediction(says="so is the memory of training", quantity="exponent of memory at 1,024", relation=">", threshold=1.5),
        Prediction(says="windows do as well as full attention", quantity="loss of windows", relation="<", threshold=0.02, unit="nats"),
        Prediction(says="segments do as well as full attention", quantity="loss of segments", relation="<", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="full attention beats the bigram", quantity="full minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Exponent: log₂ of the cost of 2n over that of n. Compute: matrix products of a forward pass of GPT-2 small by formula, all pairs counted. "
        "Memory: bytes that one block of width 64 keeps for the backward pass, fused attention, counted exactly; beside it the same with the "
        f"pattern written out. Character models of two layers, read 64 characters at a time, with full attention, windows of {WINDOW} or segments "
        f"of {SEGMENT}, about as many keys each, from the same weights (Glorot's matrices) and on the same windows of text. Reach: positions whose embedding has a "
        "gradient at the last position's logits that is not exactly 0; L layers of windows of w reach L·(w − 1) back."
    )
    scale: ClassVar[str] = "compute at 124 M parameters; memory of one block; text with 0.1 M parameters, windows of 64 characters"
    limits: ClassVar[str] = (
        "After so few updates what windows lose is speed of learning as much as reach: it shrinks, and may turn, with more of them. "
        "Text of this size hardly needs what lies 15 characters back; a task that does is lost beyond the reach, whatever its training. Compute is "
        "counted, not timed (question 31 times a window); kernels that skip what is masked, and the cache of generation, are not in it."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, table 1", "Child et al. 2019, Generating Long Sequences with Sparse Transformers",
        "Beltagy et al. 2020, Longformer: The Long-Document Transformer", "Dao et al. 2022, FlashAttention",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 4},
        "default": {"n_seeds": 5, "steps": 500, "n_held_out": 64},
        "full": {"n_seeds": 5, "steps": 1600, "n_held_out": 300},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 500
    """updates of each model"""
    n_held_out: int = 64
    """held-out pieces of 64 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        arms = pd.DataFrame(each(_arm, [(span, seed, self.steps, self.n_held_out) for seed in seeds for span in SPANS]))
        loss = {span: part.loss.reset_index(drop=True) for span, part in arms.groupby("span")}
        memory, reach = _memory(self.seed), _reach(self.seed)
        fused, written = (memory[name].to_numpy(float) for name in ("fused", "written"))
        effects = [
            Effect.exact("exponent of compute at 1,024", np.log2(forward_flops(GPT2, 1024).total / forward_flops(GPT2, 512).total)),
            Effect.exact("exponent of compute at 65,536", np.log2(forward_flops(GPT2, 2**16).total / forward_flops(GPT2, 2**15).total)),
            Effect.exact("length from which attention is the larger part", flops_crossover(GPT2, visible=False), "tokens"),
            Effect.exact("exponent of memory at 1,024", np.log2(fused[-1] / fused[-2])),
            Effect.exact("exponent of memory at 1,024, pattern written out", np.log2(written[-1] / written[-2])),
            Effect.over_seeds("loss of windows", loss["window"] - loss["full"], "nats"),
            Effect.over_seeds("loss of segments", loss["segments"] - loss["full"], "nats"),
            Effect.over_seeds("full minus bigram", loss["full"] - bigram(LENGTH, n=self.n_held_out), "nats"),
            *(Effect.exact(f"reach with {row.span}", row.reach, "tokens") for row in reach.itertuples() if row.n_layers == 2),
        ]
        return effects, {
            "arms": _arms_table(arms),
            "compute": _compute_table(),
            "memory": _memory_table(memory),
            "reach": _reach_table(reach),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        compute, memory, written, windows, segments, reach, crossover = (
            effects[name].estimate
            for name in (
                "exponent of compute at 1,024", "exponent of memory at 1,024", "exponent of memory at 1,024, pattern written out", "loss of windows",
                "loss of segments", "reach with window", "length from which attention is the larger part",
            )
        )  # fmt: skip
        return (
            f"At 1,024 tokens compute grows with the power {compute:.2f} of the length, memory with {memory:.2f} (fused; {written:.2f} with the pattern "
            f"written out): attention is the larger part only beyond {crossover:,.0f} tokens. Windows cost {windows:+.3f} nats and segments {segments:+.3f}; "
            f"two layers of windows of {WINDOW} reach exactly {reach:.0f} tokens back, and nothing beyond."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        compute, arms = tables["compute"].frame, tables["arms"].frame
        loss = arms.groupby("span").loss.agg(["mean", "min", "max"]).loc[list(SPANS)]
        return (
            Lines(
                name="exponent", title=f"At width 768 the exponent of the compute is {_exponent(compute, 768, 1024):.2f} at 1,024 tokens",
                caption="log₂ of the operations of 2n tokens over those of n; 12 layers, all pairs counted. 1 is linear, 2 quadratic.",
                alt=", ".join(f"width {d}: {_exponent(compute, d, 1024):.2f} at 1,024, {_exponent(compute, d, LENGTHS[-1]):.2f} at {LENGTHS[-1]:,}" for d in WIDTHS),
                x=np.array(LENGTHS, dtype=float), log_x=True, markers=True, x_label="tokens", y_label="exponent",
                series={f"d_model = {d}": Series(y=compute[compute.d_model == d].exponent.to_numpy()) for d in WIDTHS},
            ),
            Bars(
                name="loss", title=f"Windows end {loss['mean']['window'] - loss['mean']['full']:+.3f} nats from full attention, segments {loss['mean']['segments'] - loss['mean']['full']:+.3f}",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest. Windows of {WINDOW}, segments of {SEGMENT}.",
                alt=", ".join(f"{name} {value:.3f}" for name, value in loss["mean"].items()), labels=list(loss.index), values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _exponent(compute: pd.DataFrame, d_model: int, length: int) -> float:
    return float(compute[(compute.d_model == d_model) & (compute.length == length)].exponent.iloc[0])


def _arm(span: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A character model whose attention reaches so far."""
    model = started_as_in_the_paper(dataclasses.replace(PAPER, span=SPANS[span]), seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), length=LENGTH, batch=BATCH, n_held_out=n_held_out)
    return {"span": span, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _memory(seed: int) -> pd.DataFrame:
    """What one block keeps for the backward pass, with fused attention and with the pattern written out."""
    config = dataclasses.replace(BASE, n_layers=1, n_ctx=1024)
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    rows = []
    for n in (128, 256, 512, 1024):
        tokens = torch.zeros(1, n, dtype=torch.long)
        there = [*model.parameters(), tokens]
        fused = saved_bytes(lambda tokens=tokens: model(tokens), without=there)
        with record(model, "blocks.0.attn.pattern", gradients=True):
            written = saved_bytes(lambda tokens=tokens: model(tokens), without=there)
        rows.append({"length": n, "fused": fused, "written": written})
    return pd.DataFrame(rows)


def _reach(seed: int) -> pd.DataFrame:
    """How many positions back the last logits have a gradient that is not exactly 0, in untrained models."""
    rows = []
    for n_layers in (1, 2, 4):
        for name, span in SPANS.items():
            config = dataclasses.replace(BASE, n_layers=n_layers, span=span)
            model = Transformer(config, generator=torch.Generator().manual_seed(seed)).eval()
            tokens = torch.randint(config.d_vocab, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
            with record(model, "embed", gradients=True) as activations:
                last = model(tokens)[0, -1]
            gradient = torch.autograd.grad(last.log_softmax(-1)[0], activations["embed"])[0][0]
            first = int((gradient.abs().sum(-1) > 0).nonzero()[0])
            law = {"full": LENGTH - 1, "window": n_layers * (WINDOW - 1), "segments": (LENGTH - 1) % SEGMENT}[name]
            rows.append({"span": name, "n_layers": n_layers, "reach": LENGTH - 1 - first, "law": law})
    return pd.DataFrame(rows)


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every character model.", span=("", "how far attention reaches"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token, attention's own products left out"),
    )  # fmt: skip


def _compute_table() -> Table:
    rows = []
    for d in WIDTHS:
        config = dataclasses.replace(GPT2, d_model=d, n_heads=d // 64, n_kv_heads=d // 64, d_mlp=4 * d)
        for n in LENGTHS:
            flops, half = forward_flops(config, n), forward_flops(config, n // 2)
            rows.append({
                "d_model": d, "length": n, "flops": float(flops.total), "share": flops.attention / flops.total, "exponent": float(np.log2(flops.total / half.total)),
            })  # fmt: skip
    return table(
        pd.DataFrame(rows), "Operations of a forward pass of 12 layers in the shape of GPT-2, by formula.", d_model=("", "width"), length=("tokens", "read"),
        flops=("FLOP", "matrix products, all pairs, one position unembedded"), share=("1", "of q kᵀ and pattern · v"),
        exponent=("1", "log₂ of it over that of half the length"),
    )  # fmt: skip


def _memory_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What one block of width 64 with 4 heads keeps for its backward pass, with embedding and logits.", length=("tokens", "read"),
        fused=("bytes", "with fused attention"), written=("bytes", "with the pattern written out"),
    )  # fmt: skip


def _reach_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"How far back the last of {LENGTH} positions is influenced.", span=("", "how far attention reaches"), n_layers=("", "blocks"),
        reach=("tokens", "furthest position with a gradient that is not 0"), law=("tokens", "L·(w − 1) for windows, what is before in the segment, all"),
    )  # fmt: skip


STUDY = SequenceLength
