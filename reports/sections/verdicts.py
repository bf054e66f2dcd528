"""Is something wrong? At most eight cards, failures first: the claim, the number against its threshold, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._anchors import anchors
from reports.sections._section import Section
from reports.sections._status import by_attention, counts, telling

MOST_CARDS = 8

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Verdict</h2>
{% if not results %}
<p>No analysis has finished.</p>
{% else %}
<p class="tally">{{ results | length }} {{ "analysis" if results | length == 1 else "analyses" }}:
{% for status, count in tally %}<span class="count">{{ m.badge(status) }} {{ count }}</span>{% endfor %}</p>
<ul class="cards">
{% for result, anchor in cards %}
<li class="card {{ signs[result.verdict.status][0] }}">
<div class="card-head">{{ m.badge(result.verdict.status) }}<a href="#{{ anchor }}">{{ result.title }}</a></div>
<p class="claim">{{ result.verdict.claim }}</p>
{% for evidence in telling(result.verdict.evidence) %}
<p class="measure"><span class="name">{{ evidence.name }}</span>
<b>{{ evidence.measured | with_unit(evidence.unit) }}</b>
<span class="bound">{% if evidence.relation %}must be {{ evidence.relation | relation }} {{ evidence.threshold | with_unit(evidence.unit) }}{% endif %}
{{ " · " if evidence.relation and evidence.where }}{{ evidence.where }}</span></p>
{% endfor %}
{% if result.verdict.why %}<p class="why">{{ result.verdict.why }}</p>{% endif %}
</li>
{% endfor %}
</ul>
{% if more %}<p class="more"><a href="#results">and {{ more }} more</a></p>{% endif %}
{% endif %}
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    place = {id(result): anchor for result, anchor in zip(results, anchors(results), strict=True)}
    cards = [(result, place[id(result)]) for result in by_attention(results)[:MOST_CARDS]]
    context = {"results": results, "cards": cards, "more": len(results) - len(cards), "tally": counts(results), "telling": telling}
    return Markup(environment.from_string(_TEMPLATE).render(**context))


SECTION = Section(name="verdicts", title="Verdict", order=10, html=_html)
