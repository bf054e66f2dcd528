"""Which statistics are there? Every file of this folder that does not begin with _ and exports STATISTIC."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from probes.statistics._contract import Statistic


@cache
def statistics() -> dict[str, type[Statistic]]:
    """Every online statistic by the name of its class, in the order of the file names."""
    found = {}
    for info in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda info: info.name):
        if not info.name.startswith("_"):
            kind = getattr(import_module(f"probes.statistics.{info.name}"), "STATISTIC", None)
            if kind is not None:
                found[kind.__name__] = kind
    return found
