"""Which of the classic answers about the Transformer hold? One file per question: a claim, a prediction, a measurement, a verdict."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from analyses.studies._contract import Budget, Study
from analyses.studies._effects import Effect
from analyses.studies._verdict import Prediction, status_of, verdict_of


@cache
def studies() -> dict[int, type[Study]]:
    """Every study by the number of its question, found by listing this folder."""
    names = sorted(info.name for info in pkgutil.iter_modules([str(Path(__file__).parent)]) if not info.name.startswith("_"))
    found = [import_module(f"{__name__}.{name}").STUDY for name in names]
    return {study.number: study for study in sorted(found, key=lambda study: study.number)}


def load(which: int | str) -> Study:
    """The study of a question, by its number or its name; `load(4).run(budget="default")` gives its `Result`.

    Raises ValueError that names the nearest for one that does not exist.
    """
    known = studies()
    if str(which).isdecimal():
        if int(which) not in known:
            raise ValueError(f"there is no study {which}: there are {', '.join(map(str, known))}")
        return known[int(which)].at("default")
    names = {study.name: study for study in known.values()}
    if which not in names:
        near = difflib.get_close_matches(str(which), names, n=1)
        raise ValueError(f"there is no study {which!r}{f'; did you mean {near[0]}?' if near else '; prosect study lists them'}")
    return names[which].at("default")


__all__ = ["Budget", "Effect", "Prediction", "Study", "load", "status_of", "studies", "verdict_of"]
