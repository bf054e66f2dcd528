"""Which gates did the analyses pass through, and how far was each from breaking? One row per gate, of every table called `gates`.

Such a table has the columns `gate`, `measured` and `bound`, and may have `status`, `where`, `compared` and `why`. Without a
`status` its rows are the same gate at many places: the worst of them stands for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.result import Result
from reports.sections._anchors import anchors
from reports.sections._status import UNCHECKED

_PLACES = ("attention", "stack", "layer")
"""columns that say where, in a table that has no `where`"""


@dataclass(frozen=True, kw_only=True)
class GateRow:
    """A gate as the page shows it; `status` is broken, not checked or kept."""

    gate: str
    status: str
    measured: float
    bound: float
    where: str
    compared: str
    why: str
    title: str
    """of the analysis that has it"""
    anchor: str


def gate_rows(results: Sequence[Result]) -> list[GateRow]:
    """The gates of all results: broken ones first, then as they were measured."""
    rows = [row for result, anchor in zip(results, anchors(results), strict=True) for row in _of(result, anchor)]
    return sorted(rows, key=lambda row: row.status != "broken")


def has_gates(results: Sequence[Result]) -> bool:
    """Is there any gate?"""
    return any(_frame(result) is not None for result in results)


def _frame(result: Result) -> pd.DataFrame | None:
    frame = result.tables["gates"].frame if "gates" in result.tables else None
    return frame if frame is not None and len(frame) and {"gate", "measured", "bound"} <= set(frame.columns) else None


def _of(result: Result, anchor: str) -> list[GateRow]:
    frame = _frame(result)
    if frame is None:
        return []
    if "status" in frame:
        return [_row(row, result, anchor, str(row["status"])) for row in frame.to_dict("records")]
    worst = []
    for _, same in frame.groupby("gate", sort=False):
        share = same["measured"].astype(float) - same["bound"].astype(float)
        worst.append(same.loc[same.index[0] if share.isna().all() else share.idxmax()])
    return [_row(row.to_dict(), result, anchor, _status(float(row["measured"]), float(row["bound"]))) for row in worst]


def _status(measured: float, bound: float) -> str:
    return UNCHECKED if measured != measured else "kept" if measured <= bound else "broken"


def _row(row: dict, result: Result, anchor: str, status: str) -> GateRow:
    places = (f"layer {row[name]}" if name == "layer" else str(row[name]) for name in _PLACES if name in row and row[name] != "self")
    where = row.get("where", ", ".join(places))
    return GateRow(
        gate=str(row["gate"]),
        status=status,
        measured=float(row["measured"]),
        bound=float(row["bound"]),
        where=str(where),
        compared=str(row.get("compared", "")),
        why=str(row.get("why", "")),
        title=result.title,
        anchor=anchor,
    )
