"""What do all pictures share? One size unit (CSS pixels), one ink that follows dark mode, one way to become SVG bytes.

matplotlib's object interface is used inside its own settings context, so that neither a user's `matplotlibrc` nor `pyplot` matters.
Text stays text: the reader's own fonts know scripts that matplotlib's font does not, and the picture stays small and searchable.
"""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from html import escape

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas

from reports.drawing.bitmap import bitmaps_of
from reports.figures import Figure
from reports.text import shortened, visible_label, visible_text

INK, MUTED, RULE = "#1f2328", "#57606a", "#d0d7de"
_IN_THE_DARK = {INK: "#e6e8eb", MUTED: "#a3adb8", RULE: "#3d4550"}
BLUE, RED, GREY = "#3f7fc8", "#cf5246", "#8b929b"
PALETTE = (BLUE, "#dd8a2e", "#1b9a8c", "#b5509c", "#7d6bd0", "#8f8a2d", "#5aa9d6", "#a2685a")
"""Told apart by people with any colour vision, on white and on black; lines differ in their dashes too."""

FONT, SMALL = 12.0, 10.5
_SANS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', 'Noto Sans', sans-serif"
_PIXELS_PER_INCH = 72
_STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "prosect", "text.parse_math": False, "text.usetex": False,
    "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "font.monospace": ["DejaVu Sans Mono"], "font.size": FONT,
    "text.color": INK, "axes.labelcolor": MUTED, "axes.edgecolor": MUTED, "axes.linewidth": 0.8, "axes.labelsize": FONT,
    "axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none", "axes.axisbelow": True, "grid.color": RULE,
    "xtick.color": MUTED, "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK, "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL, "xtick.major.size": 3, "ytick.major.size": 3, "legend.frameon": False, "legend.fontsize": SMALL,
    "axes.formatter.use_mathtext": False, "hatch.color": GREY,
}


def svg(figure: Figure, width: float, height: float, paint: Callable[[Canvas], None]) -> str:
    """The SVG document, `width` × `height` CSS pixels, that `paint` fills."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the reader's fonts draw, axes that hold a single point
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        canvas = Canvas(figsize=(width / _PIXELS_PER_INCH, height / _PIXELS_PER_INCH), dpi=_PIXELS_PER_INCH)
        FigureCanvasSVG(canvas)
        paint(canvas)
        buffer = io.BytesIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.savefig(buffer, format="svg", metadata=no_metadata, transparent=True)
    return _finished(buffer.getvalue().decode("utf-8"), "".join(bitmaps_of(canvas)), figure, width, height)


def _finished(drawn: str, bitmaps: str, figure: Figure, width: float, height: float) -> str:
    """Without prologue, with bitmaps, title, description and dark style. Text is escaped, so `<text` can only be a tag."""
    body = drawn[drawn.index("<svg "):]
    body = re.sub(r'(<text style="[^"]*?)font-family: ([^;"]*); ?', lambda m: m[1] + ("font-family: monospace; " if "Mono" in m[2] else ""), body)
    body = re.sub(r'(<text [^>]*?) transform="rotate\(-0 [^"]*"', r"\1", body)
    body = body.replace('<g id="figure_1">', '<g id="figure_1">' + bitmaps, 1)
    body = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', rf'<svg \1width="{width:g}" height="{height:g}" role="img"', body, count=1)
    dark = "".join(f'[style*="{p}: {light}"]{{{p}:{night} !important}}' for light, night in _IN_THE_DARK.items() for p in ("fill", "stroke"))
    words = f"<title>{escape(visible_text(figure.title))}</title><desc>{escape(visible_text(figure.alt))}</desc>"
    style = f"<style>text{{font-family:{_SANS}}}@media (prefers-color-scheme: dark){{{dark}}}</style>"
    end = body.index(">") + 1
    return body[:end] + words + style + body[end:]


def axes(canvas: Canvas, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place given in CSS pixels from the top left corner."""
    all_width, all_height = canvas.get_size_inches() * _PIXELS_PER_INCH
    return canvas.add_axes((left / all_width, 1 - (top + height) / all_height, width / all_width, height / all_height))


def write(canvas: Canvas, left: float, top: float, text: str, *, size: float = SMALL, color: str = MUTED, **kinds: str) -> None:
    """One line of text whose middle line is at `top` CSS pixels."""
    all_width, all_height = canvas.get_size_inches() * _PIXELS_PER_INCH
    canvas.text(left / all_width, 1 - top / all_height, text, size=size, color=color, **{"va": "center", "ha": "left", **kinds})


def numbers(values: object) -> np.ndarray:
    """The values as Float[...] that matplotlib can lay out: beyond 1e100 is infinity, within 1e-100 of zero is zero.

    >>> numbers([1.5, 1e300, 1e-300, float("nan")])
    array([1.5, inf, 0. , nan])
    """
    floats = np.asarray(values, dtype=float)
    size = np.abs(floats)
    return np.where(size < 1e-100, 0.0, np.where(size > 1e100, np.copysign(np.inf, floats), floats))


def nothing_to_draw(figure: Figure, why: str) -> str:
    """A picture that says that there is nothing to see."""
    width, height = 420, 90
    return svg(figure, width, height, lambda canvas: write(canvas, width / 2, height / 2, why, size=FONT, ha="center"))


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
