"""Which rows of two tables are the same row, and where do they differ most?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses._compare import differences, is_number
from reports import SavedTable


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number that differs: its row in words, its column, what it was and what it is, and the change over the column's largest number."""

    row: str
    column: str
    was: float
    now: float
    share: float


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Two tables laid row upon row."""

    by: tuple[str, ...]
    """the columns that name a row; empty where rows are matched by their place"""
    only_a: int
    only_b: int
    both: int
    changed: tuple[Cell, ...]
    """the largest changes, the largest first"""
    n_changed: int
    """numbers that differ beyond tolerance, in the rows of both"""
    n_relabelled: int
    """texts that differ, in the rows of both"""


def join(a: SavedTable, b: SavedTable, *, most: int = 5) -> Joined | None:
    """The tables joined on the columns that name their rows; None where nothing tells which row is which.

    The first label columns that are unlike in every row, of both tables, name it. Without such columns, tables of one length are laid
    upon each other row by row.
    """
    by = _names(a, b)
    if not by and len(a.frame) != len(b.frame):
        return None
    left, right = (_keyed(table.frame, by) for table in (a, b))
    both = left.index.intersection(right.index, sort=False)
    x, y = left.loc[both], right.loc[both]
    cells, relabelled = [], 0
    for column in [c for c in a.frame.columns if c in b.frame.columns and c not in by]:
        if is_number(x[column]) and is_number(y[column]):
            cells += _changes(x[column], y[column])
        else:
            relabelled += int((x[column].astype(str).to_numpy() != y[column].astype(str).to_numpy()).sum())
    cells.sort(key=lambda cell: -cell.share)
    return Joined(
        by=tuple(by),
        only_a=len(left) - len(both),
        only_b=len(right) - len(both),
        both=len(both),
        changed=tuple(cells[:most]),
        n_changed=len(cells),
        n_relabelled=relabelled,
    )


def _names(a: SavedTable, b: SavedTable) -> list[str]:
    shared = [c for c in a.labels if c in b.labels]
    for count in range(1, len(shared) + 1):
        if not any(table.frame.duplicated(shared[:count]).any() for table in (a, b)):
            return shared[:count]
    return []


def _keyed(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """The frame with the name of each row in words as its index."""
    if not by:
        return frame.set_axis([f"row {i}" for i in range(len(frame))], axis=0)
    words = [frame[c].astype(str) for c in by]
    return frame.set_axis([" ".join(f"{c}={v}" for c, v in zip(by, row, strict=True)) for row in zip(*words, strict=True)], axis=0)


def _changes(x: pd.Series, y: pd.Series) -> list[Cell]:
    was, now = (values.to_numpy(float, na_value=np.nan) for values in (x, y))
    apart, _ = differences(was, now)
    finite = np.abs(np.concatenate([was, now]))
    largest = float(np.max(finite[np.isfinite(finite)], initial=0.0)) or 1.0
    with np.errstate(invalid="ignore"):
        share = np.nan_to_num(np.abs(now - was) / largest, nan=np.inf, posinf=np.inf)
    return [
        Cell(row=str(x.index[i]), column=str(x.name), was=float(was[i]), now=float(now[i]), share=float(share[i]))
        for i in np.flatnonzero(apart)
    ]
