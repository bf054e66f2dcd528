"""How does anything that can be shown become one HTML file? A saved run, results, figures, or a researcher's own tables and arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from reports.figures import Figure
from reports.own_data import own
from reports.page import page, render_run
from reports.result import Result
from reports.sheet import sheet
from reports.store import write_atomically


def render(source: object, path: str | Path | None = None, *, title: str = "") -> Path:
    """Write a page and return its path.

    `render("runs/first")` writes `report.html` and `report.json` into the folder of a saved run, from what is saved there.

    `render(data, "page.html", title="…")` makes a page of your own data, `data` being a mapping, heading → what stands below it: a
    DataFrame becomes a table, an array of two axes a heatmap, of one axis a line, a mapping of names to series lines, to numbers bars,
    a Figure is a figure and a Table a table with units. One of these alone, or a list of figures, is a page too; a Result or a list of
    them is a report with verdicts. Equal data give equal bytes.

    Raises:
        TypeError: for what cannot be shown.
        ValueError: for ragged arrays, series of different lengths, nothing at all, or a path where a run has its own.
        StoreError: if a run or a result is missing, cut or of another format.

    >>> import tempfile
    >>> import numpy as np
    >>> folder = tempfile.mkdtemp()
    >>> render({"Loss": {"train": [3.0, 2.5], "test": [3.1, 2.8]}, "Entropy": np.eye(3)}, f"{folder}/mine.html", title="Mine").name
    'mine.html'
    """
    if isinstance(source, (str, Path)):
        if path is not None or title:
            raise ValueError(f"a run is rendered into its own folder under its own title, got path={path!r}, title={title!r}")
        return render_run(source)
    if path is None:
        raise ValueError("a page of your own data needs a path: render(data, 'page.html')")
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"the path must be that of a file, got the folder {path}: render(data, '{path / 'page.html'}')")
    write_atomically(path, _page(source, title))
    return path


def _page(source: object, title: str) -> str:
    results = [source] if isinstance(source, Result) else list(source) if _all(source, Result) else []
    if results:
        return page(results, title=title or results[0].title)
    if isinstance(source, Mapping):
        if not source:
            raise ValueError("there is nothing to show, got an empty mapping")
        return sheet([(str(name), own(str(name), value)) for name, value in source.items()], title=title or "Data")
    shown = list(source) if _all(source, Figure) else [own(title or "Data", source)]
    return sheet([("", one) for one in shown], title=title or (shown[0].title if isinstance(shown[0], Figure) else "Data"))


def _all(source: object, kind: type) -> bool:
    return isinstance(source, Sequence) and not isinstance(source, str) and len(source) > 0 and all(isinstance(one, kind) for one in source)
