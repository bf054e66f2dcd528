"""Where on the page is a result, and each of its figures? At an id that is made of letters, digits and hyphens, and belongs to it alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.figures import Figure
from reports.result import Evidence, Result


def anchors(results: Sequence[Result]) -> list[str]:
    """One id per result, in order.

    >>> from types import SimpleNamespace as Named
    >>> anchors([Named(analysis="head-ablation"), Named(analysis="Head ablation!"), Named(analysis="…")])
    ['analysis-head-ablation', 'analysis-head-ablation-2', 'analysis-3']
    """
    ids: list[str] = []
    for number, result in enumerate(results, 1):
        slug = "-".join(["analysis", *re.findall(r"[a-z0-9]+", result.analysis.lower())])
        ids.append(slug if slug not in ids and slug != "analysis" else f"{slug}-{number}")
    return ids


def figure_anchor(anchor: str, figure: Figure) -> str:
    """The id of a figure of the result at `anchor`; two hyphens, which no other id has."""
    return f"{anchor}--{figure.name}"


def place_of(evidence: Evidence, result: Result, anchor: str) -> str:
    """The id that shows where a number was measured: the first figure whose title or numbers name the place, else the result itself."""
    if evidence.where.strip():
        named = re.compile(rf"(?<!\w){re.escape(evidence.where)}(?!\w)", re.IGNORECASE)
        for figure in result.figures:
            if named.search(figure.title) or named.search(figure.alt):
                return figure_anchor(anchor, figure)
    return anchor
