"""How is text with a number per token shown? Running boxes in the colour of their number, a line break where the text has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure as Canvas
from matplotlib.patches import Rectangle

from reports.drawing.canvas import FONT, INK, SMALL, Picture, axes, nothing_to_draw, numbers, text_width, write
from reports.drawing.scale import Scale, color_bar, ink_on, missing_key, scale_of
from reports.figures import TokenMap
from reports.text import shortened, visible_label, visible_token, with_minus

_WIDTH, _LINE, _BOX, _PAD, _BAR = 760, 25, 20, 4, 54
_MOST_TOKENS, _LONGEST = 400, 24


@dataclass(frozen=True)
class _Box:
    """A token's place in CSS pixels from the top left, its text and its number."""

    left: float
    top: float
    width: float
    text: str
    value: float


def picture(figure: TokenMap) -> Picture:
    """The text. Of a row longer than 400 tokens the first 400 are drawn, and the picture says so."""
    everything = [numbers(values) for _, values in figure.rows.values()]
    if not everything or sum(map(len, everything)) == 0:
        return nothing_to_draw(figure, "nothing to draw: there is no token")
    scale = scale_of(np.concatenate(everything), figure.signed)
    boxes: list[_Box] = []
    headings: list[tuple[float, str]] = []
    top = float(_BAR if scale is not None else 28)
    for (name, (tokens, _)), values in zip(figure.rows.items(), everything, strict=True):
        cut = f" · the first {_MOST_TOKENS} of {len(tokens)} tokens" if len(tokens) > _MOST_TOKENS else ""
        note = f" · {figure.notes[name]}" if figure.notes.get(name) else ""
        if visible_label(name).strip() or cut or note:
            headings.append((top + 9, shortened(with_minus(visible_label(name + note)), 120) + cut))
            top += 22
        top = _flow(tokens[:_MOST_TOKENS], values[:_MOST_TOKENS], top, boxes) + 12
    return Picture(figure, _WIDTH, round(top), lambda canvas: _paint(canvas, figure, scale, boxes, headings, round(top)))


def _flow(tokens: Sequence[str], values: np.ndarray, top: float, boxes: list[_Box]) -> float:
    """Put the tokens into lines from `top` on and return where they end."""
    left = 0.0
    for token, value in zip(tokens, values, strict=True):
        text = shortened(visible_token(str(token)), _LONGEST)
        width = text_width(text, FONT) + 2 * _PAD
        if left and left + width > _WIDTH:
            left, top = 0.0, top + _LINE
        boxes.append(_Box(left, top, width, text, float(value)))
        left += width + 2
        if str(token).endswith("\n"):
            left, top = 0.0, top + _LINE
    return top + (_LINE if left else 0)


def _paint(canvas: Canvas, figure: TokenMap, scale: Scale | None, boxes: list[_Box], headings: list[tuple[float, str]], height: int) -> None:
    shown = scale or Scale(low=0, high=1, signed=figure.signed, missing=True)
    page = axes(canvas, 0, 0, _WIDTH, height)
    page.set(xlim=(0, _WIDTH), ylim=(height, 0))
    page.set_axis_off()
    values = np.array([box.value for box in boxes])
    rectangles = [Rectangle((box.left, box.top), box.width, _BOX) for box in boxes]
    patches = PatchCollection(rectangles, edgecolors="none", cmap=shown.colors, norm=shown.norm)
    patches.set_array(shown.shown(values))
    page.add_collection(patches)
    for box, ink in zip(boxes, ink_on(shown(values)), strict=True):
        page.text(box.left + box.width / 2, box.top + _BOX / 2 + 0.5, box.text, size=FONT, family="monospace", color=ink, ha="center", va="center")
    for top, heading in headings:
        write(canvas, 0, top, heading, size=SMALL, color=INK)
    if scale is not None:
        color_bar(canvas, scale, figure.unit, 22, 6, 240, upright=False, of=patches)
    if shown.missing:
        missing_key(canvas, _WIDTH - 120, 12)
