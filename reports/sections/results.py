"""What was asked, and what came out? One part per analysis: question, verdict, evidence, the figures that are its alone, method, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._anchors import anchors, figure_anchor
from reports.sections._section import Link, Section
from reports.sections._status import holds

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Analyses</h2>
{% for result, anchor in placed %}
<article class="analysis" id="{{ anchor }}" aria-labelledby="{{ anchor }}-title">
<header><h3 id="{{ anchor }}-title">{{ result.title }}</h3>{{ m.badge(result.verdict.status) }}</header>
{% if result.question not in result.title %}<p class="question">{{ result.question }}</p>{% endif %}
<p class="claim">{{ result.verdict.claim | prose }}</p>
{% if result.verdict.why %}<p class="why">{{ result.verdict.why | prose }}</p>{% endif %}
{% if result.verdict.evidence %}{{ m.evidence(result.verdict.evidence, holds, result.title) }}{% endif %}
{% if result.notes %}{{ m.notes(result.notes) }}{% endif %}
{% set elsewhere = result.figures | selectattr("part") | list %}
{% set own = result.figures | rejectattr("part") | list %}
{% if own %}<div class="figures">
{% for figure in own %}{{ m.figure(figure, result.analysis, place(anchor, figure)) }}{% endfor %}
</div>{% endif %}
{% if elsewhere %}<details class="elsewhere"><summary>{{ elsewhere | length }} {{ "figure" if elsewhere | length == 1 else "figures" }} above</summary>
<ul>{% for figure in elsewhere %}<li><a href="#{{ place(anchor, figure) }}">{{ figure.title | prose }}</a></li>{% endfor %}</ul></details>{% endif %}
{% if result.tables %}<p class="to-tables"><a href="#tables-{{ anchor }}">{{ result.tables | length }} {{ "table" if result.tables | length == 1 else "tables" }}</a>: {{ result.tables | join(", ") }}</p>{% endif %}
<details class="method"><summary>Method and parameters</summary>
<p class="prose">{{ result.method }}</p>
{% if result.parameters %}{{ m.pairs(result.parameters | flat, "facts") }}{% endif %}
{% if result.provenance.command != run.provenance.get("command") %}<pre tabindex="0"><code>{{ result.provenance.command }}</code></pre>{% endif %}
</details>
{% if result.limits %}<p class="limits"><b>What this does not show:</b> {{ result.limits | prose }}</p>{% endif %}
</article>
{% endfor %}
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    placed = list(zip(results, anchors(results), strict=True))
    return Markup(environment.from_string(_TEMPLATE).render(run=run, placed=placed, holds=holds, place=figure_anchor))


def _links(results: Sequence[Result]) -> list[Link]:
    return [Link(target=place, text=r.title, status=r.verdict.status) for r, place in zip(results, anchors(results), strict=True)]


SECTION = Section(name="results", title="Analyses", order=100, html=_html, links=_links)
