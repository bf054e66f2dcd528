"""How are a few numbers compared? One lying bar per label with its value and interval, or a dot where they lie close together and far from
zero; many labels stand upright, thinned."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.drawing.canvas import (
    BLUE,
    FONT,
    GREY,
    INK,
    MUTED,
    RED,
    SMALL,
    Picture,
    axes,
    every,
    labels_of,
    nothing_to_draw,
    numbers,
    text_width,
    write,
)
from reports.figures import Bars
from reports.text import format_number, visible_label

_WIDTH, _MOST_LYING, _ROW = 520, 40, 22
_CLOSE = 0.5
"""a spread below this share of the largest value: bars, which begin at zero, would hide it"""


def picture(figure: Bars) -> Picture:
    """The bars: lying up to 40 labels, upright above."""
    values = numbers(figure.values)
    if not np.isfinite(values).any():
        return nothing_to_draw(figure, f"nothing to draw: none of {values.size} bars has a value")
    missing = int((~np.isfinite(values)).sum())
    return _lying(figure, values, missing) if values.size <= _MOST_LYING else _upright(figure, values, missing)


def _lying(figure: Bars, values: np.ndarray, missing: int) -> Picture:
    labels = labels_of(figure.labels, 40)
    left = 14 + max(text_width(label) for label in labels)
    height = 10 + _ROW * values.size + 44

    def paint(canvas: Canvas) -> None:
        plot = axes(canvas, left, 10, _WIDTH - left - 20, _ROW * values.size)
        at = np.arange(values.size)
        filled = np.where(np.isfinite(values), values, 0.0)
        low, high = _ends(figure, values)
        if dots := are_close(figure):
            plot.plot(filled, at, "o", color=BLUE, markersize=6)
        else:
            plot.barh(at, filled, height=0.68, color=_colors(figure, values))
        plot.hlines(at, low, high, color=INK, linewidth=1.3)
        plot.set_yticks(at, labels)
        plot.set_ylim(values.size - 0.5, -0.5)
        plot.grid(axis="x", linewidth=0.7)
        _value_axis(plot, figure, "x", low, high, filled, from_zero=not dots)
        _write_values(plot, values, low, high, digits=4 if dots else 3)

    return Picture(figure, _WIDTH, height, paint)


def _upright(figure: Bars, values: np.ndarray, missing: int) -> Picture:
    labels = labels_of(figure.labels, 16)
    longest = max(text_width(label) for label in labels)
    width, left, plot_height = 940, 78, 240
    height = 12 + plot_height + longest + 14 + (18 if missing else 0)

    def paint(canvas: Canvas) -> None:
        plot = axes(canvas, left, 12, width - left - 12, plot_height)
        at = np.arange(values.size)
        filled = np.where(np.isfinite(values), values, 0.0)
        plot.bar(at, filled, width=0.8, color=_colors(figure, values))
        low, high = _ends(figure, values)
        plot.vlines(at, low, high, color=INK, linewidth=0.8)
        some = list(every(values.size, width - left - 12, SMALL + 4))
        plot.set_xticks(some, [labels[i] for i in some], rotation=90)
        plot.set_xlim(-0.7, values.size - 0.3)
        plot.grid(axis="y", linewidth=0.7)
        _value_axis(plot, figure, "y", low, high, filled)
        if missing:
            write(canvas, left, height - 9, f"{missing} of {values.size} bars have no value (NaN)")

    return Picture(figure, width, round(height), paint)


def are_close(figure: Bars) -> bool:
    """Are the lying labels drawn as dots on an axis that need not hold zero, since all lie close together and far from it?"""
    values = numbers(figure.values)
    low, high = _ends(figure, values)
    if figure.signed or not 2 <= values.size <= _MOST_LYING or not np.isfinite(values).all() or low.min() <= 0:
        return False
    return bool(high.max() - low.min() < _CLOSE * high.max())


def _colors(figure: Bars, values: np.ndarray) -> list[str]:
    return [GREY if not np.isfinite(v) else RED if figure.signed and v > 0 else BLUE for v in values]


def _ends(figure: Bars, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float[labels] twice: the interval, or the value itself where there is none; never NaN."""
    filled = np.where(np.isfinite(values), values, 0.0)
    ends = []
    for given in (figure.low, figure.high):
        end = filled if given is None else numbers(given)
        ends.append(np.where(np.isfinite(end) & np.isfinite(values), end, filled))
    return ends[0], ends[1]


def _value_axis(
    plot: Axes, figure: Bars, side: str, low: np.ndarray, high: np.ndarray, filled: np.ndarray, *, from_zero: bool = True
) -> None:
    axis = getattr(plot, f"{side}axis")
    axis.set_major_locator(MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: format_number(float(f"{value:.6g}"))))
    least, most = min(low.min(), filled.min()), max(high.max(), filled.max())
    if from_zero:
        least, most = min(0.0, least), max(0.0, most)
    room = (most - least) or abs(most) or 1.0
    below = 0.2 * room if least < 0 else 0 if from_zero else 0.08 * room  # for the numbers at the ends
    above = 0.14 * room if most > 0 or least == 0 else 0
    getattr(plot, f"set_{side}lim")(least - below, most + above)
    getattr(plot, f"set_{side}label")(visible_label(figure.unit) if figure.unit not in ("", "1") else "value", size=FONT)
    if from_zero:
        (plot.axvline if side == "x" else plot.axhline)(0, color=MUTED, linewidth=0.9)
    plot.tick_params(axis="y" if side == "x" else "x", length=0)


def _write_values(plot: Axes, values: np.ndarray, low: np.ndarray, high: np.ndarray, *, digits: int) -> None:
    """Each value behind its bar or dot; dots, which lie close together, need a digit more to be told apart."""
    for at, (value, least, most) in enumerate(zip(values, low, high, strict=True)):
        rightwards = not value < 0
        end = max(value, most) if rightwards else min(value, least)
        text = format_number(float(f"{value:.{digits}g}")) if np.isfinite(value) else "NaN: no value" if np.isnan(value) else f"{format_number(float(value))}: beyond the axis"
        offset = (5 if rightwards else -5, 0)
        plot.annotate(text, (end if np.isfinite(end) else 0.0, at), xytext=offset, textcoords="offset points", size=SMALL - 0.5,
                      color=INK, va="center", ha="left" if rightwards else "right")
