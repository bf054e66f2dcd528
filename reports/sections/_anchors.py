"""Where on the page is a result? At an id that is made of letters, digits and hyphens, and belongs to it alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.result import Result


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
