"""Which parts feed which? Parts in the order of their layers, an arc for each edge: above where it is positive, below where negative."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Ellipse, PathPatch
from matplotlib.path import Path

from reports.drawing.canvas import (
    BLUE,
    GREY,
    INK,
    MUTED,
    RED,
    SMALL,
    Picture,
    axes,
    labels_of,
    nothing_to_draw,
    numbers,
    text_width,
    write,
)
from reports.drawing.scale import missing_key
from reports.figures import CircuitGraph
from reports.text import format_number, visible_label

MOST_NODES, MOST_EDGES = 24, 60
_WIDTH, _SIDE, _STEP, _MOST_WRITTEN = 940, 34, 25, 30
_ROUND = 0.5523
"""where the handles of a Bézier curve stand that is a quarter of a circle"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """The nodes and edges that are drawn, nodes from left to right; `column[i]` is the place of node i, −1 where it is left out."""

    nodes: np.ndarray
    column: np.ndarray
    edges: np.ndarray
    cut: str


def shown_parts(figure: CircuitGraph) -> Shown:
    """The nodes in the order of layer and place, at most 24, the largest; the largest 60 edges between them."""
    sizes = _size(figure.values)
    largest = np.argsort(-sizes, kind="stable")[:MOST_NODES]
    layers, places = np.asarray(figure.layers)[largest], np.asarray(figure.places)[largest]
    nodes = largest[np.lexsort((largest, places, layers))].astype(int)
    column = np.full(len(figure.nodes), -1)
    column[nodes] = np.arange(len(nodes))
    ends = np.stack([np.asarray(figure.senders, dtype=int), np.asarray(figure.receivers, dtype=int)], axis=-1).reshape(-1, 2)
    inside = np.flatnonzero((column[ends] >= 0).all(-1)) if len(ends) else np.zeros(0, dtype=int)
    edges = inside[np.argsort(-_size(figure.edge_values)[inside], kind="stable")][:MOST_EDGES]
    counts = ((len(nodes), len(figure.nodes), "nodes"), (len(edges), len(ends), "edges"))
    return Shown(nodes=nodes, column=column, edges=edges, cut=", ".join(f"{n} of {all_} {what}" for n, all_, what in counts if n < all_))


def picture(figure: CircuitGraph) -> Picture:
    """The graph; width of an arc and size of a node say how large its number is, red is positive, blue negative."""
    shown = shown_parts(figure)
    if not len(shown.nodes):
        return nothing_to_draw(figure, "nothing to draw: there is no node")
    labels = labels_of([figure.nodes[i] for i in shown.nodes], 14)
    column = min(96.0, (_WIDTH - 2 * _SIDE) / len(labels))
    longest = max(text_width(label) for label in labels)
    turned = longest + 6 > column
    above, below = _spans(figure, shown)
    lower = (longest if turned else 14) + 30
    middle = 30 + _STEP * above + 16
    height = round(middle + lower + _STEP * below + 44)
    width = round(max(2 * _SIDE + column * len(labels), 420))

    def paint(canvas: Canvas) -> None:
        page = axes(canvas, 0, 0, width, height)
        page.set(xlim=(0, width), ylim=(height, 0))
        page.set_axis_off()
        centres = _SIDE + column * (np.arange(len(labels)) + 0.5)
        _arcs(page, figure, shown, centres, middle, lower)
        _nodes(page, figure, shown, centres, labels, middle, turned)
        _words(canvas, figure, shown, height, width)

    return Picture(figure, width, height, paint)


def _size(values: np.ndarray) -> np.ndarray:
    """Float[n]: how large each number is; missing ones are nothing."""
    return np.abs(np.nan_to_num(numbers(values), nan=0.0, posinf=1e100, neginf=-1e100))


def _spans(figure: CircuitGraph, shown: Shown) -> tuple[int, int]:
    """Over how many columns the widest arc reaches, above and below."""
    widest = [0, 0]
    for edge in shown.edges:
        start, end = _columns(figure, shown, edge)
        negative = int(numbers(figure.edge_values)[edge] < 0)
        widest[negative] = max(widest[negative], abs(end - start) or 1)
    return widest[0], widest[1]


def _columns(figure: CircuitGraph, shown: Shown, edge: int) -> tuple[int, int]:
    return int(shown.column[int(figure.senders[edge])]), int(shown.column[int(figure.receivers[edge])])


def _arcs(page: Axes, figure: CircuitGraph, shown: Shown, centres: np.ndarray, middle: float, lower: float) -> None:
    values, largest = numbers(figure.edge_values), max(_size(figure.edge_values)[shown.edges], default=0.0) or 1.0
    for rank, edge in reversed(list(enumerate(shown.edges))):
        (start, end), value = _columns(figure, shown, edge), values[edge]
        x, y = centres[start], centres[end]
        negative = value < 0
        base = middle + lower - 10 if negative else middle - 12
        rise = _STEP * (abs(end - start) or 1) * (1 if negative else -1)
        strength = _size(figure.edge_values)[edge] / largest
        color = GREY if np.isnan(value) else BLUE if negative else RED
        page.add_patch(
            PathPatch(
                _arch(x, y, base, rise), facecolor="none", edgecolor=color, linewidth=0.6 + 5 * strength, alpha=0.35 + 0.55 * strength
            )
        )
        if rank < _MOST_WRITTEN:
            page.text(
                (x + y) / 2, base + rise + (9 if negative else -8), _signed(value), size=SMALL - 1.5, color=INK, ha="center", va="center"
            )


def _arch(start: float, end: float, base: float, rise: float) -> Path:
    """Half an ellipse over two points."""
    centre, radius = (start + end) / 2, (end - start) / 2
    top, bend = base + rise, _ROUND * radius
    points = [
        (start, base),
        (start, base + _ROUND * rise),
        (centre - bend, top),
        (centre, top),
        (centre + bend, top),
        (end, base + _ROUND * rise),
        (end, base),
    ]
    return Path(points, [Path.MOVETO, *[Path.CURVE4] * 6])


def _nodes(page: Axes, figure: CircuitGraph, shown: Shown, centres: np.ndarray, labels: list[str], middle: float, turned: bool) -> None:
    values, largest = numbers(figure.values), max(_size(figure.values)[shown.nodes], default=0.0) or 1.0
    for label, node, x in zip(labels, shown.nodes, centres, strict=True):
        value = values[node]
        side = 6 + 13 * np.sqrt(_size(figure.values)[node] / largest)
        color = GREY if np.isnan(value) else BLUE if value < 0 else RED
        page.add_patch(Ellipse((x, middle), side, side, facecolor=color, edgecolor=INK, linewidth=0.6))
        page.text(x, middle + 15, label, size=SMALL, color=INK, ha="center", va="top", rotation=90 if turned else 0)
        if not turned:
            page.text(x, middle + 30, _signed(value), size=SMALL - 1, color=MUTED, ha="center", va="top")


def _words(canvas: Canvas, figure: CircuitGraph, shown: Shown, height: float, width: float) -> None:
    unit = visible_label(figure.unit) if figure.unit not in ("", "1") else "value"
    write(canvas, _SIDE, 12, f"arc: {visible_label(figure.edge_label)} · circle: {visible_label(figure.node_label)}", color=INK)
    write(
        canvas,
        _SIDE,
        height - 12,
        f"{unit}; red above: positive, blue below: negative" + (f" · drawn are {shown.cut}" if shown.cut else ""),
    )
    if np.isnan(numbers(figure.values)).any() or np.isnan(numbers(figure.edge_values)).any():
        missing_key(canvas, width - 130, height - 30)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_number(float(f"{value:.2g}"))
