"""How are values on a grid shown? A coloured cell per value, the first row on top, numbers inside where they fit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reports.drawing.canvas import FONT, MUTED, SMALL, Picture, axes, every, labels_of, nothing_to_draw, numbers, text_width
from reports.drawing.scale import Scale, color_bar, ink_on, missing_key, scale_of, shade
from reports.figures import Heatmap
from reports.text import shortened, visible_label, with_minus

_NARROW, _WIDE, _BESIDE = 520, 940, 114
_CELL_TEXT, _MOST_TEXTS, _GROUPS = 10.0, 2500, 20
_SQUARE, _WIDEST = 44.0, 96.0
"""width of a cell that holds no text, and of any cell"""
_NEGATIVE = re.compile(r"-[\d.,]+%?")


@dataclass(frozen=True)
class _Plan:
    """Where things go, in CSS pixels."""

    left: float
    cell_width: float
    cell_height: float
    bottom: float
    turned: bool
    names: float
    """height of the names of the columns"""


def picture(figure: Heatmap) -> Picture:
    """The heatmap. A map of any size is one embedded bitmap of at most the picture's resolution."""
    values = numbers(figure.values)
    if values.size == 0:
        return nothing_to_draw(figure, f"nothing to draw: {values.shape[0]} rows × {values.shape[1]} columns")
    plan = _plan(figure, *values.shape)
    width = plan.left + plan.cell_width * values.shape[1] + _BESIDE
    height = 10 + max(plan.cell_height * values.shape[0], 40) + plan.bottom
    return Picture(figure, round(width), round(height), lambda canvas: _paint(canvas, figure, values, plan))


def _plan(figure: Heatmap, rows: int, columns: int) -> _Plan:
    left = 34 + max(text_width(label) for label in labels_of(figure.rows))
    lower = labels_of(figure.columns)
    inside = [text_width(shortened(visible_label(str(t)), 14), _CELL_TEXT) + 6 for t in np.ravel(figure.text)] if figure.text is not None else [0]
    wide = columns > 24 or max(inside) * columns > _NARROW - left - _BESIDE
    room = (_WIDE if wide else _NARROW) - left - _BESIDE
    longest = max(text_width(label) for label in lower)
    cell_width = min(min(_WIDEST, max(_SQUARE, longest + 8, *inside)), room / columns)
    cell_height = max(26.0, min(40.0, 120 / rows)) if rows <= 10 else 15.0 if rows <= 40 else min(15.0, 640 / rows)
    turned = longest + 8 > cell_width and longest > 3.5 * SMALL
    names = longest if turned else 14
    return _Plan(left, cell_width, cell_height, 36 + names + (_GROUPS + 4 if figure.column_groups else 0), turned, names)


def _paint(canvas: Canvas, figure: Heatmap, values: np.ndarray, plan: _Plan) -> None:
    rows, columns = values.shape
    width, height = plan.cell_width * columns, max(plan.cell_height * rows, 40)
    grid = axes(canvas, plan.left, 10, width, height)
    scale = scale_of(values, figure.signed, figure.low, figure.high)
    shown = scale or Scale(low=0, high=1, signed=figure.signed, missing=True)
    image = shade(grid, values, shown)
    _label(grid, figure, plan, width, height)
    if figure.column_groups:
        _brackets(canvas, figure, plan, 10 + height + plan.names + 4)
    if figure.text is not None and values.size <= _MOST_TEXTS:
        _write_cells(grid, np.asarray(figure.text, dtype=object), shown(values), plan)
    if scale is not None:
        color_bar(canvas, scale, figure.unit, plan.left + width + 16, 10, height - (26 if scale.missing and height > 70 else 0), upright=True, of=image)
    if shown.missing or scale is None:
        missing_key(canvas, plan.left + width + 8, 10 + height - 2)


def _label(grid: Axes, figure: Heatmap, plan: _Plan, width: float, height: float) -> None:
    lower, side = labels_of(figure.columns), labels_of(figure.rows)
    needed = SMALL + 3 if plan.turned else max(text_width(label) for label in lower) + 8
    some = every(len(lower), width, needed)
    grid.set_xticks(list(some), [lower[i] for i in some], rotation=90 if plan.turned else 0)
    some = every(len(side), height, SMALL + 3)
    grid.set_yticks(list(some), [side[i] for i in some])
    grid.tick_params(length=0)
    grid.spines[:].set_visible(False)
    grid.set_xlabel(visible_label(figure.column_label), size=FONT, labelpad=4 + (_GROUPS if figure.column_groups else 0))
    grid.set_ylabel(visible_label(figure.row_label), size=FONT)


def _brackets(canvas: Canvas, figure: Heatmap, plan: _Plan, top: float) -> None:
    """A bracket under the names of neighbouring columns of one group, with its name in the middle."""
    runs = [(name, [i for i, _ in same]) for name, same in groupby(enumerate(figure.column_groups), key=lambda one: one[1])]
    row = axes(canvas, plan.left, top, plan.cell_width * len(figure.columns), _GROUPS)
    row.set(xlim=(-0.5, len(figure.columns) - 0.5), ylim=(0, 1))
    row.set_axis_off()
    for name, places in runs:
        first, last = places[0] - 0.4, places[-1] + 0.4
        row.plot([first, first, last, last], [1, 0.82, 0.82, 1], color=MUTED, linewidth=1)
        fitting = int((last - first) * plan.cell_width / (0.6 * _CELL_TEXT))
        if fitting >= 2:
            row.text((first + last) / 2, 0.35, shortened(visible_label(str(name)), fitting), size=_CELL_TEXT, color=MUTED, ha="center", va="center")


def _write_cells(grid: Axes, text: np.ndarray, colors: np.ndarray, plan: _Plan) -> None:
    fitting = int((plan.cell_width - 4) / (0.6 * _CELL_TEXT))
    if fitting < 2 or plan.cell_height < _CELL_TEXT + 2:
        return  # the cells are too small for text; the CSV file has it
    inks = ink_on(colors.reshape(-1, 4))
    for i, (cell, ink) in enumerate(zip(text.reshape(-1), inks, strict=True)):
        row, column = divmod(i, text.shape[1])
        shown = with_minus(str(cell)) if _NEGATIVE.fullmatch(str(cell)) else str(cell)
        grid.text(column, row, shortened(visible_label(shown), fitting), size=_CELL_TEXT, color=ink, ha="center", va="center")
