"""How is cost against length shown? Loss by context, operations by formula, and measured time and memory with their fits."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from analyses._length_scaling_evidence import words
from analyses._scaling_fit import Fit
from reports import Figure, Lines, Series, format_number


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Every figure whose data are there."""
    drawn: list[Figure] = []
    if len(tables["loss"].frame):
        drawn.append(_loss(tables["loss"].frame, tables["model"].frame["loss_of"].iloc[0]))
    if len(tables["operations"].frame):
        drawn.append(_operations(tables["operations"].frame, tables["model"].frame["kind"].iloc[0]))
    if len(tables["time"].frame):
        drawn += [_time(tables["time"].frame, tables["fits"].frame), _memory(tables["memory"].frame, tables["fits"].frame)]
    return tuple(drawn)


def _loss(loss: pd.DataFrame, loss_of: str) -> Lines:
    first, last, best = loss.iloc[min(1, max(len(loss) - 2, 0))], loss.iloc[-1], loss.loc[loss["loss"].idxmin()]
    text = loss_of == "text"
    start = "the first token alone, which may be an attention sink" if text else "the start token alone"
    over = "chunks of text" if text else f"targets{', which the model wrote itself' if loss_of == 'own targets' else ''}"
    most = f"Lowest after {words(best, '')}."
    return Lines(
        part="scaling",
        name="loss-by-context",
        title=f"Loss by {'context' if text else 'tokens of the target'}: {first['loss']:.2f} nats after {words(first, '')}, {last['loss']:.2f} after {words(last, '')}",
        caption=f"Mean cross-entropy of the next token in bins of context length, at the shortest context of each bin; the first point is {start}. Band: 95 % bootstrap interval over n = {int(loss['n'].iloc[0])} {over}. {most}",
        alt="; ".join(f"{int(row.first)}–{int(row.last)} tokens: {row.loss:.2f}" for row in loss.itertuples()) + " nats per token.",
        x=loss["first"].to_numpy(float),
        series={"": Series(y=loss["loss"].to_numpy(float), low=loss["low"].to_numpy(float), high=loss["high"].to_numpy(float))},
        x_label="shortest context of the bin (tokens)" if text else "fewest tokens of the target in the bin",
        y_label="loss (nats per token)",
        log_x=True,
        markers=True,
    )


def _operations(operations: pd.DataFrame, kind: str) -> Lines:
    last = operations.iloc[-1]
    series = {"total": "total", "projections and MLP": "linear", "attention, all pairs": "attention"}
    crossing = f"Attention over all pairs equals projections and MLP at {last['crossover']:.0f} tokens"
    if kind != "encoder":
        series["attention, visible pairs"] = "attention_visible"
        crossing += f", over visible pairs at {last['crossover_visible']:.0f}"
    each = " of source and of target each" if kind == "encoder-decoder" else ""
    ending = ", unembedding at the last position only" if last["unembedding"] else ""
    return Lines(
        part="scaling",
        name="operations",
        title=f"Operations: attention takes {last['share']:.0%} of {format_number(last['total'] / 1e9)} GFLOP at {int(last['length'])} tokens{each}",
        caption=f"Floating-point operations of one forward pass by formula, a multiply-add counted as 2{ending}. {crossing}. n = {len(operations)} lengths; exact, no error.",
        alt="; ".join(
            f"{int(row.length)} tokens: {format_number(row.total / 1e9)} GFLOP, {row.share:.1%} attention"
            for row in operations.itertuples()
        ),
        x=operations["length"].to_numpy(float),
        series={name: Series(y=operations[column].to_numpy(float) / 1e9) for name, column in series.items()},
        x_label="sequence length (tokens)",
        y_label="GFLOP per forward pass",
        log_x=True,
        log_y=True,
        markers=True,
    )


def _time(summary: pd.DataFrame, fits: pd.DataFrame) -> Lines:
    lengths, flagged = summary["length"].to_numpy(float), summary[summary["quality"] != "ok"]
    series = {
        "measured median": Series(
            y=summary["seconds"].to_numpy(float), low=summary["q25"].to_numpy(float), high=summary["q75"].to_numpy(float)
        ),
        **_fitted(fits, "time", lengths),
    }
    crossover = fits[(fits["cost"] == "time") & (fits["coefficient"] == "crossover")]
    said = _crossover(crossover)
    noisy = (
        "No length was flagged as noisy."
        if flagged.empty
        else "Noisy (interquartile range above 10 % of the median): "
        + ", ".join(f"{int(row.length)} ({row.quality})" for row in flagged.itertuples())
        + "."
    )
    return Lines(
        part="scaling",
        name="time",
        title=f"Time of a forward pass: {format_number(float(summary['seconds'].iloc[-1]))} s at {int(lengths[-1])} tokens; {said}",
        caption=f"Median of n = {int(summary['n'].min())} passes of each length in random order; band: interquartile range. The fit is c + a·n + b·n² without negative coefficients, on relative error. {noisy}",
        alt="; ".join(f"{int(row.length)} tokens: {format_number(row.seconds)} s" for row in summary.itertuples()),
        x=lengths,
        series=series,
        x_label="sequence length (tokens)",
        y_label="seconds per forward pass",
        log_x=True,
        log_y=True,
        markers=True,
    )


def _memory(memory: pd.DataFrame, fits: pd.DataFrame) -> Lines:
    lengths = memory["length"].to_numpy(float)
    said = _crossover(fits[(fits["cost"] == "memory") & (fits["coefficient"] == "crossover")])
    return Lines(
        part="scaling",
        name="memory",
        title=f"Peak of live tensors: {format_number(float(memory['bytes'].iloc[-1] / 2**20))} MiB at {int(lengths[-1])} tokens; {said}",
        caption=f"Most bytes of live tensors at once in a forward pass, beyond weights and input. The fit is c + a·n + b·n² without negative coefficients. n = 1 pass for each of {len(memory)} lengths: counted, not sampled.",
        alt="; ".join(f"{int(row.length)} tokens: {format_number(row.bytes / 2**20)} MiB" for row in memory.itertuples()),
        x=lengths,
        series={"measured": Series(y=memory["bytes"].to_numpy(float) / 2**20), **_fitted(fits, "memory", lengths, 2**20)},
        x_label="sequence length (tokens)",
        y_label="MiB",
        log_x=True,
        log_y=True,
        markers=True,
    )


def _fitted(fits: pd.DataFrame, cost: str, lengths: np.ndarray, unit: float = 1.0) -> dict[str, Series]:
    """The fit and its parts; a part that is 0 everywhere, which no logarithm shows, or all of the fit, is left out."""
    found = fits[fits["cost"] == cost].set_index("coefficient")["value"]
    if found.empty:
        return {}
    parts = Fit(found["c"], found["a"], found["b"]).parts(lengths) / unit
    named = {"fit": parts.sum(0), "fit, linear part": parts[1], "fit, quadratic part": parts[2]}
    return {
        name: Series(y=values)
        for name, values in named.items()
        if (values > 0).all() and (name == "fit" or not np.allclose(values, named["fit"]))
    }


def _crossover(row: pd.DataFrame) -> str:
    if row.empty:
        return "too few lengths for a fit"
    value, low, high = (float(row[name].iloc[0]) for name in ("value", "low", "high"))
    if np.isinf(value):
        return "no quadratic part"
    between = f" [{format_number(low)}, {format_number(high)}]" if np.isfinite(low) else ""
    return f"the quadratic part equals the linear one at {format_number(float(f'{value:.3g}'))} tokens{between}"
