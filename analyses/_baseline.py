"""What has become of a run since an earlier one? The differences as plain values, kept in `run.json`, so that the page is the same again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from analyses._diff import TableChange, VerdictChange, diff
from reports import SavedRun, load_run, read_saved, save_run

_IN_THE_COMMAND = "command"
"""Two runs are called differently, if only by their folder: that is no news."""


def set_baseline(folder: Path, baseline: Path) -> None:
    """Keep in a saved run what has changed since another. Raises StoreError where one of them cannot be read."""
    before, now = read_saved(baseline), read_saved(folder)
    save_run(folder, load_run(folder) | {"baseline": against(before, now)})


def against(before: SavedRun, now: SavedRun) -> dict[str, Any]:
    """The differences from an earlier run, as the page's section `baseline` reads them."""
    difference = diff(before, now)
    settings = [change for change in difference.settings if change.name != _IN_THE_COMMAND]
    return {
        "title": before.title,
        "command": str(before.provenance.get("command", "")),
        "same": difference.same,
        "settings": [{"name": f"{change.group} {change.name}", "was": str(change.was), "now": str(change.now)} for change in settings],
        "n_verdicts": len({one.name for run in (before, now) for one in run.analyses}),
        "verdicts": [_verdict(change) for change in difference.verdicts],
        "n_tables": len(difference.tables),
        "tables": [_table(change) for change in difference.tables if change.comparison.outcome != "exact"],
    }


def _verdict(change: VerdictChange) -> dict[str, Any]:
    evidence = [{"name": one.name, "unit": one.group, "was": one.was, "now": one.now} for one in change.evidence]
    return {
        "analysis": change.analysis,
        "title": change.title,
        "was": change.was,
        "now": change.now,
        "claim_was": change.claims[0],
        "evidence": evidence,
    }


def _table(change: TableChange) -> dict[str, Any]:
    joined = change.joined
    told = {
        "analysis": change.comparison.analysis,
        "table": change.comparison.table,
        "outcome": change.comparison.outcome,
        "detail": change.comparison.detail,
    }
    if joined is None:
        return told | {"only_before": 0, "only_now": 0, "n_changed": 0, "changed": []}
    cells = [{"row": cell.row, "column": cell.column, "was": cell.was, "now": cell.now} for cell in joined.changed]
    return told | {"only_before": joined.only_a, "only_now": joined.only_b, "n_changed": joined.n_changed, "changed": cells}
