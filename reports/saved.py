"""What does a saved run say, be it a folder or a page? Parameters, provenance, verdicts and tables, to be verified or compared.

A page carries its tables as CSV, the long ones cut. CSV knows fewer kinds of cells than a table in memory, so a table that is compared
with one of a page is taken through the same CSV (`carried`): equal tables stay equal, and numbers keep every digit.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from reports.downloads import csv_of
from reports.embedded import Embedded, read_embedded
from reports.encode import decode
from reports.machine import SCHEMA, column_type
from reports.result import Evidence, Provenance, Result, Table, Verdict
from reports.store import StoreError, load_result, load_run
from reports.text import visible_label


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedTable:
    """A table as it was kept: of a page perhaps the first rows alone."""

    frame: pd.DataFrame
    units: Mapping[str, str]
    measurement: bool
    rows: int
    """how many there are in all"""

    @property
    def labels(self) -> list[str]:
        """The columns that name a row: they have no unit and hold no fractions."""
        return [c for c in self.frame.columns if self.units.get(c, "") == "" and not pd.api.types.is_float_dtype(self.frame[c].dtype)]

    def head(self, rows: int) -> SavedTable:
        """The first rows."""
        return replace(self, frame=self.frame.head(rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedAnalysis:
    """One answer of a run."""

    name: str
    title: str
    parameters: Mapping[str, Any]
    verdict: Verdict
    tables: Mapping[str, SavedTable]


@dataclass(frozen=True, kw_only=True, eq=False)
class SavedRun:
    """A run read back. `carried` says that it came from a page, and its tables through CSV."""

    place: Path
    title: str
    state: str
    parameters: Mapping[str, Any]
    provenance: Mapping[str, Any]
    analyses: tuple[SavedAnalysis, ...]
    carried: bool


def read_saved(path: str | Path) -> SavedRun:
    """The run in a folder, or the one that a page tells of. Nothing of it is run.

    Raises:
        StoreError: in one sentence for a folder that holds no whole run, and for a page that is not ours, not whole, changed or of
            another version.
    """
    path = Path(path)
    return _of_folder(path) if path.is_dir() or not path.exists() else _of_page(path)


def saved_analysis(result: Result, *, through_csv: bool = False) -> SavedAnalysis:
    """A result in memory in the same form."""
    tables = {name: _saved_table(table, through_csv) for name, table in result.tables.items()}
    return SavedAnalysis(name=result.analysis, title=result.title, parameters=result.parameters, verdict=result.verdict, tables=tables)


def carried(table: SavedTable) -> SavedTable:
    """The table as a page would carry it, in full."""
    types = {str(c): column_type(table.frame, c) for c in table.frame.columns}
    frame = _frame_of(csv_of(table.frame, None).content, types)
    return SavedTable(frame=frame, units=table.units, measurement=table.measurement, rows=table.rows)


def _saved_table(table: Table, through_csv: bool) -> SavedTable:
    units = {name: column.unit for name, column in table.columns.items()}
    saved = SavedTable(frame=table.frame, units=units, measurement=table.measurement, rows=len(table.frame))
    return carried(saved) if through_csv else saved


def _of_folder(folder: Path) -> SavedRun:
    run = load_run(folder)
    results = [load_result(folder / name) for name in run.get("analyses", ()) if (folder / name / "result.json").is_file()]
    provenance = run.get("provenance") or (
        {f: getattr(results[0].provenance, f) for f in Provenance.__dataclass_fields__} if results else {}
    )
    return SavedRun(
        place=folder,
        title=str(run.get("title", "")),
        state=run.get("state", "complete"),
        parameters=run.get("parameters", {}),
        provenance=provenance,
        analyses=tuple(map(saved_analysis, results)),
        carried=False,
    )


def _of_page(path: Path) -> SavedRun:
    files = read_embedded(path)
    reports = [file for file in files if file.kind == "report"]
    if len(reports) != 1:
        raise StoreError(f"{path} must carry one report.json, got {len(reports)}")
    try:
        told = json.loads(reports[0].content)
        if told.get("schema") != SCHEMA:
            found = visible_label(str(told.get("schema")))[:60]
            raise StoreError(f"{path} must be of form {SCHEMA}, got {found!r}; read it with the version of prosect that wrote it")
        tables = {(file.analysis, file.part): file for file in files if file.kind == "table"}
        return SavedRun(
            place=path,
            title=str(told["title"]),
            state=str(told["state"]),
            parameters=_mapping(decode(told["parameters"])),
            provenance=_mapping(decode(told["provenance"])),
            carried=True,
            analyses=tuple(_analysis(one, tables) for one in told["analyses"]),
        )
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = visible_label(f"{type(error).__name__}: {error}")[:120]
        raise StoreError(f"the report.json in {path} was cut or changed ({reason})") from error


def _analysis(told: Mapping[str, Any], files: Mapping[tuple[str, str], Embedded]) -> SavedAnalysis:
    verdict = decode(told["verdict"])
    evidence = tuple(
        Evidence(**{k: v for k, v in {**e, "relation": e["relation"] or "", "outcome": e["outcome"] or ""}.items() if k != "kept"}) for e in verdict["evidence"]
    )
    return SavedAnalysis(
        name=str(told["name"]),
        title=str(told["title"]),
        parameters=_mapping(decode(told["parameters"])),
        verdict=Verdict(status=verdict["status"], claim=verdict["claim"], why=verdict["why"], evidence=evidence),
        tables={table["name"]: _table(table, files[told["name"], table["name"]]) for table in told["tables"]},
    )


def _table(told: Mapping[str, Any], file: Embedded) -> SavedTable:
    frame = _frame_of(file.content, {column["name"]: column["type"] for column in told["columns"]})
    if len(frame) != file.rows or told["rows"] != file.rows_in_all:
        raise StoreError(f"{file.name!r} has {len(frame)} rows, but {file.rows} of {told['rows']} are announced: the page was changed")
    units = {column["name"]: str(column["unit"]) for column in told["columns"]}
    return SavedTable(frame=frame, units=units, measurement=bool(told["measurement"]), rows=int(told["rows"]))


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(f"expected a mapping, got {type(value).__name__}")
    return value


def _frame_of(content: bytes, types: Mapping[str, str]) -> pd.DataFrame:
    """The CSV as a frame: numbers with every digit, text and truth values as their text.

    >>> _frame_of(b"layer,effect\\n0,NaN\\n", {"layer": "integer", "effect": "number"}).to_dict("records")
    [{'layer': 0, 'effect': nan}]
    """
    if not types:
        return pd.DataFrame()
    text = pd.read_csv(
        io.BytesIO(content),
        header=0,
        names=list(types),
        dtype=object,
        na_values=[],
        keep_default_na=False,
        index_col=False,
        encoding="utf-8",
    )
    return pd.DataFrame({name: _READ[kind](text[name]) for name, kind in types.items()})


_READ = {
    "number": lambda texts: pd.Series([float(text) for text in texts], dtype="float64"),
    "integer": lambda texts: pd.Series([pd.NA if text == "NaN" else int(text) for text in texts], dtype="Int64"),
    "boolean": lambda texts: texts,
    "text": lambda texts: texts,
}
