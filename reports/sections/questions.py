"""Which popular answers hold? One line per question: what is said, how it stands, and the number that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Evidence, Result, Verdict
from reports.sections._anchors import anchors
from reports.sections._section import Section
from reports.sections._status import STUDIED, holds, is_study

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Questions</h2>
<p class="tally">{{ rows | length }} {{ "question" if rows | length == 1 else "questions" }}:
{% for status, count in tally %}<span class="count">{{ m.badge(status) }} {{ count }}</span>{% endfor %}</p>
<div class="panel"><div class="scroll" tabindex="0" role="group" aria-label="Table: questions">
<table class="questions"><thead><tr><th scope="col">question</th><th scope="col">popular answer</th><th scope="col">verdict</th>
<th scope="col">what decides</th></tr></thead>
<tbody>
{% for result, anchor, evidence, kept in rows %}
<tr><th scope="row"><a href="#{{ anchor }}">{{ result.title }}</a></th><td class="words">{{ result.notes.get("popular answer", "") | prose }}</td>
<td>{{ m.badge(result.verdict.status) }}{% if kept %}<span class="kept">{{ kept }}</span>{% endif %}</td>
<td class="words">{% if evidence %}{{ m.outcome(evidence, holds(evidence)) }}: {{ evidence.source | prose }} ({{ evidence.name | prose }} <b>{{ evidence.measured | with_unit(evidence.unit) }}</b>{% if evidence.where %} {{ evidence.where | prose }}{% endif %}){% endif %}</td></tr>
{% endfor %}
</tbody></table></div></div>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    placed = zip(results, anchors(results), strict=True)
    rows = [(result, anchor, _deciding(result.verdict.evidence), _kept(result.verdict)) for result, anchor in placed if is_study(result)]
    found = [result.verdict.status for result, *_ in rows]
    tally = [(status, found.count(status)) for status in STUDIED if status in found]
    return Markup(environment.from_string(_TEMPLATE).render(rows=rows, tally=tally, holds=holds))


def _kept(verdict: Verdict) -> str:
    """How many parts of the answer hold; nothing where a gate is broken, since then none is decided."""
    outcomes = [one.outcome for one in verdict.evidence if one.outcome]
    if not outcomes or verdict.status == "gate failed":
        return ""
    return f"{outcomes.count('holds')} of {len(outcomes)} {'part holds' if len(outcomes) == 1 else 'parts hold'}"


def _deciding(evidence: Sequence[Evidence]) -> Evidence | None:
    """What decides the verdict: a gate that is broken, else the first prediction that fails, else the first."""
    broken = [one for one in evidence if not one.outcome and holds(one) is False]
    predicted = sorted((one for one in evidence if one.outcome), key=lambda one: one.outcome != "fails")
    return next(iter([*broken, *predicted]), None)


SECTION = Section(name="questions", title="Questions", order=8, html=_html, filled=lambda results: any(map(is_study, results)))
