"""Length scaling: does more context lower the loss, and what does it cost?

Loss by position on running text; operations by formula; time and peak memory measured at growing lengths, with a fit that separates what grows
with n from what grows with n². The verdict rests on loss and operations, which come out the same every time; time and memory are shown beside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses import _length_scaling_evidence as said
from analyses import _length_scaling_figures as figures
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus, CorpusError
from analyses._flops import flops_crossover, forward_flops
from analyses._live_memory import peak_bytes
from analyses._loss_by_context import (
    bins_of,
    differences_by_context,
    loss_by_context,
    losses_of,
)
from analyses._scaling_fit import bootstrap_fits, fit_quadratic, percentile_interval
from model import Transformer
from reports import Figure, Verdict

NOISY, GROSS = 0.1, 0.25
"""interquartile range over median above which torch.utils.benchmark warns, and warns in stronger words"""


@dataclass(frozen=True, kw_only=True)
class LengthScaling(Analysis):
    """Does more context lower the loss, and what does it cost?"""

    name: ClassVar[str] = "length-scaling"
    title: ClassVar[str] = "Length scaling"
    question: ClassVar[str] = "Does more context lower the loss, and what does it cost?"
    method: ClassVar[str] = (
        "Loss: cross-entropy of every next token on chunks of the text, averaged in bins of context length: the first token alone, 2 to 7, then doubling; 95 % bootstrap over chunks, differences between bins paired by chunk. Time and memory: "
        "one forward pass of one sequence without gradients that unembeds the last position only. Time is CPU time of one thread, which other work on the machine hardly touches (on CUDA, wall time around a synchronisation), after one untimed pass of each length, "
        "in random order; the median, and a flag where the interquartile range exceeds 10 % (noisy) or 25 % (gross) of it (torch.utils.benchmark). Fit: c + a·n + b·n² with no negative coefficient, least squares of the relative "
        "error; 95 % bootstrap over repeats. Memory: most bytes of live tensors at once beyond weights and input, counted operation by operation; on CUDA the allocator's peak. Operations: a multiply-add counts 2, matrix "
        "products only, attention over all n² pairs as torch's FlopCounterMode counts it, and over the n(n+1)/2 causal pairs."
    )
    limits: ClassVar[str] = (
        "Loss by position compares different tokens of the same chunks: that late tokens are easier would look like use of context. Time holds for this machine; with more than one thread, CPU time also counts threads that wait for each other, which a busy machine multiplies. Memory on a CPU does not see what a "
        "kernel uses inside, nor the allocator's waste. A fit of three coefficients to a few lengths says nothing about lengths outside them. A flat loss means that context does no harm, not that it is used."
    )
    order: ClassVar[int] = 60

    n_chunks: int = 12
    """how many chunks of the text the loss is measured on"""
    length: int = 512
    """tokens per chunk; shortened to the context, and to the text where it does not fill two chunks"""
    shortest: int = 32
    """first length that is timed; each next one is twice as long"""
    longest: int = 1024
    """no timed length is longer; shortened to the context"""
    repeats: int = 5
    """timed passes of each length"""
    threads: int = 1
    """threads of a timed pass on a CPU"""

    def __post_init__(self) -> None:
        for field, least in (("n_chunks", 1), ("length", 2), ("shortest", 1), ("longest", self.shortest), ("repeats", 4), ("threads", 1)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"{field} must be at least {least}{' (shortest)' if field == 'longest' else ''}, got {getattr(self, field)}"
                )

    def measure(self, model: Transformer, corpus: Corpus) -> Tables:
        lengths = self._lengths(model)
        with torch.no_grad():
            losses = self._losses(model, corpus)
            memory, times = self._costs(model, corpus, lengths)
        bins = bins_of(losses.shape[1])
        return {
            "loss": table(
                loss_by_context(losses, bins, self.seed),
                "Loss by length of context.",
                first=("tokens", "shortest context of the bin"),
                last=("tokens", "longest context of the bin"),
                loss=("nats per token", "mean cross-entropy of the next token"),
                low=("nats per token", "lower end of the 95 % interval"),
                high=("nats per token", "upper end"),
                n=("chunks", "chunks of text"),
            ),
            "differences": table(
                differences_by_context(losses, bins, self.seed),
                "Loss of the longest contexts against others, paired by chunk.",
                against=("", "bin of context that is subtracted"),
                difference=("nats per token", "longest bin − that bin"),
                low=("nats per token", "lower end of the 95 % interval"),
                high=("nats per token", "upper end"),
                n=("chunks", "chunks of text"),
            ),
            "operations": table(
                _operations(model, lengths),
                "Floating-point operations of one forward pass (a multiply-add is 2).",
                length=("tokens", "sequence length"),
                linear=("FLOP", "projections and MLP"),
                attention=("FLOP", "attention over all n² pairs"),
                attention_causal=("FLOP", "attention over the n(n+1)/2 visible pairs"),
                unembedding=("FLOP", "last position only"),
                total=("FLOP", "linear + attention + unembedding"),
                share=("1", "attention / total"),
                crossover=("tokens", "length where attention equals the linear part"),
                crossover_causal=("tokens", "the same over visible pairs"),
            ),
            "time": table(
                _summary(times),
                "Time of one forward pass.",
                measurement=True,
                length=("tokens", "sequence length"),
                seconds=("s", "median"),
                q25=("s", "first quartile"),
                q75=("s", "third quartile"),
                spread=("1", "interquartile range / median"),
                quality=("", "ok, noisy above 0.1, gross above 0.25"),
                slope=("1", "Δ ln time / Δ ln length from the length before"),
                n=("passes", "repeats"),
            ),
            "passes": table(
                times,
                "Every timed pass, in the order in which they ran.",
                measurement=True,
                length=("tokens", "sequence length"),
                seconds=("s", "time of one pass"),
                load=("processes", "load average of the machine at that time, missing where it has none"),
            ),
            "memory": table(
                memory,
                "Peak of live tensors in one forward pass.",
                measurement=True,
                length=("tokens", "sequence length"),
                bytes=("bytes", "beyond weights and input"),
            ),
            "fits": table(
                _fits(times, memory, self.seed),
                "cost(n) = c + a·n + b·n² with no negative coefficient.",
                measurement=True,
                cost=("", "time in s or memory in bytes"),
                coefficient=("", "c, a, b, or the crossover a / b in tokens"),
                value=("s or bytes, per token, per token²; tokens", "best fit"),
                low=("as the value", "lower end of the 95 % interval, missing without repeats"),
                high=("as the value", "upper end; infinite where b may be 0"),
            ),
        }

    def _lengths(self, model: Transformer) -> list[int]:
        longest = min(self.longest, model.config.n_ctx)
        return [n for n in (self.shortest * 2**i for i in range(64)) if n <= longest]

    def _chunks(self, model: Transformer, corpus: Corpus) -> Int[Tensor, "batch pos"]:
        length = min(self.length, model.config.n_ctx, max(2, len(corpus.tokens) // 2))
        try:
            return corpus.chunks(self.n_chunks, length) if length > 1 else corpus.tokens[:0].reshape(0, 1)
        except CorpusError:
            return corpus.tokens[:0].reshape(0, 1)

    def _losses(self, model: Transformer, corpus: Corpus) -> np.ndarray:
        """Float[chunks contexts]: the loss after 1, 2, … tokens of context."""
        chunks = self._chunks(model, corpus)
        return np.stack([losses_of(model, chunk[None]) for chunk in chunks]) if len(chunks) else np.empty((0, 0))

    def _costs(self, model: Transformer, corpus: Corpus, lengths: list[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Peak memory of every length, then the times. Watching the memory is the untimed first pass."""
        device, weights = model.device, [*model.parameters(), *model.buffers()]
        sequences = {n: _sequence(model, corpus, n) for n in lengths}
        memory = [
            {"length": n, "bytes": float(peak_bytes(lambda n=n: _forward(model, sequences[n]), device, [*weights, sequences[n]]))}
            for n in lengths
        ]
        order = np.random.default_rng(self.seed).permutation(np.repeat(lengths, self.repeats)) if lengths else []
        with _threads(self.threads):
            for n in lengths:
                _forward(model, sequences[n])
            times = [
                {"length": int(n), "seconds": _seconds(lambda n=n: _forward(model, sequences[int(n)]), device), "load": _load()}
                for n in order
            ]
        return pd.DataFrame(memory, columns=["length", "bytes"]).astype({"bytes": float}), pd.DataFrame(
            times, columns=["length", "seconds", "load"]
        ).astype({"seconds": float, "load": float})

    def judge(self, tables: Tables) -> Verdict:
        loss, differences = tables["loss"].frame, tables["differences"].frame
        evidence = said.evidence(tables)
        if len(loss) < 2:
            return Verdict(
                status="inconclusive",
                claim="Context and text are too short to compare the loss of different lengths of context.",
                evidence=evidence,
            )
        short = said.short(differences)
        first, last, total, rise = loss.iloc[short], loss.iloc[-1], differences.iloc[short], differences.iloc[-1]
        if differences["low"].isna().any():
            return Verdict(
                status="inconclusive",
                claim="The loss was measured on one chunk of text, so nothing says how sure it is.",
                evidence=evidence,
            )
        course = f"from {first['loss']:.2f} nats with {said.words(first)} to {last['loss']:.2f} with {said.words(last)}"
        cost = said.cost(tables["operations"].frame)
        if total["low"] <= 0 <= total["high"]:
            return Verdict(
                status="inconclusive",
                claim=f"Whether context lowers the loss cannot be told: {course}, difference between {total['low']:.2f} and {total['high']:.2f}; {cost}.",
                evidence=evidence,
            )
        if total["low"] > 0:
            return Verdict(status="fail", claim=f"The loss rises with context, {course}; {cost}.", evidence=evidence)
        if rise["low"] > 0:
            return Verdict(
                status="warn",
                claim=f"The loss falls with context, {course}, but rises again by {rise['difference']:.2f} nats over the longest; {cost}.",
                evidence=evidence,
            )
        return Verdict(
            status="pass",
            claim=f"The loss falls with context, {course}; {cost}.",
            evidence=evidence,
            why="A loss that rises towards the end of the context says that the model cannot use what it is given.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables)

    def notes(self, model: Transformer, corpus: Corpus) -> Mapping[str, str]:
        chunks, lengths = self._chunks(model, corpus), self._lengths(model)
        device = model.device
        return {
            "text": f"{len(chunks)} chunks of {chunks.shape[1]} tokens (asked for: {self.n_chunks} of {self.length})"
            if len(chunks)
            else "no chunk: the text is too short",
            "lengths": f"{', '.join(map(str, lengths))} tokens (asked for: up to {self.longest})"
            if lengths
            else f"none: the context of {model.config.n_ctx} tokens is shorter than {self.shortest}",
            "time": f"{'wall time on ' + str(device) if device.type == 'cuda' else f'CPU time of {self.threads} thread' + 's' * (self.threads > 1)}, {self.repeats} passes of each length",
        }


def _sequence(model: Transformer, corpus: Corpus, n: int) -> Int[Tensor, "1 pos"]:
    """The first n tokens of the text, which begins anew where it is too short. What the tokens are does not change the cost."""
    tokens = corpus.tokens if len(corpus.tokens) else torch.zeros(1, dtype=torch.long)
    return tokens.repeat(-(-n // len(tokens)))[:n][None].to(model.device)


def _forward(model: Transformer, tokens: Int[Tensor, "1 pos"]) -> Tensor:
    """What is timed: every block, and the logits of the last position."""
    state = model.start(tokens)
    for i in range(model.n_layers):
        state = model.step(state, i)
    return model.finish(state, torch.tensor([[tokens.shape[1] - 1]], device=tokens.device))


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


def _operations(model: Transformer, lengths: list[int]) -> pd.DataFrame:
    rows = []
    for n in lengths:
        flops = forward_flops(model.config, n)
        rows.append(
            {
                "length": n,
                "linear": float(flops.linear),
                "attention": float(flops.attention),
                "attention_causal": float(flops.attention_causal),
                "unembedding": float(flops.unembedding),
                "total": float(flops.total),
                "share": flops.attention / flops.total,
                "crossover": flops_crossover(model.config, causal=False),
                "crossover_causal": flops_crossover(model.config, causal=True),
            }
        )
    return pd.DataFrame(
        rows,
        columns=["length", "linear", "attention", "attention_causal", "unembedding", "total", "share", "crossover", "crossover_causal"],
    )


def _summary(times: pd.DataFrame) -> pd.DataFrame:
    rows: list[dict] = []
    for n, part in times.groupby("length"):
        q25, median, q75 = np.quantile(part["seconds"], [0.25, 0.5, 0.75])
        spread = float((q75 - q25) / median) if median > 0 else float("nan")
        slope = (
            float(np.log(median / rows[-1]["seconds"]) / np.log(n / rows[-1]["length"]))
            if rows and median > 0 and rows[-1]["seconds"] > 0
            else float("nan")
        )
        rows.append(
            {
                "length": int(n),
                "seconds": float(median),
                "q25": float(q25),
                "q75": float(q75),
                "spread": spread,
                "quality": "gross" if spread > GROSS else "noisy" if spread > NOISY else "ok",
                "slope": slope,
                "n": len(part),
            }
        )
    columns = ["length", "seconds", "q25", "q75", "spread", "quality", "slope", "n"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(["seconds", "q25", "q75", "spread", "slope"], float))


def _fits(times: pd.DataFrame, memory: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Coefficients with intervals for the time, and without for the memory, which has no repeats. None for fewer than four lengths."""
    rows = []
    lengths = memory["length"].to_numpy(float)
    if len(lengths) >= 4 and (times["seconds"] > 0).all():
        costs = np.stack([times.loc[times["length"] == n, "seconds"].to_numpy(float) for n in memory["length"]])
        best, drawn = fit_quadratic(lengths, np.median(costs, axis=1)), bootstrap_fits(lengths, costs, seed=seed)
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


ANALYSIS = LengthScaling
