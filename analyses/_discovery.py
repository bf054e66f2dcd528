"""Which analyses are there? Every file of this folder that does not begin with _ and exports ANALYSIS."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from analyses._contract import Analysis


@cache
def analyses() -> dict[str, type[Analysis]]:
    """Every analysis by its name, in the order in which a report shows them."""
    found = {}
    for info in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda info: info.name):
        if not info.name.startswith("_") and not info.ispkg:
            analysis = import_module(f"analyses.{info.name}").ANALYSIS
            found[analysis.name] = analysis
    return dict(sorted(found.items(), key=lambda item: (item[1].order, item[0])))


def analysis_named(name: str) -> type[Analysis]:
    """The analysis of that name. Raises ValueError that names the nearest for one that does not exist."""
    known = analyses()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"unknown analysis {name!r}: there are {', '.join(known)}{hint}")
    return known[name]
