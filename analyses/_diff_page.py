"""How is a comparison of two runs shown? As a page of four tables: verdicts, tables, their largest changes, settings."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses._contract import table
from analyses._diff import Difference
from reports import SavedRun, Table, render


def write_diff_page(a: SavedRun, b: SavedRun, difference: Difference, path: Path) -> None:
    """Write the comparison as a page: verdicts, tables, their largest changes, and settings, each as a table. Raises OSError."""
    differing = sum(one.comparison.outcome == "differs" for one in difference.tables)
    moved = sum(not one.same for one in difference.verdicts)
    told = (
        "the same answers"
        if difference.same
        else f"{moved} verdict{'s' * (moved != 1)} and {differing} of {len(difference.tables)} tables differ"
    )
    parts = {"Verdicts": _verdicts, "Tables": _tables, "Largest changes": _numbers, "Settings": _settings}
    shown = {heading: table_of(difference) for heading, table_of in parts.items()}
    render(shown, path, title=f"A, {a.title or a.place}, against B, {b.title or b.place}: {told}")


def _verdicts(difference: Difference) -> Table:
    rows = [(one.analysis, "verdict", one.was or "", one.now or "") for one in difference.verdicts]
    rows += [(one.analysis, e.name, _number(e.was), _number(e.now)) for one in difference.verdicts for e in one.evidence]
    frame = pd.DataFrame(rows, columns=["analysis", "what", "a", "b"]).astype(object)
    return table(
        frame,
        "Verdicts and the numbers behind them that differ.",
        analysis=("", "analysis"),
        what=("", "verdict, or the name of a number"),
        a=("", "in A"),
        b=("", "in B"),
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _tables(difference: Difference) -> Table:
    rows = [(one.comparison.analysis, one.comparison.table, one.comparison.outcome, one.comparison.detail) for one in difference.tables]
    frame = pd.DataFrame(rows, columns=["analysis", "table", "outcome", "detail"]).astype(object)
    return table(
        frame,
        "How each table compares.",
        analysis=("", "analysis"),
        table=("", "table"),
        outcome=("", "exact, within tolerance, measured, or differs"),
        detail=("", "where, and by how much"),
    )


def _numbers(difference: Difference) -> Table:
    rows = [
        (one.comparison.analysis, one.comparison.table, cell.row, cell.column, cell.was, cell.now, cell.share)
        for one in difference.tables
        if one.joined
        for cell in one.joined.changed
    ]
    frame = pd.DataFrame(rows, columns=["analysis", "table", "row", "column", "a", "b", "share"])
    return table(
        frame,
        "The largest changes of each table.",
        analysis=("", "analysis"),
        table=("", "table"),
        row=("", "what names the row"),
        column=("", "column"),
        a=("", "in A, in the unit of the column"),
        b=("", "in B, in the unit of the column"),
        share=("1", "change over the largest number of the column"),
    )


def _settings(difference: Difference) -> Table:
    rows = [(one.group, one.name, str(one.was), str(one.now)) for one in difference.settings]
    frame = pd.DataFrame(rows, columns=["group", "name", "a", "b"]).astype(object)
    return table(
        frame,
        "Parameters and provenance that differ.",
        group=("", "parameters or provenance"),
        name=("", "name"),
        a=("", "in A"),
        b=("", "in B"),
    )
