"""Do two tables agree? Exactly, within tolerance with the largest difference, or not and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from reports import SavedTable, carried

RELATIVE, ABSOLUTE = 1e-5, 1e-6
"""Two numbers agree if they differ by at most ABSOLUTE plus RELATIVE times the largest number of their column."""


@dataclass(frozen=True)
class Comparison:
    """How one table of the run compares with the same table now."""

    analysis: str
    table: str
    outcome: Literal["exact", "within tolerance", "differs", "measured"]
    detail: str

    def __str__(self) -> str:
        return f"{self.analysis}/{self.table}: {self.outcome}{f' ({self.detail})' if self.detail else ''}"


def compare_tables(analysis: str, name: str, old: SavedTable, new: SavedTable, *, through_csv: bool = False) -> Comparison:
    """Two tables of that name. Of one that was cut, the rows that are there are compared, and the answer says so.

    `through_csv` is needed where one of them comes from a page: the other is then taken through the same CSV.
    """
    if through_csv:
        old, new = (table if len(table.frame) < table.rows else carried(table) for table in (old, new))
    if old.measurement and new.measurement:
        return Comparison(analysis, name, "measured", _ratios(old.frame, new.frame))
    if old.rows != new.rows:
        return Comparison(analysis, name, "differs", f"{_size(old)}, now {_size(new)}")
    there = min(len(old.frame), len(new.frame))
    found = compare_frames(analysis, name, old.frame.head(there), new.frame.head(there))
    if there == old.rows:
        return found
    part = f"the first {there:,} of {old.rows:,} rows"
    return Comparison(analysis, name, found.outcome, f"{part}: {found.detail}" if found.detail else part)


def compare_frames(analysis: str, name: str, old: pd.DataFrame, new: pd.DataFrame) -> Comparison:
    """Two frames: exact, within tolerance with the largest difference, or different and where.

    >>> a = pd.DataFrame({"x": [1.0, float("nan")]})
    >>> compare_frames("a", "t", a, a.copy()).outcome, compare_frames("a", "t", a, a + 1e-9).outcome, compare_frames("a", "t", a, a + 1).outcome
    ('exact', 'within tolerance', 'differs')
    """
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return Comparison(analysis, name, "differs", f"{len(old)} rows of {len(old.columns)} columns, now {len(new)} of {len(new.columns)}")
    worst, where = 0.0, ""
    for column in old.columns:
        a, b = old[column], new[column]
        if is_number(a) and is_number(b):
            x, y = (values.to_numpy(float, na_value=np.nan) for values in (a, b))
            apart, gap = differences(x, y)
            if apart.any():
                row = int(np.flatnonzero(apart)[0])
                return Comparison(analysis, name, "differs", f"{column}, row {row}: {x[row]:.6g}, now {y[row]:.6g}")
            if gap > worst:
                worst, where = gap, column
        elif not (a.isna() == b.isna()).all() or not (a.dropna().astype(str).to_numpy() == b.dropna().astype(str).to_numpy()).all():
            return Comparison(analysis, name, "differs", f"column {column}")
    return (
        Comparison(analysis, name, "within tolerance", f"largest difference {worst:.2g} in {where}")
        if worst
        else Comparison(analysis, name, "exact", "")
    )


def differences(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Bool[rows]: where two columns of numbers differ beyond tolerance; and the largest difference within it. NaN equals NaN.

    >>> differences(np.array([1.0, 2.0, np.nan]), np.array([1.0, 2.5, np.nan]))
    (array([False,  True, False]), 0.0)
    """
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.abs(x[np.isfinite(x)])
    with np.errstate(invalid="ignore"):
        gaps = np.abs(x - y)
        apart = ~(same | (gaps <= ABSOLUTE + RELATIVE * np.max(finite, initial=0.0)))
    return apart, float(np.max(gaps, where=~same & ~apart, initial=0.0))


def is_number(column: pd.Series) -> bool:
    """Does it hold numbers that are measured or counted? Truth values are not."""
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def plain_value(value: Any) -> Any:
    """Values as they come back from a file: tuples are lists.

    >>> plain_value({"only": ("a", "b")})
    {'only': ['a', 'b']}
    """
    if isinstance(value, Mapping):
        return {key: plain_value(inner) for key, inner in value.items()}
    return [plain_value(inner) for inner in value] if isinstance(value, list | tuple) else value


def _size(table: SavedTable) -> str:
    return f"{table.rows} rows of {len(table.frame.columns)} columns"


def _ratios(old: pd.DataFrame, new: pd.DataFrame) -> str:
    """Measurements differ from run to run: their median ratios, for the reader, never for the decision."""
    found = []
    for column in old.columns:
        if (
            column in new
            and pd.api.types.is_float_dtype(old[column].dtype)
            and pd.api.types.is_float_dtype(new[column].dtype)
            and len(old) == len(new)
        ):
            ratio = float((new[column] / old[column]).replace([np.inf, -np.inf], np.nan).median())
            found += [f"{column} × {ratio:.2f}"] if np.isfinite(ratio) else []
    return "now against then: " + ", ".join(found) if found else ""
