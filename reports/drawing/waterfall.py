"""Which parts make up a number? Floating bars, each from the sum before it to the sum behind it, and the number that was measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from reports.drawing.canvas import (
    FONT,
    INK,
    MUTED,
    PALETTE,
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
from reports.figures import Waterfall
from reports.text import format_number, shortened, visible_label

_WIDTH, _LEFT, _RIGHT, _TOP, _HEIGHT = 940, 74, 30, 42, 300
_NAMED, _MOST_KINDS, _MOST_STEPS = 6, len(PALETTE), 400


def picture(figure: Waterfall) -> Picture:
    """The bars: filled where they raise the sum, hollow where they lower it, in the colour of their kind.

    The largest six carry their numbers; beyond 400 steps the first 400 are drawn, and the picture says so.
    """
    values = numbers(figure.values)[:_MOST_STEPS]
    if not np.isfinite(values).any():
        return nothing_to_draw(figure, f"nothing to draw: none of {values.size} parts has a value")
    groups = labels_of(figure.groups[:_MOST_STEPS], 16)
    longest = max(text_width(label) for label in groups)
    turned = longest > 60
    height = _TOP + _HEIGHT + (longest if turned else 14) + 58

    def paint(canvas: Canvas) -> None:
        plot = axes(canvas, _LEFT, _TOP, _WIDTH - _LEFT - _RIGHT, _HEIGHT)
        ends = _bars(plot, figure, values)
        _value_axis(plot, figure, ends)
        _group_axis(plot, figure, groups, turned)
        _legend(canvas, figure)
        write(canvas, _LEFT, height - 12, _closing(figure, values), color=INK)

    return Picture(figure, _WIDTH, round(height), paint)


def running_sum(values: np.ndarray) -> np.ndarray:
    """Float[steps + 1]: the sum before each step and after the last; missing and endless parts count as nothing.

    >>> running_sum(np.array([1.0, np.nan, -0.5])).tolist()
    [0.0, 1.0, 1.0, 0.5]
    """
    return np.concatenate([[0.0], np.cumsum(np.where(np.isfinite(values), values, 0.0))])


def _bars(plot: Axes, figure: Waterfall, values: np.ndarray) -> np.ndarray:
    """Draw the parts, the sum that runs along them, and the total; Float[...] of everything that must be in view."""
    sums, colors = running_sum(values), dict(zip(_kinds(figure), PALETTE, strict=False))
    for i, value in enumerate(np.where(np.isfinite(values), values, 0.0)):
        color = colors.get(figure.kinds[i], MUTED)
        face = color if value >= 0 else "none"
        plot.add_patch(Rectangle((i - 0.4, min(sums[i], sums[i + 1])), 0.8, abs(value), facecolor=face, edgecolor=color, linewidth=1.1))
    plot.step(np.arange(len(sums)) - 0.5, sums, where="post", color=MUTED, linewidth=0.7)
    total = float(numbers(figure.total))
    if np.isfinite(total):
        plot.add_patch(Rectangle((len(values) - 0.4, min(0.0, total)), 0.8, abs(total), facecolor=INK, edgecolor=INK))
        plot.axhline(total, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    plot.axhline(0, color=MUTED, linewidth=0.9)
    finite = np.flatnonzero(np.isfinite(values))
    for i in finite[np.argsort(-np.abs(values[finite]), kind="stable")][:_NAMED]:
        up = values[i] >= 0
        place = (i + 0.45, max(sums[i], sums[i + 1]) if up else min(sums[i], sums[i + 1]))
        plot.annotate(
            _signed(values[i]),
            place,
            xytext=(0, 3 if up else -3),
            textcoords="offset points",
            size=SMALL - 0.5,
            color=INK,
            ha="right",
            va="bottom" if up else "top",
        )
    return np.concatenate([sums, [total if np.isfinite(total) else 0.0]])


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_number(float(f"{value:.3g}"))


def _kinds(figure: Waterfall) -> list[str]:
    return list(dict.fromkeys(figure.kinds))[:_MOST_KINDS]


def _value_axis(plot: Axes, figure: Waterfall, ends: np.ndarray) -> None:
    room = (ends.max() - ends.min()) or 1.0
    plot.set_ylim(ends.min() - 0.1 * room, ends.max() + 0.1 * room)
    plot.yaxis.set_major_locator(MaxNLocator(6))
    plot.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_number(float(f"{value:.6g}"))))
    plot.set_ylabel(visible_label(figure.unit) if figure.unit not in ("", "1") else "value", size=FONT)
    plot.grid(axis="y", linewidth=0.7)


def _group_axis(plot: Axes, figure: Waterfall, groups: Sequence[str], turned: bool) -> None:
    """One tick below the steps of each group that follow one another, as many as fit, and one below the total."""
    starts = [i for i in range(len(groups)) if i == 0 or figure.groups[i] != figure.groups[i - 1]]
    centres = [(start + end - 1) / 2 for start, end in zip(starts, [*starts[1:], len(groups)], strict=True)]
    last, total = len(groups), labels_of([figure.total_label], 16)[0]
    pixels = (_WIDTH - _LEFT - _RIGHT) / (last + 1.4)
    needed = SMALL + 4 if turned else max(text_width(groups[start]) for start in starts) + 8
    beside = needed / 2 + (0 if turned else text_width(total) / 2)
    some = [i for i in every(len(centres), pixels * len(groups), needed) if (last - centres[i]) * pixels > beside]
    plot.set_xticks([*(centres[i] for i in some), last], [*(groups[starts[i]] for i in some), total], rotation=90 if turned else 0)
    plot.set_xlim(-0.7, last + 0.7)
    plot.tick_params(axis="x", length=0)
    plot.set_xlabel(visible_label(figure.group_label), size=FONT)


def _legend(canvas: Canvas, figure: Waterfall) -> None:
    left = float(_LEFT)
    for kind, color in zip(_kinds(figure), PALETTE, strict=False):
        square = axes(canvas, left, 9, 10, 10)
        square.add_patch(Rectangle((0, 0), 1, 1, facecolor=color, edgecolor="none"))
        square.set_axis_off()
        text = shortened(visible_label(str(kind)), 24)
        write(canvas, left + 15, 14, text, color=INK)
        left += 15 + text_width(text) + 14
    write(canvas, min(left, _WIDTH - 190), 14 if left < _WIDTH - 190 else 30, "filled: raises · hollow: lowers")


def _closing(figure: Waterfall, values: np.ndarray) -> str:
    """How well the parts add up, in words."""
    total, n = float(figure.total), len(figure.values)
    missing = int((~np.isfinite(numbers(figure.values))).sum())
    cut = f" · the first {len(values)} of {n} parts are drawn" if n > len(values) else ""
    gone = f" · {missing} of {n} parts have no value (NaN)" if missing else ""
    if not np.isfinite(numbers(total)):
        return f"measured: {format_number(total)}{gone}{cut}"
    rest = float(running_sum(numbers(figure.values))[-1]) - total
    return f"parts add up to {format_number(total + rest)}, measured {format_number(total)}: error {format_number(float(f'{rest:.2g}'))}{gone}{cut}"
