"""What was asked, and what came out? One part per analysis: question, verdict, evidence, figures, tables, method, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._anchors import anchors
from reports.sections._section import Link, Section
from reports.sections._status import holds

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Analyses</h2>
{% for result, anchor in placed %}
<article class="analysis" id="{{ anchor }}" aria-labelledby="{{ anchor }}-title">
<header><h3 id="{{ anchor }}-title">{{ result.title }}</h3>{{ m.badge(result.verdict.status) }}</header>
<p class="question">{{ result.question }}</p>
<p class="claim">{{ result.verdict.claim }}</p>
{% if result.verdict.why %}<p class="why">{{ result.verdict.why }}</p>{% endif %}
{% if result.verdict.evidence %}{{ m.evidence(result.verdict.evidence, holds, result.title) }}{% endif %}
{% if result.notes %}{{ m.pairs(result.notes.items(), "notes") }}{% endif %}
{% if result.figures %}<div class="figures">
{% for figure in result.figures %}{{ m.figure(figure, result.analysis) }}{% endfor %}
</div>{% endif %}
{% for name, table in result.tables.items() %}{{ m.table(name, table, result.analysis) }}{% endfor %}
<details class="method"><summary>Method and parameters</summary>
<p class="prose">{{ result.method }}</p>
{% if result.parameters %}{{ m.pairs(result.parameters | flat, "facts") }}{% endif %}
{% if result.provenance.command != run.provenance.get("command") %}<pre tabindex="0"><code>{{ result.provenance.command }}</code></pre>{% endif %}
</details>
{% if result.limits %}<p class="limits"><b>What this does not show:</b> {{ result.limits }}</p>{% endif %}
</article>
{% endfor %}
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    placed = list(zip(results, anchors(results), strict=True))
    return Markup(environment.from_string(_TEMPLATE).render(run=run, placed=placed, holds=holds))


def _links(results: Sequence[Result]) -> list[Link]:
    return [Link(target=place, text=r.title, status=r.verdict.status) for r, place in zip(results, anchors(results), strict=True)]


SECTION = Section(name="results", title="Analyses", order=50, html=_html, links=_links)
