"""How do figures leave for a paper or a talk? Each as SVG, PNG or PDF, and its numbers as CSV and Parquet, named after the figure."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args

import pandas as pd

from reports.downloads import csv_of
from reports.draw import picture
from reports.figures import Figure
from reports.long_form import figure_data
from reports.result import Result
from reports.store import load_result, load_run, write_atomically
from reports.text import visible_text

Format = Literal["svg", "png", "pdf", "csv", "parquet"]
FORMATS: tuple[Format, ...] = ("svg", "png", "csv", "parquet")
"""What is written unless something else is asked for."""


def export_figures(
    figures: Result | Figure | Iterable[Figure],
    folder: str | Path,
    formats: Sequence[Format] = FORMATS,
    *,
    background: Literal["white", "transparent"] = "white",
    dpi: int = 200,
) -> list[Path]:
    """Write the figures of a result, or figures of your own, into `folder` and return the paths, figure by figure.

    Ink is dark, `dpi` is that of PNG. Title and alt text stand in the metadata of SVG, PNG and PDF, and with caption, labels and
    units in that of Parquet (pandas' `attrs`). CSV and Parquet hold one row per drawn value, every one of them, as `figure_data`
    gives them. Files of the same name are replaced, others stay; equal figures give equal bytes.

    Raises:
        ValueError: for a format that is not one of svg, png, pdf, csv, parquet, a background or resolution that is none, or figures of
            the same name.
        TypeError: for a kind of figure that is not in `reports.figures.KINDS`.

    >>> import tempfile
    >>> from reports import Bars
    >>> bars = Bars(name="loss", title="t", caption="c", alt="a", labels=["full", "ablated"], values=[2.0, 2.5], unit="nats")
    >>> [path.name for path in export_figures(bars, tempfile.mkdtemp(), formats=("svg", "csv"))]
    ['loss.svg', 'loss.csv']
    """
    _check(formats, background, dpi)
    paths = []
    for figure in _chosen(figures):
        writers = _writers(figure, background, dpi)
        for form in formats:
            paths.append(Path(folder) / f"{figure.name}.{form}")
            write_atomically(paths[-1], writers[form]())
    return paths


def export_run(folder: str | Path, formats: Sequence[Format] = FORMATS) -> list[Path]:
    """Write the figures of every finished analysis of a saved run into `ANALYSIS/figures`, and return the paths.

    Raises:
        StoreError: if `run.json` or a result is missing, cut or of another format.
    """
    folder = Path(folder)
    finished = [name for name in load_run(folder).get("analyses", ()) if (folder / name / "result.json").exists()]
    return [path for name in finished for path in export_figures(load_result(folder / name), folder / name / "figures", formats)]


def _check(formats: Sequence[str], background: str, dpi: float) -> None:
    for form in formats:
        if form not in get_args(Format):
            raise ValueError(f"the format of a figure must be one of {', '.join(get_args(Format))}, got {form!r}")
    if background not in ("white", "transparent"):
        raise ValueError(f"the background must be 'white' or 'transparent', got {background!r}")
    if not 10 <= dpi <= 2400:
        raise ValueError(f"dpi must be from 10 to 2400, got {dpi}")


def _chosen(figures: Result | Figure | Iterable[Figure]) -> tuple[Figure, ...]:
    chosen = figures.figures if isinstance(figures, Result) else (figures,) if isinstance(figures, Figure) else tuple(figures)
    names = [figure.name for figure in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"figures are saved under their names, so these must differ, got {', '.join(twice)} more than once")
    return chosen


def _writers(figure: Figure, background: Literal["white", "transparent"], dpi: int) -> Mapping[str, Callable[[], bytes | str]]:
    from reports.drawing.outputs import as_pdf, as_png, as_svg

    return {
        "svg": lambda: as_svg(picture(figure), background=background, follow_dark=False),
        "png": lambda: as_png(picture(figure), background=background, dpi=dpi),
        "pdf": lambda: as_pdf(picture(figure), background=background),
        "csv": lambda: csv_of(figure_data(figure), limit=None).content,
        "parquet": lambda: _parquet(figure),
    }


def _parquet(figure: Figure) -> bytes:
    """The values with what the figure says in words; in text, what UTF-8 cannot hold is made visible."""
    frame = figure_data(figure)
    for column in frame.columns:
        if not pd.api.types.is_numeric_dtype(frame[column].dtype):
            visible = {text: visible_text(text) for text in set(frame[column])}
            frame[column] = pd.Series([visible[text] for text in frame[column]], dtype=object)
    frame.attrs = {"kind": type(figure).__name__, **_words(figure)}
    buffer = io.BytesIO()
    frame.to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _words(figure: Figure) -> dict[str, str]:
    """Title, caption, alt text, labels and units: every field that is text."""
    fields = {field.name: getattr(figure, field.name) for field in dataclasses.fields(figure)}
    return {name: visible_text(value) for name, value in fields.items() if isinstance(value, str)}
