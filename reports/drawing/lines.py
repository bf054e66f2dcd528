"""How is a course over x shown? A line per series with its band, a dash pattern and a colour of its own, gaps where there is no value."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from reports.drawing.canvas import FONT, PALETTE, SMALL, Picture, axes, labels_of, nothing_to_draw, numbers, text_width, write
from reports.figures import Lines, Series
from reports.text import format_number, visible_label

_WIDTH, _PLOT, _LEFT, _RIGHT = 520, 240, 70, 16
_DASHES = ("-", "--", "-.", ":")
_ALPHAS = {1: 0.22, 2: 0.13}
"""of a band, by how many there are"""


def picture(figure: Lines) -> Picture:
    """The lines, their legend above."""
    x = numbers(figure.x)
    series = {name: _floats(one) for name, one in figure.series.items()}
    drawn = {name: np.isfinite(one.y) & np.isfinite(x) for name, one in series.items()}
    if not any(mask.any() for mask in drawn.values()):
        return nothing_to_draw(figure, "nothing to draw: no series has a value")
    gaps = sum(int((~mask).sum()) for mask in drawn.values())
    legend_rows, legend_columns = _legend_size(list(series))
    top = 12 + 17 * legend_rows
    height = top + _PLOT + 48 + (18 if gaps else 0)

    def paint(canvas: Canvas) -> None:
        plot = axes(canvas, _LEFT, top, _WIDTH - _LEFT - _RIGHT, _PLOT)
        _plot(plot, figure, x, series)
        _scales(plot, figure, x, series)
        if legend_rows:
            handles = [line for line in plot.get_lines() if line.get_gid() is None]
            place = {"loc": "lower left", "bbox_to_anchor": (-0.01, 1.01), "borderaxespad": 0, "ncols": legend_columns}
            plot.legend(handles, [_unhidden(label) for label in labels_of(series, 32)], handlelength=2.2, columnspacing=1.4, **place)
        if gaps:
            write(canvas, _LEFT, height - 9, f"gaps: {gaps} point{'s' if gaps > 1 else ''} without a value")

    return Picture(figure, _WIDTH, height, paint)


def _floats(series: Series) -> Series:
    parts = {"y": series.y, "low": series.low, "high": series.high}
    return Series(**{name: None if part is None else numbers(part) for name, part in parts.items()})


def _legend_size(names: list[str]) -> tuple[int, int]:
    if len(names) == 1 and not names[0].strip():
        return 0, 1
    longest = max(text_width(label) for label in labels_of(names, 32)) + 46
    columns = max(1, min(len(names), int((_WIDTH - _LEFT) // longest)))
    return -(-len(names) // columns), columns


def _unhidden(label: str) -> str:
    """matplotlib drops legend entries that begin with an underscore; a hair space keeps them."""
    return "\u200a" + label if label.startswith("_") else label


def _plot(plot: Axes, figure: Lines, x: np.ndarray, series: Mapping[str, Series]) -> None:
    colors = [PALETTE[i % len(PALETTE)] for i in range(len(series))]
    if len(series) > len(PALETTE):  # many lines are an ordered family, such as layers
        colors = [matplotlib.colormaps["viridis"](share) for share in np.linspace(0.22, 0.86, len(series))]
    bands = sum(one.low is not None or one.high is not None for one in series.values())
    for i, (color, one) in enumerate(zip(colors, series.values(), strict=True)):
        dashes = _DASHES[(i % len(PALETTE)) % len(_DASHES)] if 1 < len(series) <= len(PALETTE) else "-"
        plot.plot(x, one.y, color=color, linewidth=1.8, linestyle=dashes, marker="o" if figure.markers else None, markersize=4)
        alone = _alone(one.y)
        if alone.any() and not figure.markers:
            plot.plot(x[alone], one.y[alone], color=color, linestyle="none", marker="o", markersize=3.5, gid="alone")
        if one.low is not None or one.high is not None:
            low, high = (one.y if end is None else end for end in (one.low, one.high))
            plot.fill_between(x, low, high, color=color, alpha=_ALPHAS.get(bands, 0.07), linewidth=0)
            if bands > 1:  # bands over each other are brown: thin lines say whose is which
                for end in (low, high):
                    plot.plot(x, end, color=color, linewidth=0.7, alpha=0.7, gid="band")
            ends = np.isfinite(low) & np.isfinite(high) & _alone(one.y)
            plot.vlines(x[ends], low[ends], high[ends], color=color, linewidth=1.2)


def _alone(y: np.ndarray) -> np.ndarray:
    """Bool[points]: values without a neighbour, which a line would not show."""
    there = np.concatenate([[False], np.isfinite(y), [False]])
    return there[1:-1] & ~there[:-2] & ~there[2:]


def log_ticks(low: float, high: float) -> list[float]:
    """Where a logarithmic axis has labels: powers of ten, below two decades 2 and 5 too, and never fewer than two where numbers allow it.

    >>> log_ticks(0.5, 3000), log_ticks(0.9, 30), log_ticks(0.61, 0.93)
    ([1.0, 10.0, 100.0, 1000.0], [1.0, 2.0, 5.0, 10.0, 20.0], [0.7, 0.8, 0.9])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    decades = range(first, last + 1, max(1, (last - first) // 7))
    for factors in ((1,), (1, 2, 5), range(1, 10)) if high / low >= 100 else ((1, 2, 5), range(1, 10)):
        ticks = [float(f"{factor}e{decade}") for decade in decades for factor in factors]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 2:
            return ticks
    return [float(f"{tick:.6g}") for tick in MaxNLocator(4).tick_values(low, high) if low <= tick <= high]


def _scales(plot: Axes, figure: Lines, x: np.ndarray, series: Mapping[str, Series]) -> None:
    y = np.concatenate([one.y for one in series.values()])
    wanted = {"x": figure.log_x and (x > 0).any(), "y": figure.log_y and (y[np.isfinite(y)] > 0).any()}
    for side, logarithmic in wanted.items():
        if logarithmic:
            getattr(plot, f"set_{side}scale")("log")
        axis = getattr(plot, f"{side}axis")
        if logarithmic and side == "x" and len(set(x)) <= 8:
            axis.set_major_locator(FixedLocator(sorted(set(x[x > 0]))))
            axis.set_minor_locator(NullLocator())
        if not logarithmic:
            whole = side == "x" and np.array_equal(x[np.isfinite(x)], np.round(x[np.isfinite(x)]))
            axis.set_major_locator(MaxNLocator(7, integer=whole))
        axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(float(f"{value:.6g}"))))
        axis.set_minor_formatter(NullFormatter())
    plot.grid(axis="y", linewidth=0.7)
    plot.margins(x=0.02)
    for side, logarithmic in wanted.items():
        axis = getattr(plot, f"{side}axis")
        if logarithmic and not isinstance(axis.get_major_locator(), FixedLocator):
            axis.set_major_locator(FixedLocator(log_ticks(*axis.get_view_interval())))
    plot.set_xlabel(visible_label(figure.x_label), size=FONT)
    plot.set_ylabel(visible_label(figure.y_label), size=FONT)
    plot.tick_params(labelsize=SMALL)
