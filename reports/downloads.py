"""How does a reader take the numbers along? Small CSV files inside the page; what is too long is cut and says where the whole is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from reports.embedded import Embedded
from reports.figures import AttentionMap, Figure, Heatmap, LensGrid, TokenMap
from reports.long_form import figure_data
from reports.result import Table
from reports.tabular import file_name
from reports.text import visible_text

TABLE_LIMIT = 250_000
"""Bytes of CSV that the page carries per table."""
FIGURE_LIMIT = 100_000
"""Bytes of CSV that the page carries per figure; a longer one is not carried at all."""

LONGEST_CELL = 1000
"""Characters of one word beyond which a cell stands as its length and SHA-256: packed arrays are not for reading."""

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, kw_only=True)
class Csv:
    """A CSV file, and how many of the rows it holds."""

    content: bytes
    rows: int
    rows_in_all: int


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Where a reader finds the numbers of a figure: in a file that the page carries, in a table, or in neither."""

    file: Embedded | None = None
    table: str = ""


def csv_of(frame: pd.DataFrame, limit: int | None = TABLE_LIMIT) -> Csv:
    r"""The frame as CSV of at most `limit` bytes, cut after a whole row. Missing values are `NaN`, numbers are exact.

    Text that a spreadsheet would run as a formula gets an apostrophe in front; what cannot be seen is written as `\u{…}`. A
    word of more than 1,000 characters, a packed array, stands as its length and SHA-256.

    >>> csv_of(pd.DataFrame({"token": ["=1+1", "a"], "effect": [-0.5, float("nan")]})).content.decode().splitlines()
    ['token,effect', "'=1+1,-0.5", 'a,NaN']
    """
    most = len(frame) if limit is None else 1 + limit // (2 * max(1, len(frame.columns)))  # a cell and its comma take two bytes at least
    some = frame.head(most)
    safe = pd.DataFrame({i: _safe(some[column]) for i, column in enumerate(some.columns)}, index=some.index)
    content = _written(safe, some)
    if limit is None or (len(content) <= limit and len(some) == len(frame)):
        return Csv(content=content, rows=len(frame), rows_in_all=len(frame))
    rows = len(some)
    while rows and len(content) > limit:
        rows = min(rows - 1, int(rows * limit / len(content)))
        content = _written(safe.head(rows), some)
    return Csv(content=content, rows=rows, rows_in_all=len(frame))


def table_file(name: str, table: Table, analysis: str) -> Embedded:
    """A table as the CSV file that the page carries."""
    csv = csv_of(table.frame)
    called = _file_of(analysis, file_name(name))
    return Embedded(name=called, kind="table", content=csv.content, analysis=analysis, part=name, rows=csv.rows, rows_in_all=csv.rows_in_all)


def figure_file(figure: Figure, analysis: str) -> Embedded | None:
    """The values of a figure as a CSV file, to six digits, which is more than a picture shows; or None above `FIGURE_LIMIT` bytes.

    Every digit stands in the figure's own file in the run's folder.
    """
    if value_count(figure) > FIGURE_LIMIT // 4:
        return None
    csv = csv_of(_six_digits(figure_data(figure)), FIGURE_LIMIT)
    if csv.rows < csv.rows_in_all:
        return None
    called = _file_of(analysis, figure.name)
    return Embedded(name=called, kind="figure", content=csv.content, analysis=analysis, part=figure.name, rows=csv.rows, rows_in_all=csv.rows)


def _file_of(analysis: str, part: str) -> str:
    return f"{file_name(analysis)}-{part}.csv" if analysis else f"{part}.csv"


def figure_numbers(figure: Figure, analysis: str, tables: Mapping[str, Table]) -> Numbers:
    """Where the numbers of a figure are: in a table, else in a file of its own, else in the run's folder alone."""
    if held := table_of(figure, tables):
        return Numbers(table=held)
    return Numbers(file=figure_file(figure, analysis))


def table_of(figure: Figure, tables: Mapping[str, Table]) -> str | None:
    """The table that holds every number that a figure shows, so that the page need not carry them twice; None where none does.

    Whole numbers prove nothing, for positions and counts stand in every table: a figure that shows no others has none.

    >>> from reports.figures import Bars
    >>> from reports.result import Column
    >>> bars = Bars(name="b", title="t", caption="c", alt="a", labels=["x", "y"], values=np.array([0.25, 1.5]), unit="nats")
    >>> effects = pd.DataFrame({"effect": [1.5, 0.75, 0.25]})
    >>> table_of(bars, {"effects": Table(frame=effects, columns={"effect": Column(unit="nats", meaning="rise")}, caption="")})
    'effects'
    """
    if value_count(figure) > FIGURE_LIMIT // 4:
        return None
    shown = np.concatenate([np.zeros(0), *_numbers(figure_data(figure))])
    if not (shown != np.round(shown)).any():
        return None
    for name, table in tables.items():
        held = np.concatenate([np.zeros(0), *_numbers(table.frame)])
        if np.isin(shown, held).all():
            return name
    return None


def value_count(figure: Figure) -> int:
    """How many values a map holds, counted without laying them out; other kinds are small and count as 0."""
    if isinstance(figure, AttentionMap):
        return sum(np.size(pattern) for pattern in figure.patterns.values())
    if isinstance(figure, TokenMap):
        return sum(len(tokens) for tokens, _ in figure.rows.values())
    if isinstance(figure, LensGrid):
        return np.size(figure.probabilities)
    return np.size(figure.values) if isinstance(figure, Heatmap) else 0


def _six_digits(frame: pd.DataFrame) -> pd.DataFrame:
    fractions = [column for column in frame.columns if pd.api.types.is_float_dtype(frame[column].dtype)]
    return frame.assign(**{column: [float(f"{value:.6g}") for value in frame[column]] for column in fractions})


def _numbers(frame: pd.DataFrame) -> Iterator[np.ndarray]:
    """The finite numbers of each column of numbers."""
    for column in frame.columns:
        if pd.api.types.is_numeric_dtype(frame[column].dtype) and not pd.api.types.is_bool_dtype(frame[column].dtype):
            values = frame[column].to_numpy(float, na_value=np.nan)
            yield values[np.isfinite(values)]


def _written(safe: pd.DataFrame, frame: pd.DataFrame) -> bytes:
    if not len(frame.columns):
        return b""
    return safe.to_csv(index=False, header=[_safe_cell(str(c)) for c in frame.columns], lineterminator="\n", na_rep="NaN").encode("utf-8")


def _safe(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column
    return column.astype(object).map(lambda cell: _safe_cell(cell) if isinstance(cell, str) else cell)


def _safe_cell(cell: str) -> str:
    if len(cell) > LONGEST_CELL and " " not in cell:
        return f"{len(cell)} characters, SHA-256 {hashlib.sha256(cell.encode('utf-8', 'surrogatepass')).hexdigest()}"
    shown = visible_text(cell)
    return "'" + shown if cell.startswith(_FORMULA) else shown
