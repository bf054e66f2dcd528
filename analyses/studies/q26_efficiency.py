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
from analyses._scaling_fit import bootstrap_fits, fit_quadratic, percentile_interval
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._passes import DEPENDS, learning, measured, ratios, rivals, spread, timed, times_table
from analyses.studies._verdict import Prediction
from probes.product_chain import product_chain, recurrence_in_the_open
from reports import Figure, Lines, Series, Table

LENGTHS = (32, 64, 128, 256, 512)
BATCH = 8
SHORT, LONG = 128, 512
D_MODEL = 128
TOGETHER = "LSTM's chain over the Transformer's, its layers together"
EXCEEDS = "length from which the quadratic part of the time exceeds the linear"
BEYOND = 1e6
"""tokens that stand for a length never reached, where the fit has no quadratic part"""


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
        Prediction(says="most of the operations of its products at 512 tokens are attention's", quantity="attention's share at 512", relation=">", threshold=0.5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="ratios of times repeat", quantity="spread of the ratios of times", relation="<", threshold=0.25),
        Prediction(says="both have as many weights", quantity="LSTM's weights over the Transformer's", relation="==", threshold=1.0, margin=0.03),
    )  # fmt: skip
    method: ClassVar[str] = (
        f"A Transformer of two blocks of width {D_MODEL} and a two-layer LSTM with as many weights learn (forward and backward pass) from {BATCH} sequences "
        "of random characters: CPU seconds of one thread, ratios within rounds. Chain: the longest run of matrix products of which each needs the one "
        "before, counted on autograd's graph for 128 tokens, the LSTM's recurrence in the open and as torch computes it, layer by layer; were a layer to "
        "begin with what the one below has of the first tokens, n tokens would take n + 1 products per layer above the first + 1 for the unembedding, by formula. "
        "Attention's share: of the operations of the matrix products of the blocks, by formula, all pairs; scores and weighted sums are attention's, "
        "its projections are not. The Transformer's time is fitted as c + a·n + b·n², without negative parts, interval by bootstrap over rounds."
    )
    scale: ClassVar[str] = f"0.4 M parameters, {BATCH} sequences of 32 to 512 tokens, one CPU thread"
    limits: ClassVar[str] = (
        f"{DEPENDS} Work and chain are measured apart: how they add up on a graphics card, with thousands of threads, is not shown. Neither "
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
        times = _times(self.repeats, self.seed)
        chains, sizes = _chains(), [sum(p.numel() for p in model.parameters()) for model in rivals(D_MODEL)]
        at = chains.set_index(["model", "length"])["chain"]
        config = rivals(D_MODEL)[0].config
        flops = forward_flops(config, LONG)
        effects = [
            Effect.exact("LSTM's chain over the Transformer's", at["LSTM", SHORT] / at["Transformer", SHORT]),
            Effect.exact(TOGETHER, _together(SHORT) / at["Transformer", SHORT]),
            *(measured(f"LSTM's time over the Transformer's at {n}", ratios(times, f"LSTM, {n}", f"Transformer, {n}")) for n in LENGTHS),
            Effect.exact("attention's share at 512", flops.attention / (flops.linear + flops.attention)),
            Effect.exact("LSTM's weights over the Transformer's", sizes[1] / sizes[0]),
            Effect.exact("length at which attention is half of the operations", flops_crossover(config, visible=False), "tokens"),
            self._exceeds(times),
            measured("spread of the ratios of times", [spread(times)]),
        ]
        return effects, {"chains": _chains_table(chains), "times": times_table(times, f"Forward and backward pass of {BATCH} sequences.")}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        chain, together, short, long, share, half = (
            effects[name].estimate
            for name in (
                "LSTM's chain over the Transformer's", TOGETHER, "LSTM's time over the Transformer's at 128", "LSTM's time over the Transformer's at 512",
                "attention's share at 512", "length at which attention is half of the operations",
            )
        )  # fmt: skip
        time = effects[EXCEEDS]
        return (
            f"At 128 tokens the LSTM's chain of dependent products, as torch computes it, layer by layer, is {chain:.1f} times the Transformer's ({together:.1f} times if its "
            f"layers advanced together). With as many weights, on one thread, it takes {short:.2f} of the Transformer's time at 128 tokens and {long:.2f} at 512. "
            f"Attention makes {share:.0%} of the operations of the Transformer's products at 512 tokens, and half at {half:.0f}, {half / D_MODEL:.3g}·d_model; "
            + (
                f"of its time the part that grows as n² exceeds the one that grows as n from {time.estimate:.0f} tokens [{time.low:.0f}, {time.high:.0f}]."
                if time.estimate < BEYOND
                else "its time shows no part that grows as n²."
            )
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
        lengths = chains[chains.model == "LSTM"].length
        runs = {m: chains[chains.model == m].chain.to_numpy(float) for m in ("Transformer", "LSTM")}
        runs["LSTM, its layers together"] = np.array([_together(n) for n in lengths], dtype=float)
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
                caption="Longest run of matrix products of which each needs the one before, counted on the graph of a forward pass, the LSTM's layer by layer; by formula where its layers advance together.",
                alt="; ".join(f"{m}: {', '.join(f'{y:.0f}' for y in run)} at {', '.join(map(str, lengths))}" for m, run in runs.items()),
                x=lengths.to_numpy(float), series={m: Series(y=run) for m, run in runs.items()},
                x_label="tokens", y_label="products in a row", log_x=True, log_y=True, markers=True,
            ),
        )  # fmt: skip

    def _exceeds(self, times: pd.DataFrame) -> Effect:
        """The length from which the quadratic part of the Transformer's time is the larger one."""
        n, by_arm = np.array(LENGTHS, dtype=float), times.pivot(index="arm", columns="repeat", values="seconds")
        costs = by_arm.loc[[f"Transformer, {length}" for length in LENGTHS]].to_numpy()
        estimate = fit_quadratic(n, np.median(costs, axis=1)).crossover
        low, high = percentile_interval([fit.crossover for fit in bootstrap_fits(n, costs, seed=self.seed)])
        low, estimate, high = (min(one, BEYOND) for one in (min(low, estimate), estimate, max(high, estimate)))
        kind = "measured on this machine: fit to medians, bootstrap"
        return Effect(quantity=EXCEEDS, estimate=estimate, low=low, high=high, n=self.repeats, unit="tokens", kind=kind)


def _times(repeats: int, seed: int) -> pd.DataFrame:
    """Training passes of both models over sequences of every length."""
    generator, passes = torch.Generator().manual_seed(seed), {}
    for name, model in zip(("Transformer", "LSTM"), rivals(D_MODEL), strict=True):
        for n in LENGTHS:
            tokens = torch.randint(model.config.d_vocab, (BATCH, n), generator=generator)
            passes[f"{name}, {n}"] = learning(model, tokens)
    return timed(passes, repeats, seed)


def _together(n: int, n_layers: int = 2) -> int:
    """The chain of an LSTM whose layers advance together, unembedding included: n steps, one product into each layer above, one out of the last."""
    return n + (n_layers - 1) + 1


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
