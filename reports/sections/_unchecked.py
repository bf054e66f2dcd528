"""What was not checked? Gates that could not be tried, and analyses that this run left out or has not finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.result import Result
from reports.sections._gate_rows import gate_rows
from reports.sections._status import UNCHECKED


@dataclass(frozen=True, kw_only=True)
class Open:
    """Something that nobody looked at: its name, the reason, and the id where more is said (empty: nowhere)."""

    name: str
    reason: str
    target: str = ""


def unchecked(run: Mapping[str, Any], results: Sequence[Result]) -> list[Open]:
    """Everything that was not checked. `run["known"]` names all analyses that there are, name → title; those without a result were not run."""
    open_ = [
        Open(name=f"{row.title}: {row.gate}", reason=row.compared, target="gates") for row in gate_rows(results) if row.status == UNCHECKED
    ]
    done, chosen = {result.analysis for result in results}, set(run.get("analyses", ()))
    known = run.get("known") or {}
    open_ += [Open(name=str(known.get(name, name)), reason="not finished") for name in run.get("missing", ())]
    return open_ + [Open(name=str(title), reason="not part of this run") for name, title in known.items() if name not in done | chosen]
