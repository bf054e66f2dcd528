"""Which data does the circuit graph get? Nodes from left to right and the edges between them, with their numbers in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reports.drawing.canvas import numbers
from reports.drawing.circuit_graph import shown_parts
from reports.figures import CircuitGraph
from reports.text import format_number, visible_label
from reports.views._view import View


def _data(figure: CircuitGraph) -> Mapping[str, Any] | None:
    shown = shown_parts(figure)
    if not len(shown.nodes):
        return None
    values, weights = numbers(figure.values), numbers(figure.edge_values)
    sizes, widths = _shares(values, shown.nodes), _shares(weights, shown.edges)
    return {
        "nodes": [
            {"label": visible_label(str(figure.nodes[i])), "value": _shown(values[i]), "size": sizes[i], "sign": _sign(values[i])}
            for i in shown.nodes
        ],
        "edges": [
            {
                "from": int(shown.column[int(figure.senders[i])]),
                "to": int(shown.column[int(figure.receivers[i])]),
                "value": _shown(weights[i]),
                "width": widths[i],
                "sign": _sign(weights[i]),
                "note": visible_label(figure.edge_notes[i]) if figure.edge_notes is not None else "",
            }
            for i in shown.edges
        ],
        "unit": visible_label(figure.unit) if figure.unit not in ("", "1") else "",
        "node_label": visible_label(figure.node_label),
        "edge_label": visible_label(figure.edge_label),
        "said": f"Drawn are {shown.cut}." if shown.cut else "",
    }


def _shares(values: np.ndarray, some: np.ndarray) -> dict[int, float]:
    """How large each number is beside the largest, 0 where it is missing."""
    sizes = np.minimum(np.nan_to_num(np.abs(values[some]), nan=0.0, posinf=1e100), 1e100)
    largest = sizes.max(initial=0.0) or 1.0
    return {int(i): round(float(size / largest), 4) for i, size in zip(some, sizes, strict=True)}


def _sign(value: float) -> int:
    return 0 if np.isnan(value) else -1 if value < 0 else 1


def _shown(value: float) -> str:
    return "no value" if np.isnan(value) else ("+" if value > 0 else "") + format_number(float(f"{value:.2g}"))


VIEW = View(kind=CircuitGraph, name="circuit", data=_data)
