"""What do all pictures share? One size unit (CSS pixels), one ink, places for axes and text, and labels that fit."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from reports.figures import Figure
from reports.text import shortened, visible_label

INK, MUTED, RULE = "#1f2328", "#57606a", "#d0d7de"
"""The style sheet names the same three; SVG replaces them for a dark reader."""
BLUE, RED, GREY = "#3f7fc8", "#cf5246", "#8b929b"
PALETTE = (BLUE, "#dd8a2e", "#1b9a8c", "#b5509c", "#7d6bd0", "#8f8a2d", "#5aa9d6", "#a2685a")
"""Told apart by people with any colour vision, on white and on black; lines differ in their dashes too."""

FONT, SMALL = 12.0, 10.5
PIXELS_PER_INCH = 72


@dataclass(frozen=True)
class Picture:
    """A figure that is laid out but not painted: `width` × `height` CSS pixels, and what paints a Matplotlib figure of that size."""

    figure: Figure
    width: float
    height: float
    paint: Callable[[Canvas], None]


def axes(canvas: Canvas, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in CSS pixels from the top left corner."""
    all_width, all_height = canvas.get_size_inches() * PIXELS_PER_INCH
    return canvas.add_axes((left / all_width, 1 - (top + height) / all_height, width / all_width, height / all_height))


def write(canvas: Canvas, left: float, top: float, text: str, *, size: float = SMALL, color: str = MUTED, **kinds: str) -> None:
    """One line of text whose middle line is at `top` CSS pixels."""
    all_width, all_height = canvas.get_size_inches() * PIXELS_PER_INCH
    canvas.text(left / all_width, 1 - top / all_height, text, size=size, color=color, **{"va": "center", "ha": "left", **kinds})


def numbers(values: object) -> np.ndarray:
    """The values as Float[...] that matplotlib can lay out: beyond 1e100 is infinity, within 1e-100 of zero is zero.

    >>> numbers([1.5, 1e300, 1e-300, float("nan")])
    array([1.5, inf, 0. , nan])
    """
    floats = np.asarray(values, dtype=float)
    size = np.abs(floats)
    return np.where(size < 1e-100, 0.0, np.where(size > 1e100, np.copysign(np.inf, floats), floats))


def nothing_to_draw(figure: Figure, why: str) -> Picture:
    """A picture that says that there is nothing to see."""
    width, height = 420, 90
    return Picture(figure, width, height, lambda canvas: write(canvas, width / 2, height / 2, why, size=FONT, ha="center"))


def text_width(text: str, size: float = SMALL) -> float:
    """About how many CSS pixels a line of text takes, without asking a font: the reader's font is not known here."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" or ord(c) > 0x1F000 for c in text)
    narrow = sum(not unicodedata.combining(c) for c in text) - wide
    return size * (0.6 * narrow + 1.05 * wide)


def labels_of(texts: Sequence[object], limit: int = 24) -> list[str]:
    """Labels as they are drawn: visible, on one line, at most `limit` characters."""
    return [shortened(visible_label(str(text)), limit) for text in texts]


def every(count: int, pixels: float, needed: float) -> range:
    """The indices of the labels that fit, evenly spaced, the first among them."""
    step = max(1, -(-int(needed * count) // max(1, int(pixels))))
    return range(0, count, step)
