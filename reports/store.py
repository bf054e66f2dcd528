"""How is an answer kept? A folder with `result.json`, a parquet file per table and an `.npz` file per figure, whole or not at all.

    runs/NAME/run.json                         parameters, provenance, state, the analyses in order
    runs/NAME/ANALYSIS/result.json             written last: where it stands, the result is whole
    runs/NAME/ANALYSIS/tables/TABLE.parquet
    runs/NAME/ANALYSIS/figures/FIGURE.npz      the arrays of a figure; its words stand in result.json
    runs/NAME/report.html

`result.json` names the SHA-256 of every file beside it, so that a cut or exchanged file is noticed when it is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from reports.encode import decode, encode, pack_arrays, to_json, unpack_arrays
from reports.figures import KINDS, Figure, Series
from reports.result import Column, Evidence, Provenance, Result, Table, Verdict

FORMAT = 1
"""The version of the saved form; a reader refuses every other one."""

_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_KINDS = {kind.__name__: kind for kind in KINDS}


class StoreError(ValueError):
    """A result that cannot be saved as it stands, or a saved one that cannot be read; the message is one sentence."""


def write_atomically(path: str | Path, content: bytes | str) -> None:
    """Put the content at `path` at once: readers see the old file or the new one, never a part. Text is written as UTF-8.

    Folders on the way are made. On any exception the file is as it was before and nothing is left beside it.

    Raises:
        OSError: as writing does, for example when the disk is full.
    """
    path = Path(path)
    content = content.encode("utf-8") if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def save_result(result: Result, folder: str | Path) -> Path:
    """Write the result into `folder` and return the path of its `result.json`. Equal results give equal bytes.

    Everything is encoded before the first byte is written: a result that cannot be saved leaves an earlier one as it was.
    Files of an earlier result in the same folder are removed.

    Raises:
        StoreError: if a parameter, table or figure holds something that could not be brought back.
        OSError: as writing does.
    """
    folder = Path(folder)
    files = _encode_result(result)
    page = folder / "result.json"
    page.unlink(missing_ok=True)
    for name in sorted(files.keys() - {"result.json"}):
        write_atomically(folder / name, files[name])
    for part in ("tables", "figures"):
        for old in sorted((folder / part).glob("*")):
            if f"{part}/{old.name}" not in files and old.is_file():
                old.unlink()
    write_atomically(page, files["result.json"])
    return page


def load_result(folder: str | Path) -> Result:
    """The result that `save_result` wrote. Missing text in a table comes back as NaN, everything else as it was.

    Raises:
        StoreError: if there is no whole result, it has another format, or one of its files was cut or changed.
    """
    folder = Path(folder)
    data = _read_json(folder / "result.json", "result")
    try:
        return _decode_result(data, folder)
    except StoreError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"{folder / 'result.json'} is not a whole result: {type(error).__name__}: {error}; run the analysis again") from error


def saved_files(folder: str | Path) -> dict[str, str]:
    """The files of a saved result, path below its folder → SHA-256, as `result.json` names them.

    Raises:
        StoreError: if there is no whole `result.json`, or it has another format.
    """
    data = _read_json(Path(folder) / "result.json", "result")
    return {part["file"]: part["sha256"] for part in [*data["tables"], *data["figures"]] if "file" in part}


def save_run(folder: str | Path, run: Mapping[str, Any]) -> Path:
    """Write `run.json`, a plain mapping, and return its path.

    The page reads `title`, `state` ("complete" or "incomplete"), `analyses` (names in order), `parameters` and `provenance`
    (a `Provenance` or its mapping); other keys are kept. `format` is ours.

    Raises:
        StoreError: if a value could not be brought back, or the mapping has a key `format`.
    """
    if "format" in run:
        raise StoreError(f"run.json writes its own format, got the key format={run['format']!r}; take it out")
    plain = {key: _fields(value) if isinstance(value, Provenance) else value for key, value in run.items()}
    path = Path(folder) / "run.json"
    write_atomically(path, to_json({"format": FORMAT, **_encoded(plain, "run")}) + "\n")
    return path


def load_run(folder: str | Path) -> dict[str, Any]:
    """The mapping that `save_run` wrote, in its order; a `Provenance` comes back as a mapping.

    Raises:
        StoreError: if there is no `run.json`, it is not whole, or it has another format.
    """
    data = _read_json(Path(folder) / "run.json", "run")
    del data["format"]
    return decode(data)


def _encoded(value: Any, where: str, arrays: dict | None = None) -> Any:
    try:
        return encode(value, where, arrays)
    except TypeError as error:
        raise StoreError(str(error)) from error


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _file_name(name: str, what: str) -> str:
    if not _FILE_NAME.fullmatch(name):
        raise StoreError(f"the name of a {what} becomes a file name, so it must be letters, digits, '.', '_' and '-', got {name!r}")
    return name


def _encode_result(result: Result) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    tables = [_encode_table(name, table, files) for name, table in result.tables.items()]
    figures = [_encode_figure(figure, files) for figure in result.figures]
    words = ("analysis", "title", "question", "method", "parameters", "limits", "notes")
    data = {name: _encoded(getattr(result, name), name) for name in words}
    verdict = {**_fields(result.verdict), "evidence": [_fields(e) for e in result.verdict.evidence]}
    data |= {"format": FORMAT, "tables": tables, "figures": figures}
    data |= {"verdict": _encoded(verdict, "verdict"), "provenance": _encoded(_fields(result.provenance), "provenance")}
    files["result.json"] = (to_json(data) + "\n").encode("ascii")
    return files


def _encode_table(name: str, table: Table, files: dict[str, bytes]) -> dict[str, Any]:
    path = f"tables/{_file_name(name, 'table')}.parquet"
    frame = table.frame
    for column in frame.columns:
        if not isinstance(column, str):
            raise StoreError(f"table {name!r}: column names must be text, got {column!r}")
    objects = [c for c in frame.columns if frame[c].dtype == object]
    raw = [c for c in objects if any(isinstance(v, str) and not _is_utf8(v) for v in frame[c])]
    frame = frame.assign(**{c: [v.encode("utf-8", "surrogatepass") if isinstance(v, str) else v for v in frame[c]] for c in raw})
    buffer = io.BytesIO()
    try:
        frame.to_parquet(buffer, engine="pyarrow")
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's errors are among these
        raise StoreError(f"table {name!r} cannot be kept as parquet, each column must hold one type: {error}") from error
    files[path] = buffer.getvalue()
    columns = [{"name": c, **_fields(table.columns[c])} for c in frame.columns]
    return {"name": name, "file": path, "sha256": _sha256(files[path]), "caption": table.caption, "measurement": table.measurement,
            "columns": _encoded(columns, f"table {name}"), "object_columns": objects, "surrogate_columns": raw}


def _is_utf8(text: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _encode_figure(figure: Figure, files: dict[str, bytes]) -> dict[str, Any]:
    kind = type(figure).__name__
    if _KINDS.get(kind) is not type(figure):
        raise StoreError(f"figure {figure.name!r} must be one of {', '.join(_KINDS)}, got {kind}")
    fields = _fields(figure)
    if "series" in fields:
        fields["series"] = {name: _fields(series) for name, series in fields["series"].items()}
    arrays: dict[str, Any] = {}
    data = {"kind": kind, "name": figure.name, "fields": _encoded(fields, f"figure {figure.name}", arrays)}
    if arrays:
        path = f"figures/{figure.name}.npz"
        files[path] = pack_arrays(arrays)
        data |= {"file": path, "sha256": _sha256(files[path])}
    return data


def _decode_result(data: dict[str, Any], folder: Path) -> Result:
    verdict = decode(data["verdict"])
    verdict["evidence"] = tuple(Evidence(**e) for e in verdict["evidence"])
    return Result(
        **{name: decode(data[name]) for name in ("analysis", "title", "question", "method", "parameters", "limits", "notes")},
        tables={table["name"]: _decode_table(table, folder) for table in data["tables"]},
        figures=tuple(_decode_figure(figure, folder) for figure in data["figures"]),
        verdict=Verdict(**verdict),
        provenance=Provenance(**decode(data["provenance"])),
    )


def _decode_table(data: dict[str, Any], folder: Path) -> Table:
    path = f"tables/{_file_name(data['name'], 'table')}.parquet"
    frame = pd.read_parquet(io.BytesIO(_read_part(folder / path, data["sha256"])), engine="pyarrow")
    for column in data["object_columns"]:
        frame[column] = frame[column].astype(object)
    for column in data["surrogate_columns"]:
        texts = [v.decode("utf-8", "surrogatepass") if isinstance(v, bytes) else v for v in frame[column]]
        frame[column] = pd.Series(texts, dtype=object, index=frame.index)
    columns = {c["name"]: Column(unit=c["unit"], meaning=c["meaning"]) for c in decode(data["columns"])}
    return Table(frame=frame, columns=columns, caption=data["caption"], measurement=data["measurement"])


def _decode_figure(data: dict[str, Any], folder: Path) -> Figure:
    if data["kind"] not in _KINDS:
        raise StoreError(f"a saved figure must be one of {', '.join(_KINDS)}, got {data['kind']!r}; render it with the version that wrote it")
    arrays = {}
    if "file" in data:
        path = folder / "figures" / f"{_file_name(data['name'], 'figure')}.npz"
        packed = _read_part(path, data["sha256"])
        try:
            arrays = unpack_arrays(packed)
        except (zipfile.BadZipFile, ValueError, OSError) as error:
            raise StoreError(f"{path} is not a whole file of arrays: {error}; run the analysis again") from error
    fields = decode(data["fields"], arrays)
    if "series" in fields:
        fields["series"] = {name: Series(**series) for name, series in fields["series"].items()}
    return _KINDS[data["kind"]](**fields)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read_part(path: Path, expected: str) -> bytes:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing although result.json names it; run the analysis again") from error
    if _sha256(content) != expected:
        raise StoreError(f"{path} was cut or changed: its SHA-256 must be {expected[:12]}…, got {_sha256(content)[:12]}…; run the analysis again")
    return content


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{path.parent} holds no {what}: {path.name} is missing; a {what} that was interrupted is not whole, run it again") from error
    except ValueError as error:  # broken JSON, or bytes that are not text
        raise StoreError(f"{path} is not whole JSON ({error}); run it again") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        found = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise StoreError(f"{path} must have format {FORMAT}, got {found!r}; read it with the version of prosect that wrote it")
    return data
