"""How are tables and settings laid out for reading? The first rows in full, nested settings as dotted names, numbers rounded for the eye."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reports.result import Table
from reports.text import format_number, visible_text

LONGEST_CELL = 500
"""Characters of a cell that the page shows."""
ROWS_SHOWN = 3
"""Rows of a table that the page shows at most; the CSV file has more."""
CELLS_SHOWN = 12
"""Cells of a table that the page shows: of a wide one fewer rows. The others come out of the CSV file when asked for."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell's text, whether it is a number, and whether there is none: then the text is a dash."""

    text: str
    number: bool
    missing: bool = False


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column's name, unit and meaning; the units "" and "1" are not shown."""

    name: str
    unit: str
    meaning: str
    number: bool


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The part of a table that the page shows."""

    columns: tuple[Head, ...]
    rows: tuple[tuple[Cell, ...], ...]
    total: int


def rows_of(table: Table) -> Shown:
    """The head and the first rows of a table as text."""
    frame = table.frame.head(min(ROWS_SHOWN, max(1, CELLS_SHOWN // max(1, len(table.frame.columns)))))
    columns = tuple(
        Head(name=str(name), unit=c.unit if c.unit != "1" else "", meaning=c.meaning, number=pd.api.types.is_numeric_dtype(frame[name].dtype))
        for name, c in ((name, table.columns[name]) for name in frame.columns)
    )
    cells = [[_cell(value, head.number) for value in frame[head.name].tolist()] for head in columns]
    return Shown(columns=columns, rows=tuple(zip(*cells, strict=True)), total=len(table.frame))


def _cell(value: Any, number: bool) -> Cell:
    """A cell; what does not apply is a dash."""
    missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
    return Cell(text="–" if missing else _cell_text(value), number=number, missing=missing)


def _cell_text(value: Any) -> str:
    """As `shown_value`; of a very long text, a packed array for example, the beginning and its length.

    >>> _cell_text("eNpj" * 250)[-24:]
    'pjeNpj… 1,000 characters'
    """
    text = shown_value(value)
    return text if len(text) <= LONGEST_CELL else f"{text[:60]}… {len(text):,} characters"


def shown_value(value: Any) -> Any:
    """Any value as the page shows it: numbers rounded, text made visible, markup as it is.

    >>> shown_value(0.123456), shown_value(("a", 1)), shown_value(float("nan"))
    ('0.1235', 'a, 1', 'NaN')
    """
    if hasattr(value, "__html__"):
        return value
    if isinstance(value, np.generic):
        value = value.item()
    if value is pd.NA:
        return "NaN"
    if value is None or isinstance(value, (bool, int, float)):
        return format_number(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(shown_value(item)) for item in value)
    return visible_text(str(value))


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names, in their order. Whole numbers are written plainly: a seed is not a quantity.

    >>> flat({"seed": 12345, "model": {"name": "toy", "n_layers": 2}, "only": ()})
    [('seed', '12345'), ('model.name', 'toy'), ('model.n_layers', '2'), ('only', '–')]
    """
    pairs: list[tuple[str, Any]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            pairs.extend(flat(value, f"{prefix}{name}."))
        elif isinstance(value, float):
            pairs.append((prefix + name, repr(value)))  # a parameter is exact, and can be typed in again
        elif isinstance(value, int) and not isinstance(value, bool):
            pairs.append((prefix + name, str(value)))
        else:
            pairs.append((prefix + name, "–" if value in ("", None) or value in ((), [], {}) else value))
    return pairs


def file_name(text: str) -> str:
    """The text as a part of a download's name.

    >>> file_name("head ablation/../x")
    'head-ablation-x'
    """
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-") or "file"
