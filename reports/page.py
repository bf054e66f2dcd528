"""How do many results become one page? One HTML file that asks nobody for anything and stands without its script.

The content security policy allows exactly the style and the script that are written below it, by their hashes: text from a model or a
prompt that were to slip through the escaping could still not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from reports.downloads import csv_of, figure_csv
from reports.draw import draw
from reports.figures import Figure
from reports.result import Provenance, Result
from reports.sections import discover
from reports.sections._status import SIGNS
from reports.store import load_result, load_run, write_atomically
from reports.tabular import file_name, flat, rows_of, shown_value
from reports.text import format_number, visible_label, with_unit

_RELATIONS = {"<=": "≤", ">=": "≥", "==": "="}


def render(run_folder: str | Path) -> Path:
    """Write `report.html` into the folder of a run from what is saved there, and return its path.

    Analyses that `run.json` names and that have no result yet are named on top of the page. The same folder gives the same bytes.

    Raises:
        StoreError: if `run.json` or a result is missing, cut or of another format.
    """
    folder = Path(run_folder)
    run = load_run(folder)
    results = [load_result(folder / name) for name in run.get("analyses", ()) if (folder / name / "result.json").exists()]
    report = folder / "report.html"
    write_atomically(report, page(results, title=str(run.get("title") or _title(run, results)), run=run))
    return report


def page(results: Sequence[Result], *, title: str, run: Mapping[str, Any] | None = None) -> str:
    """The page as HTML text.

    Of `run`, `state` ("incomplete" is said on top), `analyses` (names in order; those without a result are named), `parameters` and
    `provenance` (by default the first result's) are read. It needs no folder; links to whole tables name files relative to the run's.
    """
    run = dict(run or {})
    provenance = run.get("provenance") or (results[0].provenance if results else {})
    run["provenance"] = vars(provenance) if isinstance(provenance, Provenance) else provenance
    run["missing"] = [name for name in run.get("analyses", ()) if name not in {result.analysis for result in results}]
    run["title"], run["state"] = title, run.get("state", "complete")
    environment = page_environment()
    sections = discover()
    parts = [(section, section.html(run, results, environment)) for section in sections]
    links = [link for section in sections for link in section.navigation(results)]
    style, script = _asset("report.css"), _asset("report.js")
    return environment.get_template("page.html").render(
        title=title, parts=parts, links=links, missing=run["missing"], incomplete=run["state"] != "complete" or bool(run["missing"]),
        style=Markup(style), script=Markup(script), policy=Markup(_policy(style, script)),
    )


def _title(run: Mapping[str, Any], results: Sequence[Result]) -> str:
    provenance = run.get("provenance") or (vars(results[0].provenance) if results else {})
    name = provenance.get("model", {}).get("name") if provenance else None
    return str(name) if name else "Report"


@cache
def _asset(name: str) -> str:
    return (files("reports") / "assets" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _policy(style: str, script: str) -> str:
    """What the page may do: show `data:` images, and run these two texts. Everything else is refused by the browser."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (script, style)]
    return (f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def page_environment() -> Environment:
    """The jinja2 environment of the page: autoescape on, unknown names are errors, every value made visible before it is escaped."""
    environment = Environment(
        loader=DictLoader({name: _asset(name) for name in ("page.html", "macros.html")}),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown_value,
    )
    environment.globals["signs"] = SIGNS
    environment.filters |= {
        "number": format_number, "plain": format_number, "with_unit": with_unit, "label": visible_label, "file": file_name, "flat": flat,
        "rows": rows_of, "csv": lambda table: csv_of(table.frame), "figure_csv": figure_csv, "picture": _picture,
        "relation": lambda relation: _RELATIONS.get(relation, relation),
    }
    return environment


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A drawn figure as a `data:` address, and its size in CSS pixels."""

    link: str
    width: int
    height: int

    @property
    def size(self) -> str:
        """Which least width keeps it legible on a narrow screen."""
        return "small" if self.width <= 460 else "medium" if self.width <= 640 else "large"


def _picture(figure: Figure) -> _Picture:
    drawn = draw(figure)
    width, height = (int(drawn.split(f' {side}="', 1)[1].split('"', 1)[0]) for side in ("width", "height"))
    return _Picture(link="data:image/svg+xml;base64," + base64.b64encode(drawn.encode("utf-8")).decode("ascii"), width=width, height=height)
