"""What can be shown? Figures as values: numbers, labels and units, but no pixels. `reports.draw` turns them into pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """What every figure says in words.

    `title` states the finding, `caption` what to look at, n and the meaning of error bars, `alt` the finding in numbers
    for a reader who cannot see the picture. `name` is a slug, unique within a result.
    """

    name: str
    title: str
    caption: str
    alt: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"a figure's name is lower-case words joined by hyphens, got {self.name!r}")
        for part in ("title", "caption", "alt"):
            if not getattr(self, part).strip():
                raise ValueError(f"figure {self.name!r} needs a {part}, got an empty one")


def _shape(figure: Figure, what: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if np.shape(array) != expected:
        raise ValueError(f"figure {figure.name!r}: {what} must have shape {expected}, got {np.shape(array)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap(Figure):
    """Values on a grid, Float[rows, columns]. NaN is drawn as missing. `signed` centres the colours on zero; `text` labels the cells."""

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    unit: str
    signed: bool = False
    text: np.ndarray | None = None
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _shape(self, "values", self.values, (len(self.rows), len(self.columns)))
        if self.text is not None:
            _shape(self, "text", self.text, (len(self.rows), len(self.columns)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One line: Float[points], with an optional band from `low` to `high` (say in the caption what the band is)."""

    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines(Figure):
    """One or more series over the same x."""

    x: np.ndarray
    series: Mapping[str, Series]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    markers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, series in self.series.items():
            for what, array in (("y", series.y), ("low", series.low), ("high", series.high)):
                if array is not None:
                    _shape(self, f"{what} of series {name!r}", array, np.shape(self.x))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars(Figure):
    """One bar per label, with optional interval ends (say in the caption what they are)."""

    labels: Sequence[str]
    values: np.ndarray
    unit: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("values", "low", "high"):
            if getattr(self, what) is not None:
                _shape(self, what, getattr(self, what), (len(self.labels),))


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram(Figure):
    """Counts between edges: Int[bins], Float[bins + 1]."""

    counts: np.ndarray
    edges: np.ndarray
    x_label: str
    log_y: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _shape(self, "edges", self.edges, (len(self.counts) + 1,))


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMap(Figure):
    """Text whose tokens are coloured by a number: one row per method or example, each with its own tokens."""

    rows: Mapping[str, tuple[Sequence[str], np.ndarray]]
    unit: str
    signed: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (tokens, values) in self.rows.items():
            _shape(self, f"values of row {name!r}", values, (len(tokens),))


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMap(Figure):
    """Attention patterns of some heads over one text: head label → Float[query, key]. Rows sum to 1."""

    patterns: Mapping[str, np.ndarray]
    queries: Sequence[str]
    keys: Sequence[str]
    unit: str = "attention probability"
    notes: Mapping[str, str] = field(default_factory=dict)
    """head label → why it is shown"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for head, pattern in self.patterns.items():
            _shape(self, f"pattern of {head!r}", pattern, (len(self.queries), len(self.keys)))


KINDS: tuple[type[Figure], ...] = (Heatmap, Lines, Bars, Histogram, TokenMap, AttentionMap)
"""Every kind of figure that can be drawn and stored; the contract tests run over it."""
