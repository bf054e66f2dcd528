"""Where is the efficiency? Is a Transformer faster than a recurrent network because it works in parallel, and is attention what costs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._contract import table
from analyses._flops import flops_crossover, forward_flops
from analyses._scaling_fit import fit_quadratic
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._passes import DEPENDS, learning, measured, ratios, rivals, spread, timed, times_table
from analyses.studies._verdict import Prediction
from probes.product_chain import product_chain, recurrence_in_the_open
from reports import Figure, Lines, Series, Table

LENGTHS = (32, 64, 128, 256, 512)
BATCH = 8
SHORT, LONG = 128, 512
D_MODEL = 128


@dataclass(frozen=True, kw_only=True)
class Efficiency(Study):
    number: ClassVar[int] = 26
    name: ClassVar[str] = "efficiency"
    timed: ClassVar[bool] = True
    """its verdict rests on times"""
    question: ClassVar[str] = "Where is the efficiency of a Transformer?"
    popular: ClassVar[str] = (
        "It processes positions in parallel, which makes it faster than recurrent networks; what it costs is attention."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="fewer of its products wait for one another than an LSTM's", quantity="LSTM's chain over the Transformer's", relation=">", threshold=1.2),
        Prediction(says="so it learns from a token of 128 in less time", quantity="LSTM's time over the Transformer's at 128", relation=">", threshold=1.1),
        Prediction(says="and from a token of 512", quantity="LSTM's time over the Transformer's at 512", relation=">", threshold=1.1),
        Prediction(says="most of its products at 512 tokens are attention's", quantity="attention's share at 512", relation=">", threshold=0.5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the times repeat", quantity="spread of the times", relation="<", threshold=0.25),
        Prediction(says="both have as many weights", quantity="LSTM's weights over the Transformer's", relation="==", threshold=1.0, margin=0.03),
    )  # fmt: skip
    method: ClassVar[str] = (
        f"A Transformer of two blocks of width {D_MODEL} and a two-layer LSTM with as many weights learn (forward and backward pass) from {BATCH} sequences "
        "of random characters: CPU seconds of one thread, ratios within rounds. Chain: the longest run of matrix products of which each needs the one "
        "before, counted on autograd's graph for 128 tokens, the LSTM's recurrence in the open. Attention's share: of the matrix products of the "
        "blocks, by formula, all pairs. The Transformer's time per sequence is fitted as c + a·n + b·n², without negative parts."
    )
    scale: ClassVar[str] = f"0.4 M parameters, {BATCH} sequences of 32 to 512 tokens, one CPU thread"
    limits: ClassVar[str] = (
        f"{DEPENDS} With thousands of threads the chain decides and the LSTM waits; the study shows the work and the chain apart, not a graphics card. Neither "
        "model's quality is compared."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, table 1", "Hochreiter & Schmidhuber 1997, Long Short-Term Memory", "Blelloch 1996, Programming Parallel Algorithms",
        "Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {"smoke": {"repeats": 2}, "default": {"repeats": 12}, "full": {"repeats": 60}}

    repeats: int = 12
    """times that every pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        times = each(_times, [(self.repeats, self.seed)])[0]
        chains, sizes = _chains(), [sum(p.numel() for p in model.parameters()) for model in rivals(D_MODEL)]
        at = chains.set_index(["model", "length"])["chain"]
        config = rivals(D_MODEL)[0].config
        flops = forward_flops(config, LONG)
        seconds = times[times.arm.str.startswith("Transformer")].groupby("arm").seconds.median()
        fit = fit_quadratic(np.array(LENGTHS, dtype=float), np.array([seconds[f"Transformer, {n}"] / BATCH for n in LENGTHS]))
        effects = [
            Effect.exact("LSTM's chain over the Transformer's", at["LSTM", SHORT] / at["Transformer", SHORT]),
            *(measured(f"LSTM's time over the Transformer's at {n}", ratios(times, f"LSTM, {n}", f"Transformer, {n}")) for n in LENGTHS),
            Effect.exact("attention's share at 512", flops.attention / (flops.linear + flops.attention)),
            Effect.exact("LSTM's weights over the Transformer's", sizes[1] / sizes[0]),
            Effect.exact("length at which attention is half of the products", flops_crossover(config, visible=False), "tokens"),
            measured("length at which the quadratic part is half of the time", [min(fit.crossover, 1e6)], "tokens"),
            measured("spread of the times", [spread(times)]),
        ]
        return effects, {"chains": _chains_table(chains), "times": times_table(times, f"Forward and backward pass of {BATCH} sequences.")}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        chain, short, long, share, half = (
            effects[name].estimate
            for name in (
                "LSTM's chain over the Transformer's", "LSTM's time over the Transformer's at 128", "LSTM's time over the Transformer's at 512",
                "attention's share at 512", "length at which attention is half of the products",
            )
        )  # fmt: skip
        return (
            f"At 128 tokens the LSTM's chain of dependent products is {chain:.0f} times the Transformer's, yet with as many weights on one thread it takes "
            f"{short:.2f} of its time, and {long:.2f} at 512 tokens: parallelism pays where there is something to work in parallel. Attention makes {share:.0%} of "
            f"the products at 512 tokens, and half at {half:.0f} = 6·d_model."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        times, chains = tables["times"].frame, tables["chains"].frame
        named = times.assign(model=times.arm.str.split(", ").str[0], length=times.arm.str.split(", ").str[1].astype(int))
        micro = (
            named.assign(micro=named.seconds / named.length / BATCH * 1e6)
            .groupby(["model", "length"])
            .micro.quantile([0.25, 0.5, 0.75])
            .unstack()
        )
        first = "LSTM" if micro[0.5]["LSTM", LONG] < micro[0.5]["Transformer", LONG] else "Transformer"
        return (
            Lines(
                name="time", title=f"On one thread the {first} takes less time per token at {LONG} tokens",
                caption=f"CPU time of forward and backward pass per token, median of {self.repeats} rounds; the band is the middle half.",
                alt=", ".join(f"{model} {micro[0.5][model, LONG]:.0f} µs per token at {LONG}" for model in ("Transformer", "LSTM")), x=np.array(LENGTHS, dtype=float),
                series={m: Series(y=micro[0.5][m].to_numpy(), low=micro[0.25][m].to_numpy(), high=micro[0.75][m].to_numpy()) for m in ("Transformer", "LSTM")},
                x_label="tokens", y_label="µs per token", log_x=True, markers=True,
            ),
            Lines(
                name="chain", title="How many products wait for one another, by length",
                caption="Longest run of matrix products of which each needs the one before, counted on the graph of a forward pass.",
                alt="; ".join(f"{m}: {', '.join(map(str, chains[chains.model == m].chain))} at {', '.join(map(str, chains[chains.model == m].length))}" for m in ("Transformer", "LSTM")),
                x=chains[chains.model == "LSTM"].length.to_numpy(float), series={m: Series(y=chains[chains.model == m].chain.to_numpy(float)) for m in ("Transformer", "LSTM")},
                x_label="tokens", y_label="products in a row", log_x=True, log_y=True, markers=True,
            ),
        )  # fmt: skip


def _times(repeats: int, seed: int) -> pd.DataFrame:
    """Training passes of both models over sequences of every length."""
    generator, passes = torch.Generator().manual_seed(seed), {}
    for name, model in zip(("Transformer", "LSTM"), rivals(D_MODEL), strict=True):
        for n in LENGTHS:
            tokens = torch.randint(model.config.d_vocab, (BATCH, n), generator=generator)
            passes[f"{name}, {n}"] = learning(model, tokens)
    return timed(passes, repeats, seed)


def _chains(lengths: tuple[int, ...] = (32, 64, 128)) -> pd.DataFrame:
    """The longest chain of products of both models."""
    rows = []
    for name, model in zip(("Transformer", "LSTM"), rivals(D_MODEL), strict=True):
        for n in lengths:
            with recurrence_in_the_open():
                rows.append({"model": name, "length": n, "chain": product_chain(model(torch.zeros(1, n, dtype=torch.long)))})
    return pd.DataFrame(rows)


def _chains_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Chains of dependent matrix products, as torch computes them: layer by layer in the LSTM.", model=("", "both have as many weights"),
        length=("tokens", "read"), chain=("products", "in the longest run of which each needs the one before"),
    )  # fmt: skip


STUDY = Efficiency
