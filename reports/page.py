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

from reports.downloads import figure_numbers, table_file
from reports.draw import draw
from reports.drawing.compact import as_address
from reports.embedded import Embedded
from reports.figures import Figure
from reports.machine import machine_json
from reports.result import Provenance, Result
from reports.sections import discover
from reports.sections._status import SIGNS
from reports.store import load_result, load_run, write_atomically
from reports.tabular import file_name, flat, rows_of, shown_value
from reports.text import first_sentence, format_number, visible_label, with_minus, with_unit
from reports.views import placed_views

_RELATIONS = {"<=": "≤", ">=": "≥", "==": "exactly"}


def render_run(run_folder: str | Path) -> Path:
    """Write `report.html` and `report.json` into the folder of a run from what is saved there, and return the page's path.

    Analyses that `run.json` names and that have no result yet are named on top of the page. The same folder gives the same bytes.

    Raises:
        StoreError: if `run.json` or a result is missing, cut or of another format.
    """
    folder = Path(run_folder)
    run = load_run(folder)
    results = [load_result(folder / name) for name in run.get("analyses", ()) if (folder / name / "result.json").exists()]
    title = str(run.get("title") or _title(run, results))
    told = {**run, "title": title, "missing": [name for name in run.get("analyses", ()) if name not in {result.analysis for result in results}]}
    write_atomically(folder / "report.json", machine_json(results, told, folder))
    report = folder / "report.html"
    write_atomically(report, page(results, title=title, run=run))
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
    environment = page_environment(results)
    sections = [section for section in discover() if section.filled is None or section.filled(results)]
    parts = [(section, section.html(run, results, environment)) for section in sections]
    links = [link for section, html in parts if html for link in section.navigation(results)]
    machine = Embedded(name="report.json", kind="report", content=machine_json(results, run).encode("ascii"))
    context = {"title": title, "parts": parts, "links": links, "missing": run["missing"], "machine": machine}
    return filled(environment, "page.html", {**context, "incomplete": run["state"] != "complete" or bool(run["missing"])})


def filled(environment: Environment, template: str, context: Mapping[str, Any]) -> str:
    """A template of a whole page with what it shows, the one style, the one script, and the policy that allows these two."""
    style, script = _together("report.css", ".css"), _together("report.js", ".js")
    return environment.get_template(template).render(**context, style=Markup(style), script=Markup(script), policy=Markup(_policy(style, script)))


def _title(run: Mapping[str, Any], results: Sequence[Result]) -> str:
    provenance = run.get("provenance") or (vars(results[0].provenance) if results else {})
    name = provenance.get("model", {}).get("name") if provenance else None
    return str(name) if name else "Report"


@cache
def _asset(name: str) -> str:
    return (files("reports") / "assets" / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _together(first: str, ending: str) -> str:
    """The page's own text and those of the views, in sorted order: the page has one style and one script."""
    views = files("reports") / "assets" / "views"
    return "".join(map(_asset, [first, *(f"views/{name}" for name in sorted(part.name for part in views.iterdir()) if name.endswith(ending))]))


def _policy(style: str, script: str) -> str:
    """What the page may do: show `data:` images, and run these two texts. Everything else is refused by the browser."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii") for text in (script, style)]
    return (f"default-src 'none'; script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'; img-src data:; "
            "base-uri 'none'; form-action 'none'")


def page_environment(results: Sequence[Result] = ()) -> Environment:
    """The jinja2 environment of the page: autoescape on, unknown names are errors, every value made visible before it is escaped."""
    tables = {result.analysis: result.tables for result in results}
    environment = Environment(
        loader=DictLoader({name: _asset(name) for name in ("page.html", "macros.html", "sheet.html")}),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=shown_value,
    )
    environment.globals["signs"] = SIGNS
    environment.filters |= {
        "prose": with_minus, "first_sentence": first_sentence, "number": format_number, "plain": format_number, "with_unit": with_unit, "label": visible_label, "file": file_name, "flat": flat,
        "rows": rows_of, "table_file": lambda table, name, analysis: table_file(name, table, analysis), "picture": _picture, "view": placed_views(),
        "figure_numbers": lambda figure, analysis: figure_numbers(figure, analysis, tables.get(analysis, {})),
        "bound": _bound,
    }
    return environment


def _bound(evidence: Evidence) -> str:
    """What a number must be, in words: "≤ 2", "exactly 0", "1 ± 0.05"."""
    bound = format_number(evidence.threshold)
    if evidence.relation == "==" and evidence.margin:
        return f"{bound} ± {format_number(evidence.margin)}"
    return f"{_RELATIONS.get(evidence.relation, evidence.relation)} {bound}"


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """A drawn figure as a `data:` address, and its size in CSS pixels."""

    link: Markup
    width: int
    height: int

    @property
    def size(self) -> str:
        """Which least width keeps it legible on a narrow screen."""
        return "small" if self.width <= 460 else "medium" if self.width <= 640 else "large"


def _picture(figure: Figure) -> _Picture:
    drawn = draw(figure)
    width, height = (int(drawn.split(f' {side}="', 1)[1].split('"', 1)[0]) for side in ("width", "height"))
    return _Picture(link=as_address(drawn), width=width, height=height)
