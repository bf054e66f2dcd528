"""Why does each head have a reduced dimension? What does that save, and what can a narrow head not do?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses._flops import forward_flops
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._passes import DEPENDS, learning, timed, times_table
from analyses.studies._training import BASE, bigram, character_model, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig
from probes import record
from probes.low_rank import low_rank_divergence
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

WIDTH, LENGTH = 256, 256
"""d_model, and tokens, at which costs are compared"""
HEADS = (1, 4, 16)
N_KEYS = 64
"""keys of the patterns that a narrow head is to make"""
HOW = ("fused", "written out")
KINDS = ("soft", "permutation", "window")
ARMS = {
    "reduced": BASE,
    "full": dataclasses.replace(BASE, d_head=BASE.d_model),
    "reduced, as many parameters": dataclasses.replace(BASE, d_mlp=641),  # what full heads have more goes into the feed-forward network
}
RATES = (1e-3, 3e-3)


@dataclass(frozen=True, kw_only=True)
class ReducedDimension(Study):
    number: ClassVar[int] = 6
    name: ClassVar[str] = "reduced-dimension"
    question: ClassVar[str] = "Why does each head have a reduced dimension?"
    popular: ClassVar[str] = (
        "Without it the cost would be very large; with it the cost stays that of one head while the heads' information is combined."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="without it the cost is very large", quantity="operations of sixteen full heads over one", relation=">", threshold=2.0),
        Prediction(says="with it operations stay those of one head", quantity="operations of sixteen reduced heads over one", relation="==", threshold=1.0, margin=0.01),
        Prediction(says="with it memory stays that of one head, the pattern written out", quantity="memory of sixteen reduced heads over one", relation="==", threshold=1.0, margin=0.1),
        Prediction(says="with it memory stays that of one head, with the fused kernel", quantity="memory of sixteen reduced heads over one with the fused kernel", relation="==", threshold=1.0, margin=0.1),
        Prediction(says="nothing is lost by it", quantity="loss of reduced heads", relation="<", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the reduced model beats the bigram", quantity="reduced minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        f"One block of width {WIDTH} over {LENGTH} tokens: heads of width {WIDTH}/H (reduced) or {WIDTH} (full). Operations: matrix products of a forward "
        "pass, by formula. Memory: bytes that autograd keeps for the backward pass, with the pattern written out as in the equation, and with the fused "
        "kernel. Text: character decoders with four heads, 16 wide or 64 wide, and 16 wide with a feed-forward network so wide that the parameters are as "
        f"many as with 64; each learns at the peak learning rates {RATES[0]:g} and {RATES[1]:g} and is judged at that of the lower mean loss. Loss of reduced "
        f"heads: that of the reduced minus that of the full. Beside them the least divergence from a pattern of {N_KEYS} keys that is found for a head of width "
        "d, queries and keys being free: soft (normal scores of spread 2), permutation (each row one key), window (each row its three neighbours)."
    )
    scale: ClassVar[str] = "costs: one block, 256 wide, 256 tokens; text: 0.11 and 0.21 M parameters, windows of 32 characters"
    limits: ClassVar[str] = (
        f"{DEPENDS} Two learning rates, of which the better is chosen by the loss that is then compared, and short trainings, in which who learns sooner is ahead. Divergences are the least that was found, upper "
        "bounds of what free queries and keys reach; what those of an input reach is not measured."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.2", "Bhojanapalli et al. 2020, Low-Rank Bottleneck in Multi-head Attention Models",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "n_held_out": 8, "widths": (2, 8), "repeats": 2},
        "default": {"n_seeds": 3, "steps": 350, "n_held_out": 128, "widths": (2, 4, 8, 16, 32, 64), "repeats": 20},
        "full": {"n_seeds": 5, "steps": 500, "n_held_out": 400, "widths": (1, 2, 4, 8, 16, 32, 64), "repeats": 40},
    }

    n_seeds: int = 3
    """seeds of weights, data and patterns; all arms share them"""
    steps: int = 350
    """updates of each model of text"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""
    widths: tuple[int, ...] = (2, 4, 8, 16, 32, 64)
    """of the heads that are to make a pattern; 2 and 8 among them"""
    repeats: int = 20
    """how often a pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        text = pd.DataFrame(each(_text, [(arm, rate, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS for rate in RATES]))
        patterns = [(kind, seed) for kind in KINDS for seed in seeds if kind != "window" or seed == self.seed]  # there is one window
        reached = pd.DataFrame(each(_reached, [(kind, width, seed) for kind, seed in patterns for width in self.widths]))
        by_rate = text.pivot(index="seed", columns=["arm", "rate"], values="loss")
        loss = {arm: by_rate[arm][by_rate[arm].mean().idxmin()] for arm in ARMS}
        costs = pd.DataFrame([_cost(heads, full) for full in (False, True) for heads in HEADS])
        of = costs.set_index(["n_heads", "full"])
        found = reached.set_index(["kind", "d_head"]).divergence
        effects = [
            Effect.exact("operations of sixteen full heads over one", of.operations[16, True] / of.operations[1, True]),
            Effect.exact("operations of sixteen full heads over one, attention alone", of.of_attention[16, True] / of.of_attention[1, True]),
            Effect.exact("operations of sixteen reduced heads over one", of.operations[16, False] / of.operations[1, False]),
            Effect.exact("memory of sixteen reduced heads over one", of.written_out[16, False] / of.written_out[1, False]),
            Effect.exact("memory of sixteen reduced heads over one with the fused kernel", of.fused[16, False] / of.fused[1, False]),
            Effect.over_seeds("loss of reduced heads", loss["reduced"] - loss["full"], "nats"),
            Effect.over_seeds("loss of reduced heads, as many parameters", loss["reduced, as many parameters"] - loss["full"], "nats"),
            Effect.over_seeds("reduced minus bigram", loss["reduced"] - bigram(n=self.n_held_out), "nats"),
            Effect.over_seeds("divergence from a permutation at width 2", found["permutation", 2], "nats"),
            Effect.over_seeds("divergence from a soft pattern at width 8", found["soft", 8], "nats"),
        ]
        passes = {_named(heads, how): _pass(heads, how == "written out") for heads in HEADS for how in HOW}
        times = timed(passes, self.repeats, self.seed)
        tables = {
            "costs": _costs_table(costs), "text": _text_table(text), "patterns": _reached_table(reached),
            "times": times_table(times, "Forward and backward pass of a block with reduced heads."),
        }  # fmt: skip
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        full, reduced, memory, fused, _ = (effects[one.quantity].estimate for one in self.predictions)
        attention, permutation, soft = (
            effects[name].estimate
            for name in (
                "operations of sixteen full heads over one, attention alone", "divergence from a permutation at width 2",
                "divergence from a soft pattern at width 8",
            )
        )  # fmt: skip
        less, as_many = (_said(effects[name]) for name in ("loss of reduced heads", "loss of reduced heads, as many parameters"))
        return (
            f"Sixteen full heads take {full:.1f} times the operations of one in a block with its feed-forward network, {attention:.0f} times in attention "
            f"alone; sixteen reduced ones take {reduced:.2f} times those of one, and keep {memory:.2f} times its memory where the patterns are written out, one "
            f"for each head, {fused:.2f} times with the fused kernel. On text, each at the better of two learning rates, reduced heads end {less} full ones, "
            f"which have more parameters, and {as_many} them with as many. Over {N_KEYS} keys heads of width 2 came within {permutation:.3f} nats of "
            f"permutations, and heads of width 8 no nearer than {soft:.2f} nats to soft patterns."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        reached, costs, times = (tables[name].frame for name in ("patterns", "costs", "times"))
        found = reached.groupby(["kind", "d_head"]).divergence.agg(["mean", "min", "max"])
        series = {
            kind: Series(
                y=found.loc[kind]["mean"].to_numpy(), low=found.loc[kind]["min"].to_numpy(), high=found.loc[kind]["max"].to_numpy()
            )
            for kind in KINDS
        }
        memory = costs[~costs.full].set_index("n_heads").written_out / 1e6
        seconds = times.groupby("arm").seconds.median()[[_named(heads, how) for heads in HEADS for how in HOW]] * 1e3
        return (
            Lines(
                name="patterns", title="How near heads of each width come to a pattern that is asked for",
                caption=f"Least divergence found from a pattern of {N_KEYS} keys, mean of {self.n_seeds} patterns (of the window, which is one), bands from the smallest to the largest.",
                alt="; ".join(f"{kind}: " + ", ".join(f"{found['mean'][kind, d]:.3f} at {d}" for d in self.widths) for kind in KINDS),
                x=np.array(self.widths, dtype=float), series=series, x_label="width of the head", y_label="nats per row", log_x=True, markers=True,
            ),
            Bars(
                name="memory", title=f"Sixteen heads keep {memory[16] / memory[1]:.1f} times the memory of one of the same width together",
                caption=f"Kept for the backward pass of a block, {WIDTH} wide, {LENGTH} tokens, patterns written out; exact.",
                alt=", ".join(f"{_counted(heads)} {memory[heads]:.1f} MB" for heads in HEADS), labels=[_counted(heads) for heads in HEADS],
                values=memory[list(HEADS)].to_numpy(), unit="MB",
            ),
            Bars(
                name="times", title="How long a block takes by its number of heads, on this machine",
                caption=f"CPU time of a forward and backward pass, median of {self.repeats} rounds; all heads together {WIDTH} wide.",
                alt=", ".join(f"{arm} {value:.1f} ms" for arm, value in seconds.items()), labels=list(seconds.index), values=seconds.to_numpy(), unit="ms",
            ),
        )  # fmt: skip


def _counted(n_heads: int) -> str:
    return f"{n_heads} head{'s' if n_heads > 1 else ''}"


def _named(n_heads: int, how: str) -> str:
    return f"{_counted(n_heads)}, {how}"


def _said(difference: Effect) -> str:
    """A difference of losses before "than": its sign, and whether the interval has it."""
    found = f"{abs(difference.estimate):.3f} nats {'better' if difference.estimate < 0 else 'worse'}"
    return found + ("" if difference.off_zero else " (the interval holds 0)") + " than"


def _config(n_heads: int, full: bool = False) -> TransformerConfig:
    """One block of the costs."""
    return dataclasses.replace(
        BASE, n_layers=1, d_model=WIDTH, n_heads=n_heads, n_kv_heads=n_heads, d_head=WIDTH if full else WIDTH // n_heads, d_mlp=4 * WIDTH, n_ctx=LENGTH,
        head="none",
    )  # fmt: skip


def _tokens() -> Tensor:
    return torch.arange(LENGTH)[None] % BASE.d_vocab


def _cost(n_heads: int, full: bool) -> dict[str, Any]:
    """Operations of a forward pass, and what it keeps for the backward pass."""
    model = Transformer(_config(n_heads, full), generator=torch.Generator().manual_seed(0))
    written, fused = (saved_bytes(lambda: _forward(model, out), without=model.parameters()) for out in (True, False))
    flops = forward_flops(model.config, LENGTH)
    return {
        "n_heads": n_heads, "full": full, "operations": flops.total, "of_attention": flops.projections + flops.attention, "written_out": written, "fused": fused,
        "n_parameters": sum(p.numel() for p in model.parameters()),
    }  # fmt: skip


def _forward(model: Transformer, written_out: bool) -> Tensor:
    """Final states; somebody who looks at the pattern has it written out."""
    if not written_out:
        return model(_tokens())
    with record(model, "blocks.0.attn.pattern"):
        return model(_tokens())


def _pass(n_heads: int, written_out: bool) -> Callable[[], None]:
    """Forward and backward."""
    model = Transformer(_config(n_heads), generator=torch.Generator().manual_seed(0))
    if not written_out:
        return learning(model, _tokens())

    def run() -> None:
        model.zero_grad(set_to_none=True)
        _forward(model, True).square().mean().backward()

    return run


def _text(arm: str, rate: float, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A decoder of characters."""
    recipe = recipe_of(steps, learning_rate=rate)
    learnt = learn_characters(character_model(ARMS[arm], seed), seed=seed, recipe=recipe, n_held_out=n_held_out)
    return {"arm": arm, "rate": rate, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _reached(kind: str, d_head: int, seed: int) -> dict[str, Any]:
    """How near a head of a width comes to a pattern of a kind."""
    return {"kind": kind, "d_head": d_head, "seed": seed, "divergence": low_rank_divergence(_pattern(kind, seed), d_head, seed=seed)}


def _pattern(kind: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "soft":
        return (2 * torch.randn(N_KEYS, N_KEYS, generator=generator, dtype=torch.float64)).softmax(-1)
    if kind == "permutation":
        return torch.eye(N_KEYS, dtype=torch.float64)[torch.randperm(N_KEYS, generator=generator)]
    near = (torch.arange(N_KEYS)[:, None] - torch.arange(N_KEYS)).abs() <= 1
    return near.double() / near.sum(-1, keepdim=True)


def _costs_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"One block, {WIDTH} wide, {LENGTH} tokens.", n_heads=("heads", "of the block"), full=("", f"is every head {WIDTH} wide?"),
        operations=("FLOP", "of a forward pass, matrix products, by formula"), of_attention=("FLOP", "those of attention, with its projections"),
        written_out=("bytes", "kept for the backward pass, patterns written out"),
        fused=("bytes", "kept for the backward pass, fused attention"), n_parameters=("parameters", "of the block and the embedding"),
    )  # fmt: skip


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every decoder of characters.", arm=("", "four heads, 16 wide (reduced) or 64 wide (full)"), rate=("", "peak learning rate"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _reached_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"How near a head comes to a pattern of {N_KEYS} keys.", kind=("", "of the pattern"), d_head=("coordinates", "width of the head"),
        seed=("", "of the pattern and of one of the three starts"), divergence=("nats per row", "the least that was found"),
    )  # fmt: skip


STUDY = ReducedDimension
