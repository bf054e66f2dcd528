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
from model import Span, Transformer, TransformerConfig
from probes import record
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

WIDTHS = (256, 768, 4096)
LENGTHS = tuple(2**i for i in range(7, 18))
LENGTH, BATCH = 64, 8
WINDOW, SEGMENT = 8, 16
"""keys of a query: 8 in a window, 8.5 on average in a segment"""
LOCAL = ("windows", "segments")
SPANS = dict(zip(("full", *LOCAL), (Span(), Span(kind="window", size=WINDOW), Span(kind="block", size=SEGMENT)), strict=True))


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
        Prediction(says="compute is nearer to quadratic than to linear at 65,536 tokens", quantity="exponent of compute at 65,536", relation=">", threshold=1.5),
        Prediction(says="so is the memory of training at 1,024 tokens, with fused attention", quantity="exponent of memory at 1,024", relation=">", threshold=1.5),
        Prediction(says="windows do as well as full attention", quantity="loss of windows", relation="<", threshold=0.02, unit="nats"),
        Prediction(says="segments do as well as full attention", quantity="loss of segments", relation="<", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="full attention beats the bigram", quantity="full minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Exponent: log₂ of the cost of 2n over that of n. Compute: matrix products of a forward pass of GPT-2 small by formula, all pairs counted; with windows "
        "or segments, and for the share that they save, the pairs that a query may see. Memory: bytes that one block of width 64 with four heads keeps for the "
        "backward pass, fused attention, counted exactly; beside it the same with the "
        f"pattern written out. Character models of two layers with rotations, read {LENGTH} characters at a time, with full attention, windows of {WINDOW} or segments "
        f"of {SEGMENT}, about as many keys each, from the same weights (Glorot's matrices) and on the same windows of text; their losses are read at half of the "
        "updates, too. Windows and segments are masks of a dense kernel here: what is compared is what is learnt, their time is in question 31. Reach: "
        "positions whose embedding has a gradient at the last position's logits that is not exactly 0; L layers of windows of w reach L·(w − 1) back."
    )
    scale: ClassVar[str] = f"compute at 124 M parameters; memory of one block of width 64; text with 0.1 M parameters, windows of {LENGTH} characters"
    limits: ClassVar[str] = (
        "Two readings of one schedule, whose learning rate falls to 0, do not say where longer training ends. How much this text needs of what lies further back "
        "than windows reach is not measured; a task that does is lost beyond the reach, whatever its training. Compute is "
        "counted, not timed; the cache of generation is not in it."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, table 1", "Child et al. 2019, Generating Long Sequences with Sparse Transformers",
        "Beltagy et al. 2020, Longformer: The Long-Document Transformer", "Dao et al. 2022, FlashAttention",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 4},
        "default": {"n_seeds": 5, "steps": 500, "n_held_out": 64},
        "full": {"n_seeds": 5, "steps": 1000, "n_held_out": 300},
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
        loss, halfway = ({span: part[when].reset_index(drop=True) for span, part in arms.groupby("span")} for when in ("loss", "halfway"))
        short, long = 1024, 2**16
        memory, reach = _memory(self.seed), _reach(self.seed)
        fused, written = (memory[name].to_numpy(float) for name in ("fused", "written"))
        effects = [
            Effect.exact("exponent of compute at 1,024", _growth(short)),
            Effect.exact("exponent of compute at 65,536", _growth(long)),
            *(Effect.exact(f"exponent of compute at 65,536 with {arm}", _growth(long, SPANS[arm])) for arm in LOCAL),
            *(Effect.exact(f"compute saved by {arm} at {n:,}", _saved(n, SPANS[arm])) for arm in LOCAL for n in (short, long)),
            Effect.exact("length from which attention is the larger part", flops_crossover(GPT2, visible=False), "tokens"),
            Effect.exact("exponent of memory at 1,024", np.log2(fused[-1] / fused[-2])),
            Effect.exact("exponent of memory at 1,024, pattern written out", np.log2(written[-1] / written[-2])),
            *(Effect.over_seeds(f"loss of {arm}", loss[arm] - loss["full"], "nats") for arm in LOCAL),
            *(Effect.over_seeds(f"loss of {arm} at half of the updates", halfway[arm] - halfway["full"], "nats") for arm in LOCAL),
            *(
                Effect.over_seeds(f"loss of {arm}, at the end minus at half", loss[arm] - loss["full"] - halfway[arm] + halfway["full"], "nats")
                for arm in LOCAL
            ),
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
        compute, far, memory, written, reach, crossover, *saved = (
            effects[name].estimate
            for name in (
                "exponent of compute at 1,024", "exponent of compute at 65,536", "exponent of memory at 1,024", "exponent of memory at 1,024, pattern written out",
                "reach with windows", "length from which attention is the larger part", "exponent of compute at 65,536 with windows",
                "compute saved by windows at 1,024", "compute saved by windows at 65,536",
            )
        )  # fmt: skip
        return (
            f"In the shape of GPT-2 small compute grows with the power {compute:.2f} of the length at 1,024 tokens and {far:.2f} at 65,536; attention is the larger part "
            f"beyond {crossover:,.0f}. Memory grows with {memory:.2f} at 1,024 (fused; in a block of width 64 with four heads {written:.2f} with the pattern written "
            f"out). With windows of {WINDOW} compute grows with {saved[0]:.2f} at 65,536; they save {saved[1]:.0%} of it at 1,024 and {saved[2]:.0%} at 65,536. Against full attention "
            f"{', '.join(_distance(effects, arm) for arm in LOCAL)}. Two layers of windows of {WINDOW} reach exactly {reach:.0f} tokens back, and nothing beyond."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        compute, arms = tables["compute"].frame, tables["arms"].frame
        when = {"halfway": "half of the updates", "loss": "all of them"}
        loss = {column: arms.groupby("span")[column].agg(["mean", "min", "max"]).loc[list(SPANS)] for column in when}
        apart = {arm: loss["loss"]["mean"][arm] - loss["loss"]["mean"]["full"] for arm in LOCAL}
        bars = pd.concat({f"{span}, {when[column]}": loss[column].loc[span] for span in SPANS for column in when}, axis=1).T
        return (
            Lines(
                name="exponent", title=f"At width 768 the exponent of the compute is {_exponent(compute, 768, 1024):.2f} at 1,024 tokens, {_exponent(compute, 768, 2**16):.2f} at 65,536",
                caption="log₂ of the operations of 2n tokens over those of n; 12 layers, all pairs counted, with windows those that are seen. 1 is linear, 2 quadratic.",
                alt=", ".join(f"width {d}: {_exponent(compute, d, 1024):.2f} at 1,024, {_exponent(compute, d, LENGTHS[-1]):.2f} at {LENGTHS[-1]:,}" for d in WIDTHS)
                + f", width 768 with windows: {_exponent(compute, 768, LENGTHS[-1], 'windows'):.2f} at {LENGTHS[-1]:,}",
                x=np.array(LENGTHS, dtype=float), log_x=True, markers=True, x_label="tokens", y_label="exponent",
                series={f"d_model = {d}": Series(y=_exponents(compute, d)) for d in WIDTHS} | {f"d_model = 768, windows of {WINDOW}": Series(y=_exponents(compute, 768, "windows"))},
            ),
            Bars(
                name="loss", title=f"Windows end {apart['windows']:+z.3f} nats from full attention, segments {apart['segments']:+z.3f}",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest. Windows of {WINDOW}, segments of {SEGMENT}.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in bars["mean"].items()), labels=list(bars.index), values=bars["mean"].to_numpy(),
                low=bars["min"].to_numpy(), high=bars["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _distance(effects: Mapping[str, Effect], arm: str) -> str:
    """How far an arm ends from full attention, and whether that was otherwise at half of the updates."""
    end, half, moved = (effects[f"loss of {arm}{when}"] for when in ("", " at half of the updates", ", at the end minus at half"))
    course = f"{half.estimate:+z.3f} at half of the updates, {'which differs' if moved.off_zero else 'not clearly different'}"
    return f"{arm} end at {end.estimate:+z.3f} nats [{end.low:+z.3f}, {end.high:+z.3f}] ({course})"


def _spanned(span: Span, d_model: int = GPT2.d_model) -> TransformerConfig:
    """GPT-2 small, at some width, with attention that reaches so far."""
    return dataclasses.replace(GPT2, d_model=d_model, n_heads=d_model // 64, n_kv_heads=d_model // 64, d_mlp=4 * d_model, span=span)


def _operations(n: int, span: Span, d_model: int = GPT2.d_model) -> int:
    """Matrix products of a forward pass: all pairs with full attention, else those within the span."""
    flops = forward_flops(_spanned(span, d_model), n, spans=True)
    return flops.total if span == Span() else flops.linear + flops.attention_visible + flops.unembedding


def _growth(n: int, span: Span = Span(), d_model: int = GPT2.d_model) -> float:
    """Exponent of the compute: log₂ of that of n tokens over that of half as many."""
    return float(np.log2(_operations(n, span, d_model) / _operations(n // 2, span, d_model)))


def _saved(n: int, span: Span) -> float:
    """Share of the compute over the pairs that causality leaves which is not there within the span."""
    within, whole = (forward_flops(_spanned(one), n, spans=True) for one in (span, Span()))
    return 1 - (within.linear + within.attention_visible + within.unembedding) / (whole.linear + whole.attention_visible + whole.unembedding)


def _exponents(compute: pd.DataFrame, d_model: int, span: str = "full") -> np.ndarray:
    return compute[(compute.d_model == d_model) & (compute.span == span)].exponent.to_numpy()


def _exponent(compute: pd.DataFrame, d_model: int, length: int, span: str = "full") -> float:
    return float(_exponents(compute, d_model, span)[LENGTHS.index(length)])


def _arm(span: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A character model whose attention reaches so far."""
    model = started_as_in_the_paper(dataclasses.replace(PAPER, positions="rotary", span=SPANS[span]), seed)
    recipe = dataclasses.replace(recipe_of(steps), evaluate_every=max(steps // 2, 1))
    learnt = learn_characters(model, seed=seed, recipe=recipe, length=LENGTH, batch=BATCH, n_held_out=n_held_out)
    halfway = float(learnt.history.validation_loss.dropna().iloc[0])
    return {"span": span, "seed": seed, "loss": learnt.loss, "halfway": halfway, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


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
            config = dataclasses.replace(BASE, positions="rotary", n_layers=n_layers, span=span)
            model = Transformer(config, generator=torch.Generator().manual_seed(seed)).eval()
            tokens = torch.randint(config.d_vocab, (1, LENGTH), generator=torch.Generator().manual_seed(seed))
            with record(model, "embed", gradients=True) as activations:
                last = model(tokens)[0, -1]
            gradient = torch.autograd.grad(last.log_softmax(-1)[0], activations["embed"])[0][0]
            first = int((gradient.abs().sum(-1) > 0).nonzero()[0])
            law = {"full": LENGTH - 1, "windows": n_layers * (WINDOW - 1), "segments": (LENGTH - 1) % SEGMENT}[name]
            rows.append({"span": name, "n_layers": n_layers, "reach": LENGTH - 1 - first, "law": law})
    return pd.DataFrame(rows)


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every character model.", span=("", "how far attention reaches"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), halfway=("nats per character", "the same at half of the steps"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token, attention's own products left out"),
    )  # fmt: skip


def _compute_table() -> Table:
    rows = []
    for d, span in (*((d, "full") for d in WIDTHS), *((GPT2.d_model, arm) for arm in LOCAL)):
        for n in LENGTHS:
            total, rest = _operations(n, SPANS[span], d), forward_flops(_spanned(SPANS[span], d), n)
            share = 1 - (rest.linear + rest.unembedding) / total
            rows.append({"d_model": d, "span": span, "length": n, "flops": float(total), "share": share, "exponent": _growth(n, SPANS[span], d)})
    return table(
        pd.DataFrame(rows), "Operations of a forward pass of 12 layers in the shape of GPT-2, by formula.", d_model=("", "width"),
        span=("", "how far attention reaches"), length=("tokens", "read"),
        flops=("FLOP", "matrix products, one position unembedded; all pairs with full attention, else those that are seen"),
        share=("1", "of q kᵀ and pattern · v"), exponent=("1", "log₂ of flops over that of half the length"),
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
