"""Where does each query look? One small map per head, queries downwards, keys to the right, all on one colour scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.image import AxesImage

from reports.attention_bytes import pooled
from reports.drawing.canvas import INK, MUTED, RULE, SMALL, Picture, axes, every, nothing_to_draw, numbers, text_width, write
from reports.drawing.scale import Scale, color_bar, grey_key, missing_key, scale_of, shade
from reports.figures import AttentionMap
from reports.text import shortened, visible_label, visible_token, with_minus

_WIDTH, _BESIDE, _MOST_HEADS, _MOST_LABELS = 940, 104, 48, 40
_TOKEN, _HEAD_LINE = 9.5, 34
_MOST_BLOCKS, _FEWER_BLOCKS = 96, 48
"""along the side of a panel"""


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
    causal: bool

    @property
    def width(self) -> float:
        return self.label_y + self.columns * (self.side_x + 14) + _BESIDE

    @property
    def height(self) -> float:
        return self.rows * (_HEAD_LINE + self.side_y + self.label_x + 10)


def picture(figure: AttentionMap) -> Picture:
    """The heads, tokens at the sides up to 40 of them, positions above; the flagged ones where more than 8 are known, at most 48.

    The picture says which were left out. Of long texts, neighbouring tokens stand together: it is what a paper can show.
    """
    known = _known(figure)
    heads = _drawn(figure, known)
    values = [numbers(pooled(known[head], _MOST_BLOCKS if len(heads) <= 8 else _FEWER_BLOCKS)) for head in heads]
    if not heads or values[0].size == 0:
        return nothing_to_draw(figure, f"nothing to draw: {len(heads)} heads, {len(figure.queries)} queries × {len(figure.keys)} keys")
    everything = np.concatenate([v.reshape(-1) for v in values])
    finite = everything[np.isfinite(everything)]
    signed = bool(finite.size and finite.min() < 0)
    high = None if signed or not finite.size else max(1.0, float(finite.max()))
    scale = scale_of(everything, signed, low=None if signed else 0.0, high=high, root=not signed)
    grid = _grid(figure, len(heads))
    cut = f"{len(heads)} of {len(known)} heads are drawn" if len(known) > len(heads) else ""
    height = round(grid.height + (18 if cut else 0))

    def paint(canvas: Canvas) -> None:
        shown = scale or Scale(low=0, high=1, signed=False, missing=True)
        maps = [_panel(canvas, figure, grid, i, head, pattern, shown) for i, (head, pattern) in enumerate(zip(heads, values, strict=True))]
        beside = grid.width - _BESIDE + 12
        length = min(240.0, grid.side_y)
        if scale is not None:
            color_bar(canvas, scale, figure.unit, beside, _HEAD_LINE, length, upright=True, of=maps[0])
        if shown.missing:
            missing_key(canvas, beside - 6, _HEAD_LINE + length + 18)
        if grid.causal:
            grey_key(canvas, beside - 6, _HEAD_LINE + length + (36 if shown.missing else 18), "masked", RULE)
        if cut:
            write(canvas, 8, height - 9, cut)

    return Picture(figure, round(grid.width), height, paint)


def is_causal(figure: AttentionMap) -> bool:
    """Is there nothing above the diagonal, so that a mask hides it?"""
    if figure.sees or figure.thumbnails is not None or len(figure.queries) != len(figure.keys):
        return figure.sees == "causal"
    return not any(np.triu(np.where(np.isnan(pattern), 1, pattern), 1).any() for pattern in figure.patterns.values())


def _known(figure: AttentionMap) -> Mapping[str, np.ndarray]:
    """The patterns, or where there are none the thumbnails."""
    if figure.patterns or figure.thumbnails is None:
        return figure.patterns
    return {f"L{i}H{j}": figure.thumbnails[i, j] for i, j in np.ndindex(*np.shape(figure.thumbnails)[:2])}


def _drawn(figure: AttentionMap, known: Mapping[str, np.ndarray]) -> list[str]:
    """The heads to draw."""
    flagged = [head for head in known if head in figure.notes]
    return (flagged if flagged and len(known) > 8 else list(known))[:_MOST_HEADS]


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
    return _Grid(columns, rows, side_x, side_y, label_x, label_y, named, is_causal(figure))


def _token(token: str) -> str:
    return shortened(visible_token(str(token)), 14)


def _panel(canvas: Canvas, figure: AttentionMap, grid: _Grid, i: int, head: str, pattern: np.ndarray, scale: Scale) -> AxesImage:
    row, column = divmod(i, grid.columns)
    left = grid.label_y + column * (grid.side_x + 14)
    top = row * (_HEAD_LINE + grid.side_y + grid.label_x + 10) + _HEAD_LINE
    fitting = max(6, int(grid.side_x / (0.56 * SMALL)))
    write(canvas, left, top - 23, shortened(visible_label(head), fitting), color=INK, weight="bold")
    write(canvas, left, top - 9, shortened(with_minus(visible_label(figure.notes.get(head, ""))), fitting), size=SMALL - 1)
    panel = axes(canvas, left, top, grid.side_x, grid.side_y)
    image = shade(panel, pattern, scale, hidden=np.triu(np.ones(pattern.shape, dtype=bool), 1) if grid.causal else None)
    image.set_extent((-0.5, len(figure.keys) - 0.5, len(figure.queries) - 0.5, -0.5))  # of blocks of tokens, too
    panel.spines[:].set(visible=True, linewidth=0.5)
    panel.tick_params(length=0 if grid.named else 2, labelsize=_TOKEN)
    _ticks(panel, "x", figure.keys, grid, grid.side_x)
    panel.set_xlabel("key", size=SMALL - 1, color=MUTED, labelpad=2)
    if column:
        panel.set_yticks([])
    else:
        _ticks(panel, "y", figure.queries, grid, grid.side_y)
        panel.set_ylabel("query", size=SMALL - 1, color=MUTED, labelpad=2)
    return image


def _ticks(panel: Axes, side: str, tokens, grid: _Grid, pixels: float) -> None:
    set_ticks = getattr(panel, f"set_{side}ticks")
    turned = {"rotation": 90} if side == "x" and grid.named else {}
    if grid.named:
        set_ticks(range(len(tokens)), [_token(t) for t in tokens], family="monospace", **turned)
    else:
        some = every(len(tokens), pixels, 34)
        set_ticks(list(some), [str(i) for i in some])
