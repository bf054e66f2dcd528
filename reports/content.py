"""Do two reports say the same? One hash over what was asked and answered, not over pixels, files or the clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pandas as pd

from reports.encode import encode, to_json
from reports.result import Result, Table


def content_hash(results: Iterable[Result]) -> str:
    """SHA-256 (64 hexadecimal digits) of the results' content.

    It covers, per result in order, the analysis, its parameters, the status of its verdict and every table that is not marked as a
    measurement. Figures are left out because another matplotlib draws other bytes and some of them show times; words are left out
    because a claim may quote a time. Missing values are equal to each other, and a saved result has the hash it had before.

    Raises:
        TypeError: if a parameter or a cell is of a type that cannot be saved.
    """
    digest = hashlib.sha256()
    for result in results:
        tables = [[name, cells(table, name)] for name, table in result.tables.items() if not table.measurement]
        parameters = encode(result.parameters, "parameters")
        digest.update(to_json([result.analysis, parameters, result.verdict.status, tables], indent=None).encode("ascii") + b"\n")
    return digest.hexdigest()


def cells(table: Table, name: str) -> list[Any]:
    """The cells of a table column by column, `[column, encoded values]`, with one missing value for all kinds of missing.

    >>> from reports.result import Column
    >>> cells(Table(frame=pd.DataFrame({"a": [1.0, None]}), columns={"a": Column(unit="1", meaning="m")}, caption="c"), "t")
    [['a', [1.0, {'$float': 'nan'}]]]
    """
    frame = table.frame
    columns = []
    for column in frame.columns:
        missing = frame[column].map(lambda value: pd.api.types.is_scalar(value) and pd.isna(value)).to_numpy(dtype=bool)
        values = [float("nan") if gone else value for value, gone in zip(frame[column].tolist(), missing, strict=True)]
        columns.append([column, encode(values, f"table {name}.{column}")])
    return columns
