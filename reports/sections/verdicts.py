"""Is something wrong? One sentence, then at most eight cards, failures first: what was found, the number that tells, where; then what nobody checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._anchors import anchors, place_of
from reports.sections._section import Section
from reports.sections._status import UNCHECKED, answer, by_attention, counts, is_study, telling
from reports.sections._unchecked import unchecked

MOST_CARDS = 8

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Verdict</h2>
{% if not results %}
<p>No analysis has finished.</p>
{% else %}
{% if answer %}<p class="answer">{{ answer }}</p>{% endif %}
<p class="tally">{{ results | length }} {{ "analysis" if results | length == 1 else "analyses" }}:
{% for status, count in tally %}<span class="count">{{ m.badge(status) }} {{ count }}</span>{% endfor %}
{% if open %}<span class="count"><a href="#not-checked">{{ m.badge(none_status) }} {{ open | length }}</a></span>{% endif %}</p>
<ul class="cards">
{% for result, anchor in cards %}
<li class="card {{ signs[result.verdict.status][0] }}">
<div class="card-head">{{ m.badge(result.verdict.status) }}<a href="#{{ anchor }}">{{ result.title }}</a></div>
<p class="claim">{{ result.verdict.claim | first_sentence | prose }}</p>
{% for evidence in telling(result.verdict.evidence, 1 if signs[result.verdict.status][0] == "good" else 2) %}
<p class="measure"><span class="name">{{ evidence.name | prose }}</span>
<b>{{ evidence.measured | with_unit(evidence.unit) }}</b>
<span class="bound">{% if evidence.relation %}{{ "predicted" if evidence.outcome else "must be" }} {{ evidence | bound }}{% endif %}
{{ " · " if evidence.relation and evidence.where }}{% if evidence.where %}<a href="#{{ place(evidence, result, anchor) }}">{{ evidence.where | prose }}</a>{% endif %}</span></p>
{% endfor %}
<p class="go"><a href="#{{ anchor }}" aria-label="more on {{ result.title | label }}">more</a></p>
</li>
{% endfor %}
</ul>
{% if more %}<p class="more"><a href="#results">and {{ more }} more</a></p>{% endif %}
{% endif %}
{% if open %}
<details class="unchecked-list" id="not-checked"{% if open | length <= 6 %} open{% endif %}><summary>{{ m.badge(none_status) }} What nobody looked at</summary>
<ul>{% for one in open %}<li>{% if one.target %}<a href="#{{ one.target }}">{{ one.name }}</a>{% else %}<b>{{ one.name }}</b>{% endif %}: {{ one.reason }}</li>{% endfor %}</ul></details>
{% endif %}
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    place = {id(result): anchor for result, anchor in zip(results, anchors(results), strict=True)}
    cards = [(result, place[id(result)]) for result in by_attention(results)[:MOST_CARDS]]
    context = {"results": results, "cards": cards, "more": len(results) - len(cards), "tally": counts(results), "telling": telling, "place": place_of, "answer": answer(results)}
    context |= {"open": unchecked(run, results), "none_status": UNCHECKED}
    return Markup(environment.from_string(_TEMPLATE).render(**context))


def _filled(results: Sequence[Result]) -> bool:
    """Questions of design have a table of their own; a run that holds nothing says so here."""
    return not results or not all(map(is_study, results))


SECTION = Section(name="verdicts", title="Verdict", order=10, html=_html, filled=_filled)
