"""Which numbers does a figure show? One row per drawn value, for a CSV file beside the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd

from reports.figures import AttentionMap, Bars, Figure, Heatmap, Histogram, Lines, TokenMap


@singledispatch
def figure_data(figure: Figure) -> pd.DataFrame:
    """The values of a figure in long form: one row per cell, point, bar, bin or token.

    Units stand in the figure (`unit`, `x_label`, `y_label`), not in the table. Missing values are NaN.

    Raises:
        TypeError: for a kind of figure that is not in `reports.figures.KINDS`.

    >>> bars = Bars(name="loss", title="t", caption="c", alt="a", labels=["full", "ablated"], values=np.array([2.0, 2.5]), unit="nats")
    >>> figure_data(bars).to_dict("records")
    [{'label': 'full', 'value': 2.0}, {'label': 'ablated', 'value': 2.5}]
    """
    raise TypeError(f"a figure must be one of Heatmap, Lines, Bars, Histogram, TokenMap, AttentionMap, got {type(figure).__name__}")


@figure_data.register
def _(figure: Heatmap) -> pd.DataFrame:
    rows, columns = len(figure.rows), len(figure.columns)
    data = {
        "row": np.repeat(_texts(figure.rows), columns),
        "column": np.tile(_texts(figure.columns), rows),
        "value": np.asarray(figure.values, dtype=float).reshape(-1),
    }
    if figure.text is not None:
        data["text"] = _texts(np.asarray(figure.text, dtype=object).reshape(-1))
    return _frame(data)


@figure_data.register
def _(figure: Lines) -> pd.DataFrame:
    columns = ["series", "x", "y", "low", "high"]
    parts = [
        _frame({"series": _texts([name] * len(figure.x)), "x": np.asarray(figure.x), "y": np.asarray(series.y),
                      "low": np.nan if series.low is None else np.asarray(series.low),
                      "high": np.nan if series.high is None else np.asarray(series.high)})
        for name, series in figure.series.items()
    ]
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
    return frame.drop(columns=[c for c in ("low", "high") if all(getattr(s, c) is None for s in figure.series.values())])


@figure_data.register
def _(figure: Bars) -> pd.DataFrame:
    ends = {c: np.asarray(getattr(figure, c)) for c in ("low", "high") if getattr(figure, c) is not None}
    return _frame({"label": _texts(figure.labels), "value": np.asarray(figure.values), **ends})


@figure_data.register
def _(figure: Histogram) -> pd.DataFrame:
    edges = np.asarray(figure.edges)
    return _frame({"from": edges[:-1], "to": edges[1:], "count": np.asarray(figure.counts)})


@figure_data.register
def _(figure: TokenMap) -> pd.DataFrame:
    columns = ["row", "position", "token", "value"]
    parts = [
        _frame({"row": _texts([name] * len(tokens)), "position": np.arange(len(tokens)), "token": _texts(tokens),
                      "value": np.asarray(values, dtype=float)})
        for name, (tokens, values) in figure.rows.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


@figure_data.register
def _(figure: AttentionMap) -> pd.DataFrame:
    queries, keys = len(figure.queries), len(figure.keys)
    columns = ["head", "query", "query_token", "key", "key_token", "value"]
    parts = [
        _frame({
            "head": _texts([head] * (queries * keys)),
            "query": np.repeat(np.arange(queries), keys),
            "query_token": np.repeat(_texts(figure.queries), keys),
            "key": np.tile(np.arange(keys), queries),
            "key_token": np.tile(_texts(figure.keys), queries),
            "value": np.asarray(pattern, dtype=float).reshape(-1),
        })
        for head, pattern in figure.patterns.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A frame whose labels stay objects: text with lone surrogates does not fit the text type of pandas."""
    return pd.DataFrame({name: pd.Series(c, dtype=object) if getattr(c, "dtype", None) == object else c for name, c in columns.items()})


def _texts(values: Sequence[object]) -> np.ndarray:
    texts = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        texts[i] = str(value)
    return texts
