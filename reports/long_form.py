"""Which numbers does a figure show? One row per drawn value, for a CSV file beside the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import singledispatch
from typing import Any

import numpy as np
import pandas as pd

from reports.figures import (
    KINDS,
    AttentionMap,
    Bars,
    CircuitGraph,
    Figure,
    Heatmap,
    Histogram,
    LensGrid,
    Lines,
    TokenMap,
    Waterfall,
)


@singledispatch
def figure_data(figure: Figure) -> pd.DataFrame:
    """The values of a figure in long form: one row per cell, point, bar, bin, token, choice, part, node or edge.

    Units stand in the figure (`unit`, `x_label`, `y_label`), not in the table. Missing values are NaN.

    Raises:
        TypeError: for a kind of figure that is not in `reports.figures.KINDS`.

    >>> bars = Bars(name="loss", title="t", caption="c", alt="a", labels=["full", "ablated"], values=np.array([2.0, 2.5]), unit="nats")
    >>> figure_data(bars).to_dict("records")
    [{'label': 'full', 'value': 2.0}, {'label': 'ablated', 'value': 2.5}]
    """
    raise TypeError(f"a figure must be one of {', '.join(kind.__name__ for kind in KINDS)}, got {type(figure).__name__}")


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
    columns = ["head", "query", "query_token", "key", "key_token", "value"]
    shape = len(figure.queries), len(figure.keys)
    query, key = np.tril_indices(shape[0]) if figure.sees == "causal" else (grid.ravel() for grid in np.indices(shape))  # what it may see
    tokens = {"query_token": _texts(figure.queries)[query], "key_token": _texts(figure.keys)[key]}
    parts = [
        _frame({"head": _texts([head] * len(query)), "query": query, **tokens, "key": key, "value": np.asarray(pattern, dtype=float)[query, key]})[columns]
        for head, pattern in figure.patterns.items()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


@figure_data.register
def _(figure: LensGrid) -> pd.DataFrame:
    layers, positions, k = np.shape(figure.probabilities)
    data = {
        "layer": np.repeat(_texts(figure.layers), positions * k),
        "position": np.tile(np.repeat(np.arange(positions), k), layers),
        "position_token": np.tile(np.repeat(_texts(figure.positions), k), layers),
        "choice": np.tile(np.arange(1, k + 1), layers * positions),
        "token": _texts(np.asarray(figure.tokens, dtype=object).reshape(-1)),
        "probability": np.asarray(figure.probabilities, dtype=float).reshape(-1),
    }
    if figure.targets is not None:
        data["target"] = np.tile(np.repeat(_texts(figure.targets), k), layers)
        data["target_rank"] = np.repeat(np.asarray(figure.ranks, dtype=float).reshape(-1), k)
    return _frame(data)


@figure_data.register
def _(figure: Waterfall) -> pd.DataFrame:
    """The parts, and last the number that was measured."""
    return _frame({
        "group": _texts([*figure.groups, figure.total_label]),
        "kind": _texts([*figure.kinds, "measured"]),
        "value": np.append(np.asarray(figure.values, dtype=float), float(figure.total)),
    })


@figure_data.register
def _(figure: CircuitGraph) -> pd.DataFrame:
    """The nodes, which have no receiver, and then the edges."""
    names = _texts(figure.nodes)
    senders, receivers = (np.asarray(ends, dtype=int) for ends in (figure.senders, figure.receivers))
    return _frame({
        "sender": np.concatenate([names, names[senders]]),
        "receiver": np.concatenate([_texts([""] * len(names)), names[receivers]]),
        "value": np.concatenate([np.asarray(figure.values, dtype=float), np.asarray(figure.edge_values, dtype=float)]),
    })


def _frame(columns: Mapping[str, Any]) -> pd.DataFrame:
    """A frame whose labels stay objects: text with lone surrogates does not fit the text type of pandas."""
    return pd.DataFrame({name: pd.Series(c, dtype=object) if getattr(c, "dtype", None) == object else c for name, c in columns.items()})


def _texts(values: Sequence[object]) -> np.ndarray:
    texts = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        texts[i] = str(value)
    return texts
