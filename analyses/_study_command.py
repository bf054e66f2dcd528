"""prosect study: which design questions are there, and what does measuring one of them say?"""

from __future__ import annotations

import sys
from pathlib import Path

import tyro

from analyses._runs import mistakes
from analyses.studies._contract import Budget


def study(which: tyro.conf.Positional[tuple[str, ...]] = (), budget: Budget = "default", seed: int = 0, out: Path | None = None, overwrite: bool = False) -> int:
    """List the design questions of the Transformer, or measure some of them; prints the verdicts and the path of the report.

    Args:
        which: numbers or names of questions, or "all" for the handbook; without one they are listed
        budget: how much is measured: smoke (seconds, shows that it runs), default (≤ 90 s each on two cores), full (the handbook)
        seed: the first of the seeds
        out: folder of the run; one that holds the same run is continued (default: runs/ and the name)
        overwrite: start anew if the folder holds another run
    """
    from analyses.studies import load, studies
    from analyses.studies._handbook import run_studies, said

    if not which:
        width = max(len(one.name) for one in studies().values())
        for number, one in studies().items():
            sys.stdout.write(f"{number:2} {one.name:{width}} {one.question}\n")
        return 0
    with mistakes(ValueError):
        chosen = list(studies().values()) if which == ("all",) else [type(load(one)) for one in which]
    name = "handbook" if which == ("all",) else "-".join(one.slug() for one in chosen[:3])
    folder = out or Path("runs") / (name if budget == "full" else f"{name}-{budget}")
    title = "The design questions of the Transformer" if which == ("all",) else "; ".join(one.question for one in chosen[:3])
    command = ["prosect", *sys.argv[1:]]
    for result in run_studies(chosen, folder, budget=budget, seed=seed, title=f"{title} ({budget})", command=command, overwrite=overwrite):
        sys.stdout.write(f"{said(result)}\n\n")
        sys.stdout.flush()
    sys.stdout.write(f"{folder / 'report.html'}\n")
    return 0
