"""How does a reader take the numbers along? Small CSV files inside the page; what is too long is cut and says where the whole is."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.figures import AttentionMap, Figure, Heatmap, TokenMap
from reports.long_form import figure_data
from reports.text import visible_text

TABLE_LIMIT = 250_000
"""Bytes of CSV that the page carries per table."""
FIGURE_LIMIT = 100_000
"""Bytes of CSV that the page carries per figure; a longer one is not carried at all."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class Csv:
    """A CSV file, and how many of the rows it holds."""

    content: bytes
    rows: int
    rows_in_all: int

    @property
    def link(self) -> str:
        """The file as a `data:` address."""
        return "data:text/csv;charset=utf-8;base64," + base64.b64encode(self.content).decode("ascii")


def csv_of(frame: pd.DataFrame, limit: int = TABLE_LIMIT) -> Csv:
    r"""The frame as CSV of at most `limit` bytes, cut after a whole row. Missing values are `NaN`, numbers are exact.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; what cannot be seen is written as `\u{…}`.

    >>> csv_of(pd.DataFrame({"token": ["=1+1", "a"], "effect": [-0.5, float("nan")]})).content.decode().splitlines()
    ['token,effect', "'=1+1,-0.5", 'a,NaN']
    """
    some = frame.head(1 + limit // (2 * max(1, len(frame.columns))))  # a cell and its comma take two bytes at least
    safe = pd.DataFrame({i: _safe(some[column]) for i, column in enumerate(some.columns)}, index=some.index)
    text = safe.to_csv(index=False, header=[_safe_cell(str(c)) for c in some.columns], lineterminator="\n", na_rep="NaN") if len(safe.columns) else ""
    content = text.encode("utf-8")
    if len(content) <= limit and len(some) == len(frame):
        return Csv(content=content, rows=len(frame), rows_in_all=len(frame))
    rows = len(some)
    while rows and len(content) > limit:
        rows = min(rows - 1, int(rows * limit / len(content)))
        content = safe.head(rows).to_csv(index=False, header=[_safe_cell(str(c)) for c in some.columns], lineterminator="\n", na_rep="NaN").encode()
    return Csv(content=content, rows=rows, rows_in_all=len(frame))


def figure_csv(figure: Figure) -> Csv | None:
    """The values of a figure as CSV, or None where they take more than `FIGURE_LIMIT` bytes."""
    if value_count(figure) > FIGURE_LIMIT // 4:
        return None
    csv = csv_of(figure_data(figure), FIGURE_LIMIT)
    return csv if csv.rows == csv.rows_in_all else None


def value_count(figure: Figure) -> int:
    """How many values a map holds, counted without laying them out; other kinds are small and count as 0."""
    if isinstance(figure, AttentionMap):
        return sum(np.size(pattern) for pattern in figure.patterns.values())
    if isinstance(figure, TokenMap):
        return sum(len(tokens) for tokens, _ in figure.rows.values())
    return np.size(figure.values) if isinstance(figure, Heatmap) else 0


def _safe(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column
    return column.astype(object).map(lambda cell: _safe_cell(cell) if isinstance(cell, str) else cell)


def _safe_cell(cell: str) -> str:
    shown = visible_text(cell)
    return "'" + shown if cell.startswith(_FORMULA) else shown
