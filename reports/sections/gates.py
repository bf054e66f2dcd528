"""Can the numbers be trusted? Every identity that must hold whatever the model has learned: its error against its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._gate_rows import gate_rows, has_gates
from reports.sections._section import Section

TITLE = "Correctness gates"
_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>{{ own }}</h2>
<p class="see">Each is an identity that holds for a sound model and sound machinery: its largest error must stay below what rounding explains.
One that was not checked is neither kept nor broken.</p>
<div class="panel"><div class="scroll gates" tabindex="0" role="group" aria-label="Correctness gates">
<table data-sortable><thead><tr><th scope="col">gate</th><th scope="col">status</th><th scope="col" class="number">largest error</th><th scope="col" class="number">bound</th>{% if placed %}<th scope="col">where</th>{% endif %}{% if told %}<th scope="col">what was compared, and why it matters</th>{% endif %}</tr></thead>
<tbody>
{% for row in rows %}
<tr><th scope="row">{{ row.gate }}{% if row.title != own %} <a class="of" href="#{{ row.anchor }}">{{ row.title }}</a>{% endif %}</th><td>{{ m.badge(row.status) }}</td>{{ m.number_cell(row.measured) }}<td class="number">{{ row.bound | with_unit("1") }}</td>{% if placed %}<td class="place">{{ row.where }}</td>{% endif %}
{% if told %}<td class="words">{{ row.compared }}{% if row.why %}<span class="why-here">{{ row.why }}</span>{% endif %}</td>{% endif %}</tr>
{% endfor %}
</tbody></table></div></div>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    rows = gate_rows(results)
    context = {"rows": rows, "own": TITLE, "placed": any(row.where for row in rows), "told": any(row.compared or row.why for row in rows)}
    return Markup(environment.from_string(_TEMPLATE).render(**context)) if rows else Markup("")


SECTION = Section(name="gates", title=TITLE, order=20, html=_html, filled=has_gates)
