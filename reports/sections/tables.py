"""Which numbers are behind it? Every table of every analysis, with what its columns mean, to read, sort and take along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._anchors import anchors
from reports.sections._section import Section

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Tables and downloads</h2>
<p class="see">All numbers that the verdicts and figures rest on. A table opens with its first rows and what its columns mean.
Figures as SVG and PNG files, with their numbers as CSV and Parquet: <code>prosect render RUN --figures</code> writes them into the run's folder.</p>
{% for result, anchor in placed %}
<div class="panel" role="group" aria-labelledby="tables-{{ anchor }}">
<h3 class="source" id="tables-{{ anchor }}"><a href="#{{ anchor }}">{{ result.title }}</a></h3>
{% for name, table in result.tables.items() %}{{ m.table(name, table, result.analysis) }}{% endfor %}
</div>
{% endfor %}
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    placed = [(result, anchor) for result, anchor in zip(results, anchors(results), strict=True) if result.tables]
    return Markup(environment.from_string(_TEMPLATE).render(placed=placed)) if placed else Markup("")


SECTION = Section(name="tables", title="Tables and downloads", order=110, html=_html, filled=lambda results: any(r.tables for r in results))
