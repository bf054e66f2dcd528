"""Does a saved run still hold? Run it again and compare every table with what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from analyses._provenance import provenance
from analyses._runs import Mistake, Request, load, mistakes
from reports import Provenance, Result, StoreError, Table, load_result, load_run

RELATIVE, ABSOLUTE = 1e-5, 1e-6


@dataclass(frozen=True)
class Comparison:
    """How one table of the run compares with the same table now."""

    analysis: str
    table: str
    outcome: Literal["exact", "within tolerance", "differs", "measured"]
    detail: str

    def __str__(self) -> str:
        return f"{self.analysis}/{self.table}: {self.outcome}{f' ({self.detail})' if self.detail else ''}"


def verify(folder: Path) -> tuple[list[Comparison], list[str]]:
    """Every table compared, and what else differs (versions, weights, corpus, verdicts).

    Raises Mistake for a folder that holds no run, a run that is not complete, and whatever running it again refuses.
    """
    with mistakes(StoreError, OSError):
        run = load_run(folder)
        saved = [load_result(folder / name) for name in run["analyses"] if (folder / name / "result.json").is_file()]
    if run["state"] != "complete":
        raise Mistake(f"{folder} is incomplete; run its command again first: {run['provenance']['command']}")
    with mistakes(TypeError):
        request = Request(**run["parameters"])
    model, corpus = load(request)
    now = provenance(model, corpus, seed=run["provenance"]["seed"])
    notes = list(_changed(run["provenance"], now))
    compared: list[Comparison] = []
    for analysis, old in zip(request.built(), saved, strict=True):
        new = analysis.run(model, corpus, provenance_of=now)
        compared += list(_compare(old, new))
        if (old.verdict.status, old.verdict.claim) != (new.verdict.status, new.verdict.claim):
            notes.append(f"verdict of {old.analysis}: {old.verdict.status}, now {new.verdict.status} ({new.verdict.claim})")
    return compared, notes


def _changed(before: Mapping[str, Any], now: Provenance) -> Iterator[str]:
    current = {f.name: getattr(now, f.name) for f in dataclasses.fields(Provenance)}
    for part in ("versions", "model", "corpus"):
        for key in sorted({*before[part], *current[part]}):
            if before[part].get(key) != current[part].get(key):
                yield f"{part} {key}: {before[part].get(key)}, now {current[part].get(key)}"
    for key in ("git_commit", "dtype", "device", "threads", "platform"):
        if before[key] != current[key]:
            yield f"{key}: {before[key]}, now {current[key]}"


def _compare(old: Result, new: Result) -> Iterator[Comparison]:
    for name in sorted({*old.tables, *new.tables}):
        if name not in new.tables or name not in old.tables:
            yield Comparison(old.analysis, name, "differs", "only in the saved run" if name in old.tables else "only in the new run")
        elif old.tables[name].measurement:
            yield Comparison(old.analysis, name, "measured", _ratios(old.tables[name], new.tables[name]))
        else:
            yield compare_frames(old.analysis, name, old.tables[name].frame, new.tables[name].frame)


def compare_frames(analysis: str, name: str, old: pd.DataFrame, new: pd.DataFrame) -> Comparison:
    """Two frames: exact, within tolerance with the largest difference, or different and where.

    >>> a = pd.DataFrame({"x": [1.0, float("nan")]})
    >>> compare_frames("a", "t", a, a.copy()).outcome, compare_frames("a", "t", a, a + 1e-9).outcome, compare_frames("a", "t", a, a + 1).outcome
    ('exact', 'within tolerance', 'differs')
    """
    if list(old.columns) != list(new.columns) or len(old) != len(new):
        return Comparison(analysis, name, "differs", f"{len(old)} rows of {len(old.columns)} columns, now {len(new)} of {len(new.columns)}")
    worst, where = 0.0, ""
    for column in old.columns:
        a, b = old[column], new[column]
        if pd.api.types.is_float_dtype(a) and pd.api.types.is_numeric_dtype(b):
            x, y = a.to_numpy(float, na_value=np.nan), b.to_numpy(float, na_value=np.nan)
            same = (x == y) | (np.isnan(x) & np.isnan(y))
            close = same | (np.abs(x - y) <= ABSOLUTE + RELATIVE * np.nanmax(np.abs(x), initial=0.0))
            if not close.all():
                row = int(np.flatnonzero(~close)[0])
                return Comparison(analysis, name, "differs", f"{column}, row {row}: {x[row]:.6g}, now {y[row]:.6g}")
            gap = float(np.max(np.abs(x - y), where=~same, initial=0.0))
            if gap > worst:
                worst, where = gap, column
        elif not (a.isna() == b.isna()).all() or not (a.dropna().astype(str).to_numpy() == b.dropna().astype(str).to_numpy()).all():
            return Comparison(analysis, name, "differs", f"column {column}")
    return Comparison(analysis, name, "within tolerance", f"largest difference {worst:.2g} in {where}") if worst else Comparison(analysis, name, "exact", "")


def _ratios(old: Table, new: Table) -> str:
    """Measurements differ from run to run: their median ratios, for the reader, never for the decision."""
    found = []
    for column in old.frame.columns:
        if column in new.frame and pd.api.types.is_float_dtype(old.frame[column]) and len(old.frame) == len(new.frame):
            ratio = (new.frame[column] / old.frame[column]).replace([np.inf, -np.inf], np.nan).median()
            found.append(f"{column} × {ratio:.2f}")
    return "now against then: " + ", ".join(found) if found else ""
