"""How is a page made of figures and tables that no run saved? With the page's own parts, and without verdict or provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.figures import Figure
from reports.page import filled, page_environment
from reports.result import Result, Table
from reports.sections._section import Section

_TEMPLATE = """
{% import "macros.html" as m with context %}
{% if heading %}<h2>{{ heading }}</h2>{% endif %}
<div class="panel">
{% if note %}<p class="banner" role="status">{{ note }}</p>{% endif %}
{% if table %}{{ m.table(heading or "table", table, "", open=true) }}{% endif %}
{% if figure %}<div class="figures">{{ m.figure(figure, "", place) }}</div>{% endif %}
</div>
"""


def sheet(parts: Sequence[tuple[str, Figure | Table]], *, title: str) -> str:
    """The page as HTML text: a figure or a table for each part, below its heading; a part without one is not in the navigation."""
    environment = page_environment()
    sections = [_section(i, heading, shown) for i, (heading, shown) in enumerate(parts, 1)]
    return _sheet(sections, environment, title=title, heading=True)


def figure_page(figure: Figure, *, interactive: bool = True, note: str = "") -> str:
    """A page with one figure and nothing above it; without `interactive` its static picture alone. `note` is said before it."""
    environment = page_environment()
    if not interactive:
        environment.filters["view"] = lambda figure, analysis: None
    return _sheet([_section(1, "", figure, note)], environment, title=figure.title, heading=False)


def _sheet(sections: Sequence[Section], environment: Environment, *, title: str, heading: bool) -> str:
    parts = [(section, section.html({}, (), environment)) for section in sections]
    links = [link for section in sections for link in section.navigation(())]
    return filled(environment, "sheet.html", {"title": title, "heading": heading, "parts": parts, "links": links, "missing": (), "incomplete": False})


def _section(number: int, heading: str, shown: Figure | Table, note: str = "") -> Section:
    def html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
        table, figure = (shown, None) if isinstance(shown, Table) else (None, shown)
        context = {"heading": heading, "note": note, "table": table, "figure": figure, "place": f"part-{number}-figure"}
        return Markup(environment.from_string(_TEMPLATE).render(**context))

    return Section(name=f"part-{number}", title=heading, order=number, html=html)
