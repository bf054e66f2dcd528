"""How long does a pass take? CPU seconds of one thread, the arms in turn, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from analyses._contract import table
from analyses.studies._effects import Effect
from analyses.studies._jobs import one_thread
from analyses.studies._training import BASE
from model import LSTMConfig, LSTMLanguageModel, Transformer, TransformerConfig
from probes.allocation import freed_memory_is_kept
from reports import Table

GPT2 = TransformerConfig(n_layers=12, d_model=768, n_heads=12, d_head=64, d_mlp=3072, d_vocab=50257, n_ctx=1024)
"""GPT-2 small, at whose shape operations are counted"""
LONGEST = 1024
"""tokens of the longest sequence that is timed"""
READING = 0.005
"""seconds that a reading of the clock lasts, where `MOST` passes fill it"""
MOST = 100
DEPENDS = "Times are those of one thread of one machine and library, where freed memory stays for the next pass; another's may order the arms otherwise."


def timed(passes: Mapping[str, Callable[[], object]], repeats: int, seed: int) -> pd.DataFrame:
    """CPU seconds of every pass on one thread, `repeats` times, in a new random order each time; the first rounds are not timed.

    On several threads it would be their sum, with the waiting of those that have nothing to do.

    A pass that takes less than `READING` is read as the mean of as many as fill it, of `MOST` at most. Freed memory stays with the process:
    whether the system takes it back between two passes, and clears it anew, is chance, and moves a short one several times over.

    Columns: `arm`, `repeat`, `seconds`.
    """
    generator, rows = np.random.default_rng(seed), []
    with one_thread(), freed_memory_is_kept():
        for run in passes.values():
            run()
        number = {arm: max(1, min(math.ceil(READING / _seconds(run, 1)), MOST)) for arm, run in passes.items()}
        for repeat in range(repeats):
            for arm in generator.permutation(list(passes)):
                rows.append({"arm": str(arm), "repeat": repeat, "seconds": _seconds(passes[arm], number[arm])})
    return pd.DataFrame(rows)


def _seconds(run: Callable[[], object], number: int) -> float:
    """CPU seconds of one of `number` passes, never nought."""
    began = time.process_time()
    for _ in range(number):
        run()
    return max(time.process_time() - began, 1e-9) / number


def learning(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """Forward and backward through every position."""

    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(tokens).square().mean().backward()

    return run


def ratios(times: pd.DataFrame, arm: str, over: str) -> np.ndarray:
    """The time of one arm over that of another, round by round."""
    seconds = times.pivot(index="repeat", columns="arm", values="seconds")
    return (seconds[arm] / seconds[over]).to_numpy()


def measured(quantity: str, values: Sequence[float] | np.ndarray, unit: str = "1") -> Effect:
    """A mean over repeats of a measurement, which another run or machine will not repeat to the digit; of one value, that value."""
    if len(values) == 1:
        return dataclasses.replace(Effect.exact(quantity, float(values[0]), unit), kind="measured on this machine")
    return dataclasses.replace(Effect.over_seeds(quantity, values, unit), kind="measured on this machine: mean over repeats, t interval")


def spread(times: pd.DataFrame) -> float:
    """Interquartile range over median of the ratio of two arms within a round, the median pair's; above 0.25 torch.utils.benchmark warns in strong words.

    A machine that grows slower for all arms alike moves no ratio. With a single arm it is that of the times.
    """
    seconds = times.pivot(index="repeat", columns="arm", values="seconds")
    pairs = [seconds[a] / seconds[b] for a, b in combinations(seconds, 2)] or [seconds.squeeze("columns")]
    first, middle, third = np.quantile(np.array(pairs), [0.25, 0.5, 0.75], axis=1)
    return float(np.median((third - first) / middle))


def times_table(times: pd.DataFrame, caption: str) -> Table:
    """Every time, as a measurement."""
    return table(
        times,
        caption,
        measurement=True,
        arm=("", "what was passed through"),
        repeat=("", "round, counted from 0"),
        seconds=("s", "CPU time of one thread"),
    )


def rivals(d_model: int = 128, n_layers: int = 2) -> tuple[Transformer, LSTMLanguageModel]:
    """A Transformer and an LSTM with as many weights as nearly as whole widths allow: blocks of 12·d² against layers of 8·w².

    >>> transformer, lstm = (sum(p.numel() for p in model.parameters()) for model in rivals())
    >>> abs(lstm / transformer - 1) < 0.02
    True
    """
    config = dataclasses.replace(
        BASE,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=4,
        n_kv_heads=4,
        d_head=d_model // 4,
        d_mlp=4 * d_model,
        n_ctx=LONGEST,
        positions="rotary",
    )
    transformer = Transformer(config, generator=torch.Generator().manual_seed(0))
    wanted = sum(p.numel() for p in transformer.parameters())
    sizes = {width: n_layers * (8 * width**2 + 8 * width) + (2 * width + 1) * config.d_vocab for width in range(d_model, 2 * d_model)}
    width = min(sizes, key=lambda width: abs(sizes[width] - wanted))
    recurrent = LSTMConfig(n_layers=n_layers, d_model=width, d_vocab=config.d_vocab)
    return transformer, LSTMLanguageModel(recurrent, generator=torch.Generator().manual_seed(0))
