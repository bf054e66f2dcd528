"""What does one forward pass of n tokens cost in time and memory, and what by formula?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses._anatomy import Inputs, Model, sides
from analyses._corpus import Corpus
from analyses._flops import flops_crossover, forward_flops
from analyses._live_memory import peak_bytes
from analyses._scaling_fit import bootstrap_fits, fit_quadratic, percentile_interval
from probes.inputs import written

NOISY, GROSS = 0.1, 0.25
"""interquartile range over median above which torch.utils.benchmark warns, and warns in stronger words"""
OPERATIONS = (
    "length",
    "linear",
    "attention",
    "attention_visible",
    "unembedding",
    "total",
    "share",
    "crossover",
    "crossover_visible",
)
SUMMARY = ("length", "seconds", "q25", "q75", "spread", "quality", "slope", "n")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """How often, on how many threads, and in which random order passes are timed."""

    repeats: int
    threads: int
    seed: int


def context_of(model: Model) -> int:
    """The longest sequence that every stack can read."""
    return min(side.config.n_ctx for side in sides(model))


def lengths_of(model: Model, shortest: int, longest: int) -> list[int]:
    """Doubling lengths, none longer than the context."""
    most = min(longest, context_of(model))
    return [n for n in (shortest * 2**i for i in range(64)) if n <= most]


def sequence(model: Model, corpus: Corpus, n: int) -> Inputs:
    """The first n tokens of the text, which begins anew where it is too short; as source and as target where there are two stacks.

    What the tokens are does not change the cost.
    """
    tokens = corpus.tokens if len(corpus.tokens) else torch.zeros(1, dtype=torch.long)
    one: Int[Tensor, "1 pos"] = tokens.repeat(-(-n // len(tokens)))[:n][None].to(model.device)
    return tuple(one % side.config.d_vocab for side in sides(model))


def forward_pass(model: Model, inputs: Inputs) -> Tensor:
    """What is timed: every block, and what the model answers at the last position."""
    state = model.start(*inputs)
    for i in range(model.n_layers):
        state = model.step(state, i)
    tokens = written(inputs)[0]
    return model.finish(state, torch.tensor([[tokens.shape[1] - 1]], device=tokens.device))


def costs(model: Model, corpus: Corpus, lengths: list[int], bench: Bench) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Peak memory of every length, then the times. Watching the memory is the untimed first pass."""
    device, weights = model.device, [*model.parameters(), *model.buffers()]
    sequences = {n: sequence(model, corpus, n) for n in lengths}
    memory = [
        {"length": n, "bytes": float(peak_bytes(lambda n=n: forward_pass(model, sequences[n]), device, [*weights, *sequences[n]]))}
        for n in lengths
    ]
    order = np.random.default_rng(bench.seed).permutation(np.repeat(lengths, bench.repeats)) if lengths else []
    with _threads(bench.threads):
        for n in lengths:
            forward_pass(model, sequences[n])
        times = [
            {"length": int(n), "seconds": _seconds(lambda n=n: forward_pass(model, sequences[int(n)]), device), "load": _load()}
            for n in order
        ]
    watched = pd.DataFrame(memory, columns=["length", "bytes"]).astype({"bytes": float})
    return watched, pd.DataFrame(times, columns=["length", "seconds", "load"]).astype({"seconds": float, "load": float})


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Compute with n threads inside, as before outside: the number is torch's own state."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds(run: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    clock = time.perf_counter if device.type != "cpu" else time.process_time
    start = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - start


def _load() -> float:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")


def operations(model: Model, lengths: list[int]) -> pd.DataFrame:
    """Floating-point operations by formula, at every length."""
    crossings = {
        "crossover": flops_crossover(model.config, visible=False),
        "crossover_visible": flops_crossover(model.config, visible=True),
    }
    rows = []
    for n in lengths:
        flops = forward_flops(model.config, n)
        counts = {name: float(getattr(flops, name)) for name in OPERATIONS[1:6]}
        rows.append({"length": n} | counts | {"share": flops.attention / flops.total} | crossings)
    return pd.DataFrame(rows, columns=list(OPERATIONS))


def summary(times: pd.DataFrame) -> pd.DataFrame:
    """Median, spread and slope of the times of every length."""
    rows: list[dict] = []
    for n, part in times.groupby("length"):
        q25, median, q75 = (float(q) for q in np.quantile(part["seconds"], [0.25, 0.5, 0.75]))
        spread = (q75 - q25) / median if median > 0 else float("nan")
        known = rows and median > 0 and rows[-1]["seconds"] > 0
        slope = float(np.log(median / rows[-1]["seconds"]) / np.log(n / rows[-1]["length"])) if known else float("nan")
        quality = "gross" if spread > GROSS else "noisy" if spread > NOISY else "ok"
        rows.append(dict(zip(SUMMARY, (int(n), median, q25, q75, spread, quality, slope, len(part)), strict=True)))
    return pd.DataFrame(rows, columns=list(SUMMARY)).astype(dict.fromkeys(["seconds", "q25", "q75", "spread", "slope"], float))


def fits(times: pd.DataFrame, memory: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Coefficients with intervals for the time, and without for the memory, which has no repeats. None for fewer than four lengths."""
    rows = []
    lengths = memory["length"].to_numpy(float)
    if len(lengths) >= 4 and (times["seconds"] > 0).all():
        repeats = np.stack([times.loc[times["length"] == n, "seconds"].to_numpy(float) for n in memory["length"]])
        best, drawn = fit_quadratic(lengths, np.median(repeats, axis=1)), bootstrap_fits(lengths, repeats, seed=seed)
        for name in ("c", "a", "b", "crossover"):
            low, high = percentile_interval([getattr(fit, name) for fit in drawn])
            rows.append({"cost": "time", "coefficient": name, "value": getattr(best, name), "low": low, "high": high})
    if len(lengths) >= 4:
        best = fit_quadratic(lengths, memory["bytes"].to_numpy(float))
        rows += [
            {"cost": "memory", "coefficient": name, "value": getattr(best, name), "low": float("nan"), "high": float("nan")}
            for name in ("c", "a", "b", "crossover")
        ]
    return pd.DataFrame(rows, columns=["cost", "coefficient", "value", "low", "high"]).astype({"value": float, "low": float, "high": float})
