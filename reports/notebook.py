"""How does a figure or a result show itself in a notebook? As a page of the report in a frame, which runs its script and nothing else."""

from __future__ import annotations

import dataclasses
from html import escape
from math import ceil
from typing import TYPE_CHECKING

from reports.figures import AttentionMap, Figure
from reports.text import visible_label

if TYPE_CHECKING:
    from reports.result import Result

LIMIT = 5_000_000
"""Bytes of a page in a notebook; a larger one is shown as far as it fits, and says so."""

_RESULT_HEIGHT, _MAP_HEIGHT, _CONTROLS, _AROUND, _LINE = 760, 900, 120, 160, 22


def figure_in_notebook(figure: Figure) -> str:
    """The figure alone: title, picture or interactive view, caption, its numbers."""
    from reports.draw import picture
    from reports.sheet import figure_page
    from reports.views import view_of

    html = figure_page(figure)
    viewed = view_of(figure) is not None
    if _size(html) > LIMIT:
        html, viewed = figure_page(figure, interactive=False, note=_note(html, "the static picture is shown")), False
    words = ceil(len(figure.caption) / 110) + ceil(len(figure.title) / 100)
    height = ceil(picture(figure).height) + _AROUND + _LINE * words
    if viewed:  # the view stands in the picture's place; a map of many heads is one grid there, and has its controls around it
        height = _MAP_HEIGHT if isinstance(figure, AttentionMap) else height + _CONTROLS
    return in_frame(html, title=figure.title, height=height)


def result_in_notebook(result: Result) -> str:
    """The report of this one result, with its verdict and what is needed to run it again."""
    from reports.page import page

    html = page([result], title=result.title)
    if _size(html) > LIMIT:
        shown = "figures and tables are left out; export_figures(result, folder) writes them"
        fewer = dataclasses.replace(result, figures=(), tables={}, notes={**result.notes, "too large for a notebook": _note(html, shown)})
        html = page([fewer], title=result.title)
    return in_frame(html, title=result.title, height=_RESULT_HEIGHT)


def in_frame(html: str, *, title: str, height: int) -> str:
    """The page as an `<iframe>` that holds it in an attribute: without requests, and without access to the notebook around it.

    >>> in_frame("1 < 2", title="a", height=80).partition(" width")[0]
    '<iframe title="a" sandbox="allow-scripts" srcdoc="1 &lt; 2"'
    """
    # "allow-scripts" alone gives the page an origin of its own: it cannot read or change the notebook
    return (f'<iframe title="{escape(visible_label(title))}" sandbox="allow-scripts" srcdoc="{escape(html)}" '
            f'width="100%" height="{height}" style="border:0;resize:vertical"></iframe>')


def _size(html: str) -> int:
    return len(html.encode("utf-8"))


def _note(html: str, shown: str) -> str:
    return f"The page of this takes {_size(html):,} bytes, a notebook is given at most {LIMIT:,}: {shown}."
