"""Where does each query look? One small map per head, queries downwards, keys to the right, all on one colour scale."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reports.drawing.bitmap import bitmap, condensed
from reports.drawing.canvas import INK, MUTED, SMALL, axes, every, nothing_to_draw, numbers, svg, text_width, write
from reports.drawing.scale import Scale, color_bar, missing_key, scale_of
from reports.figures import AttentionMap
from reports.text import shortened, visible_label, visible_token

_WIDTH, _BESIDE, _MOST_HEADS, _MOST_LABELS = 940, 96, 48, 40
_TOKEN, _HEAD_LINE = 9.5, 34


@dataclass(frozen=True)
class _Grid:
    """Panels of `side_x` × `side_y` CSS pixels, `columns` beside each other, with room for token labels."""

    columns: int
    rows: int
    side_x: float
    side_y: float
    label_x: float
    label_y: float
    named: bool

    @property
    def width(self) -> float:
        return self.label_y + self.columns * (self.side_x + 14) + _BESIDE

    @property
    def height(self) -> float:
        return self.rows * (_HEAD_LINE + self.side_y + self.label_x + 10)


def picture(figure: AttentionMap) -> str:
    """The heads as SVG, tokens at the sides up to 40 of them, positions above; at most 48 heads, and the picture says so."""
    heads = list(figure.patterns)[:_MOST_HEADS]
    values = [numbers(figure.patterns[head]) for head in heads]
    if not heads or values[0].size == 0:
        return nothing_to_draw(figure, f"nothing to draw: {len(heads)} heads, {len(figure.queries)} queries × {len(figure.keys)} keys")
    everything = np.concatenate([v.reshape(-1) for v in values])
    finite = everything[np.isfinite(everything)]
    signed = bool(finite.size and finite.min() < 0)
    high = None if signed or not finite.size else max(1.0, float(finite.max()))
    scale = scale_of(everything, signed, low=None if signed else 0.0, high=high, root=not signed)
    grid = _grid(figure, len(heads))
    cut = f"{len(heads)} of {len(figure.patterns)} heads are drawn" if len(figure.patterns) > len(heads) else ""
    height = round(grid.height + (18 if cut else 0))

    def paint(canvas: Canvas) -> None:
        shown = scale or Scale(low=0, high=1, signed=False, missing=True)
        for i, (head, pattern) in enumerate(zip(heads, values, strict=True)):
            _panel(canvas, figure, grid, i, head, shown(condensed(pattern, grid.side_x, grid.side_y)))
        beside = grid.width - _BESIDE + 12
        length = min(240.0, grid.side_y)
        if scale is not None:
            color_bar(canvas, scale, figure.unit, beside, _HEAD_LINE, length, upright=True)
        if shown.missing:
            missing_key(canvas, beside - 6, _HEAD_LINE + length + 18)
        if cut:
            write(canvas, 8, height - 9, cut)

    return svg(figure, round(grid.width), height, paint)


def _grid(figure: AttentionMap, heads: int) -> _Grid:
    queries, keys = len(figure.queries), len(figure.keys)
    named = max(queries, keys) <= _MOST_LABELS
    label_x = 22 + (max(text_width(_token(t), _TOKEN) for t in figure.keys) if named else 14)
    label_y = 24 + (max(text_width(_token(t), _TOKEN) for t in figure.queries) if named else 22)
    smallest = 150.0 if heads > 4 else 240.0 if heads > 1 else 320.0
    cell = max(smallest / max(queries, keys), _TOKEN + 2.5 if named else 0.0)
    side_x, side_y = max(cell * keys, 40.0), max(cell * queries, 40.0)
    columns = max(1, min(heads, int((_WIDTH - label_y - _BESIDE) // (side_x + 14))))
    rows = -(-heads // columns)
    return _Grid(columns, rows, side_x, side_y, label_x, label_y, named)


def _token(token: str) -> str:
    return shortened(visible_token(str(token)), 14)


def _panel(canvas: Canvas, figure: AttentionMap, grid: _Grid, i: int, head: str, colors: np.ndarray) -> None:
    row, column = divmod(i, grid.columns)
    left = grid.label_y + column * (grid.side_x + 14)
    top = row * (_HEAD_LINE + grid.side_y + grid.label_x + 10) + _HEAD_LINE
    fitting = max(6, int(grid.side_x / (0.56 * SMALL)))
    write(canvas, left, top - 23, shortened(visible_label(head), fitting), color=INK, weight="bold")
    write(canvas, left, top - 9, shortened(visible_label(figure.notes.get(head, "")), fitting), size=SMALL - 1)
    panel = axes(canvas, left, top, grid.side_x, grid.side_y)
    bitmap(canvas, left, top, grid.side_x, grid.side_y, colors)
    panel.set(xlim=(-0.5, len(figure.keys) - 0.5), ylim=(len(figure.queries) - 0.5, -0.5))
    panel.spines[:].set(visible=True, linewidth=0.5)
    panel.tick_params(length=0 if grid.named else 2, labelsize=_TOKEN)
    _ticks(panel, "x", figure.keys, grid, grid.side_x)
    panel.set_xlabel("key", size=SMALL - 1, color=MUTED, labelpad=2)
    if column:
        panel.set_yticks([])
    else:
        _ticks(panel, "y", figure.queries, grid, grid.side_y)
        panel.set_ylabel("query", size=SMALL - 1, color=MUTED, labelpad=2)


def _ticks(panel: Axes, side: str, tokens, grid: _Grid, pixels: float) -> None:
    set_ticks = getattr(panel, f"set_{side}ticks")
    turned = {"rotation": 90} if side == "x" and grid.named else {}
    if grid.named:
        set_ticks(range(len(tokens)), [_token(t) for t in tokens], family="monospace", **turned)
    else:
        some = every(len(tokens), pixels, 34)
        set_ticks(list(some), [str(i) for i in some])
