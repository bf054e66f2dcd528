"""How does a picture leave the house? The same painting as SVG, PNG, PDF, or a Matplotlib figure that its reader goes on with.

matplotlib's object interface is used inside its own settings context, so that neither a user's `matplotlibrc` nor `pyplot` matters,
and neither is changed. In SVG text stays text: the reader's own fonts know scripts that matplotlib's font does not, and the picture
stays small and searchable. No output holds a date or a version: the same figure gives the same bytes.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from html import escape
from importlib.resources import as_file, files
from typing import Any, Literal

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import fontManager
from matplotlib.text import Text

from reports.drawing.bitmap import bitmaps
from reports.drawing.canvas import INK, MUTED, PIXELS_PER_INCH, RULE, Picture
from reports.drawing.compact import compact
from reports.figures import Figure
from reports.text import visible_text

Background = Literal["white", "transparent"]

_IN_THE_DARK = {INK: "#e6e8eb", MUTED: "#a3adb8", RULE: "#3d4550"}
_SANS = "system-ui, -apple-system, 'Segoe UI', 'Liberation Sans', 'Noto Sans', sans-serif"
_OTHER_SCRIPTS = ("Noto Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Thai",
                  "Noto Emoji", "Arial Unicode MS", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic")
_TITLE_SIZE, _TITLE_LINE = 13.0, 18.0


def as_svg(picture: Picture, *, background: Background = "transparent", follow_dark: bool = True) -> str:
    """The SVG document. With `follow_dark` its ink is light for a reader whose system is dark."""
    with _settings():
        canvas = _painted(picture, FigureCanvasSVG)
        grids = bitmaps(canvas)
        drawn = _saved(canvas, "svg", dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True).decode("utf-8")
    paper = '<rect width="100%" height="100%" style="fill: #ffffff"/>' if background == "white" else ""
    return _finished(drawn, paper + grids, picture, follow_dark)


def as_png(picture: Picture, *, background: Background = "white", dpi: int = 200) -> bytes:
    """The PNG file; title and description stand in its metadata."""
    metadata = {"Software": None, "Title": visible_text(picture.figure.title), "Description": visible_text(picture.figure.alt)}
    with _settings():
        return _saved(_find_glyphs(_painted(picture, FigureCanvasAgg)), "png", metadata, transparent=background == "transparent", dpi=dpi)


def as_pdf(picture: Picture, *, background: Background = "white") -> bytes:
    """The PDF file, its text as text; title and description stand in its metadata."""
    words = {"Title": visible_text(picture.figure.title), "Subject": visible_text(picture.figure.alt)}
    metadata = {**dict.fromkeys(("CreationDate", "Creator", "Producer")), **words}
    with _settings():
        return _saved(_find_glyphs(_painted(picture, FigureCanvasPdf)), "pdf", metadata, transparent=background == "transparent")


def as_matplotlib(picture: Picture, *, title: bool = True) -> Canvas:
    """A Matplotlib figure of its own, dark on white, with the title above; `pyplot` does not know of it."""
    with _settings():
        canvas = _painted(picture, FigureCanvasAgg)
        canvas.set_dpi(100)
        FigureCanvasAgg(canvas)  # anew, for the first one remembers its own resolution and would save with it
        if title:
            _entitle(canvas, picture.figure)
        _find_glyphs(canvas)
        canvas.draw_without_rendering()  # ticks are made when they are first drawn, with the settings of that moment
    return canvas


@cache
def style() -> Mapping[str, Any]:
    """The settings of the style sheet, `reports/prosect.mplstyle`."""
    with as_file(files("reports") / "prosect.mplstyle") as path:
        return dict(matplotlib.rc_params_from_file(path, use_default_template=False))


@contextmanager
def _settings() -> Iterator[None]:
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that the reader's fonts draw, axes that hold a single point
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(style())
        yield


def _painted(picture: Picture, backend: type) -> Canvas:
    canvas = Canvas(figsize=(picture.width / PIXELS_PER_INCH, picture.height / PIXELS_PER_INCH), dpi=PIXELS_PER_INCH)
    backend(canvas)
    picture.paint(canvas)
    return canvas


def _saved(canvas: Canvas, form: str, metadata: Mapping[str, str | None], *, transparent: bool, dpi: int = PIXELS_PER_INCH) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=form, metadata=metadata, transparent=transparent, dpi=dpi)
    return buffer.getvalue()


def _find_glyphs(canvas: Canvas) -> Canvas:
    """Let the machine's other fonts write what matplotlib's own cannot; in SVG the reader's fonts do that."""
    installed = {font.name for font in fontManager.ttflist}
    others = [name for name in _OTHER_SCRIPTS if name in installed]
    for text in canvas.findobj(Text) if others else ():
        text.set_family([*text.get_family(), *others])
    return canvas


def _entitle(canvas: Canvas, figure: Figure) -> None:
    """Put the title above everything: the figure grows by its lines, what is there keeps its size."""
    width, height = canvas.get_size_inches()
    lines = textwrap.wrap(visible_text(figure.title), max(20, int(width * PIXELS_PER_INCH / (0.6 * _TITLE_SIZE))))
    taller = height + (12 + _TITLE_LINE * len(lines)) / PIXELS_PER_INCH
    canvas.set_size_inches(width, taller)
    for panel in canvas.axes:
        left, bottom, across, up = panel.get_position().bounds
        panel.set_position((left, bottom * height / taller, across, up * height / taller))
    for text in canvas.texts:
        text.set_y(text.get_position()[1] * height / taller)
    canvas.suptitle("\n".join(lines), x=8 / (width * PIXELS_PER_INCH), y=1 - 8 / (taller * PIXELS_PER_INCH),
                    ha="left", va="top", size=_TITLE_SIZE, weight="bold", color=INK)


def _finished(drawn: str, behind: str, picture: Picture, follow_dark: bool) -> str:
    """Without prologue, with bitmaps, title, description and dark style. Text is escaped, so `<text` can only be a tag."""
    figure = picture.figure
    body = drawn[drawn.index("<svg "):]
    body = re.sub(r'(<text style="[^"]*?)font-family: ([^;"]*); ?', lambda m: m[1] + ("font-family: monospace; " if "Mono" in m[2] else ""), body)
    body = re.sub(r'(<text [^>]*?) transform="rotate\(-0 [^"]*"', r"\1", body)
    body = body.replace('<g id="figure_1">', '<g id="figure_1">' + behind, 1)
    size = f'width="{picture.width:g}" height="{picture.height:g}"'
    body = re.sub(r'^<svg ([^>]*?)width="[^"]*" height="[^"]*"', rf'<svg \1{size} role="img"', body, count=1)
    dark = "".join(f'[style*="{p}: {light}"]{{{p}:{night} !important}}' for light, night in _IN_THE_DARK.items() for p in ("fill", "stroke"))
    words = f"<title>{escape(visible_text(figure.title))}</title><desc>{escape(visible_text(figure.alt))}</desc>"
    query = f"@media (prefers-color-scheme: dark){{{dark}}}" if follow_dark else ""
    sheet = f"<style>text{{font-family:{_SANS}}}{query}</style>"
    end = body.index(">") + 1
    whole = body[:end] + words + sheet + body[end:]
    return compact(whole) if follow_dark else whole  # what follows a reader is on a page; what does not is a file that people edit
