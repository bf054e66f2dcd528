"""What does a report say to a program? `report.json`: verdicts with their numbers, what every column means, and where the tables are.

The form is named in `schema` and described by `assets/report.schema.json`. Numbers that are not finite are written as in
`reports.encode`, `{"$float": "nan"}`; null means that there is none, for example no threshold, and never a missing number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from reports.content import cells, content_hash
from reports.encode import encode
from reports.figures import Figure
from reports.result import Evidence, Result, Table
from reports.sections._status import holds
from reports.store import saved_files

SCHEMA = "prosect-report/1"
"""The version of the form; a reader refuses every other one."""
SMALL = 600
"""Cells up to which the values of a table stand in the report itself."""
LONGEST_TEXT = 20_000
"""Characters of all its words beyond which they do not: packed arrays are not for reading."""


def machine_report(results: Sequence[Result], run: Mapping[str, Any], folder: str | Path | None = None) -> dict[str, Any]:
    """The report as strict JSON values, in reading order.

    `run` is the mapping of the page (`title`, `state`, `missing`, `parameters`, `provenance`, `baseline`). With the folder of the
    saved run every file is named with its SHA-256; without it the SHA-256 is null.

    Raises:
        TypeError: if a parameter or a cell is of a type that cannot be saved.
        StoreError: if the folder holds no whole run.
    """
    told = {
        "schema": SCHEMA,
        "title": run.get("title", ""),
        "state": run.get("state", "complete"),
        "missing": list(run.get("missing", ())),
        "content_hash": content_hash(results),
        "parameters": plain(encode(run.get("parameters", {}), "parameters")),
        "provenance": plain(encode(run.get("provenance", {}), "provenance")),
        "analyses": [_analysis(result, {} if folder is None else saved_files(Path(folder) / result.analysis)) for result in results],
    }
    return told | ({"baseline": plain(encode(run["baseline"], "baseline"))} if run.get("baseline") else {})


def machine_json(results: Sequence[Result], run: Mapping[str, Any], folder: str | Path | None = None) -> str:
    """`machine_report` as text: ASCII, the same for equal results."""
    return json.dumps(machine_report(results, run, folder), ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def plain(encoded: Any) -> Any:
    """What `encode` gave, for readers who do not know Python: tuples are lists, and mappings simply stand in their order.

    >>> plain(encode({"seed": 1, "low": (float("nan"), 2.0)}, "parameters"))
    {'seed': 1, 'low': [{'$float': 'nan'}, 2.0]}
    """
    if isinstance(encoded, list):
        return [plain(item) for item in encoded]
    if not isinstance(encoded, dict):
        return encoded
    if set(encoded) == {"$tuple"}:
        return plain(encoded["$tuple"])
    return {key: plain(encoded[key]) for key in encoded.get("$order", encoded) if key != "$order"}


def column_type(frame: pd.DataFrame, column: str) -> str:
    """What the cells of a column are: "number", "integer", "boolean" or "text".

    >>> column_type(pd.DataFrame({"layer": [0, 1]}), "layer")
    'integer'
    """
    dtype = frame[column].dtype
    for is_one, name in (
        (pd.api.types.is_bool_dtype, "boolean"),
        (pd.api.types.is_integer_dtype, "integer"),
        (pd.api.types.is_float_dtype, "number"),
    ):
        if is_one(dtype):
            return name
    return "text"


def _analysis(result: Result, hashes: Mapping[str, str]) -> dict[str, Any]:
    verdict = result.verdict
    return {
        "name": result.analysis,
        "title": result.title,
        "question": result.question,
        "limits": result.limits,
        "parameters": plain(encode(result.parameters, "parameters")),
        "seed": result.provenance.seed,
        "verdict": {
            "status": verdict.status,
            "claim": verdict.claim,
            "why": verdict.why,
            "evidence": [_evidence(one) for one in verdict.evidence],
        },
        "notes": dict(result.notes),
        "tables": [_table(name, table, result.analysis, hashes) for name, table in result.tables.items()],
        "figures": [_figure(figure, result.analysis, hashes) for figure in result.figures],
    }


def _evidence(evidence: Evidence) -> dict[str, Any]:
    threshold = None if evidence.threshold is None else encode(float(evidence.threshold), "threshold")
    return {
        "name": evidence.name,
        "measured": encode(float(evidence.measured), "measured"),
        "unit": evidence.unit,
        "threshold": threshold,
        "relation": evidence.relation or None,
        "kept": holds(evidence), "outcome": evidence.outcome or None, "margin": encode(float(evidence.margin), "margin"),
        "where": evidence.where,
        "source": evidence.source,
    }


def _table(name: str, table: Table, analysis: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    frame, path = table.frame, f"tables/{name}.parquet"
    columns = [
        {"name": str(c), "type": column_type(frame, c), "unit": table.columns[c].unit, "meaning": table.columns[c].meaning}
        for c in frame.columns
    ]
    told = {
        "name": name,
        "caption": table.caption,
        "measurement": table.measurement,
        "rows": len(frame),
        "columns": columns,
        "file": f"{analysis}/{path}",
        "sha256": hashes.get(path),
    }
    return told | ({"values": {column: plain(values) for column, values in cells(table, name)}} if _is_small(frame) else {})


def _is_small(frame: pd.DataFrame) -> bool:
    """Is there room for its values?"""
    return 0 < frame.size <= SMALL and sum(len(cell) for column in frame for cell in frame[column] if isinstance(cell, str)) <= LONGEST_TEXT


def _figure(figure: Figure, analysis: str, hashes: Mapping[str, str]) -> dict[str, Any]:
    path = f"figures/{figure.name}.npz"
    return {
        "name": figure.name,
        "kind": type(figure).__name__,
        "title": figure.title,
        "alt": figure.alt,
        "file": f"{analysis}/{path}",
        "sha256": hashes.get(path),
    }
