"""What has changed since the baseline? Verdicts with what they were, the numbers behind them, and the largest changes in every table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._section import Section
from reports.text import with_unit

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Since the baseline</h2>
<div class="panel">
<p>Against <b>{{ b.title }}</b>{% if b.command %} (<span class="code">{{ b.command }}</span>){% endif %}:
{% if b.same %}the same questions, and the same answers.{% else %}{{ moved | length }} of {{ b.n_verdicts }} verdicts and
{{ differing | length }} of {{ b.n_tables }} tables differ{% if asked %}, and so do the parameters{% endif %}.{% endif %}</p>
{% if b.verdicts %}
<div class="scroll" tabindex="0" role="group" aria-label="Verdicts since the baseline">
<table class="evidence"><thead><tr><th scope="col">verdict or number</th><th scope="col">was</th><th scope="col">is</th></tr></thead><tbody>
{% for v in b.verdicts %}
<tr><th scope="row"><b>{{ v.title }}</b></th><td>{% if v.was %}{{ m.badge(v.was) }}{% else %}not asked{% endif %}</td><td>{% if v.now %}{{ m.badge(v.now) }}{% else %}not asked{% endif %}</td></tr>
{% for e in v.evidence %}<tr><th scope="row">{{ e.name }}</th><td>{{ number(e.was, e.unit) }}</td><td>{{ number(e.now, e.unit) }}</td></tr>
{% endfor %}{% endfor %}
</tbody></table></div>
{% endif %}
{% if b.tables %}
<h3>Tables</h3>
<dl class="facts">
{% for t in b.tables %}<div><dt>{{ t.analysis }}/{{ t.table }}</dt><dd>{{ t.outcome }}{% if not t.changed and t.detail %}: {{ t.detail }}{% endif %}{% if t.only_before or t.only_now %}; {{ t.only_before }} rows only before, {{ t.only_now }} only now{% endif %}{% if t.n_changed %}; {{ t.n_changed }} {{ "number" if t.n_changed == 1 else "numbers" }} changed, the largest:<ul>{% for c in t.changed %}<li>{{ c.row }}, <b>{{ c.column }}</b>: was {{ number(c.was, "") }}, is {{ number(c.now, "") }}</li>{% endfor %}</ul>{% endif %}</dd></div>
{% endfor %}
</dl>
{% endif %}
{% if b.settings %}
<details><summary>Settings and versions that differ ({{ b.settings | length }})</summary>
<dl class="facts">{% for s in b.settings %}<div><dt>{{ s.name }}</dt><dd>{{ s.was }} → {{ s.now }}</dd></div>{% endfor %}</dl></details>
{% endif %}
</div>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    baseline = run.get("baseline")
    if not baseline:
        return Markup("")
    context = {
        "b": baseline,
        "moved": [v for v in baseline["verdicts"] if v["was"] != v["now"]],
        "number": _number,
        "differing": [t for t in baseline["tables"] if t["outcome"] == "differs"],
        "asked": any(s["name"].startswith("parameters ") for s in baseline["settings"]),
    }
    return Markup(environment.from_string(_TEMPLATE).render(**context))


def _number(value: float | None, unit: str) -> str:
    return "not there" if value is None else with_unit(value, unit)


SECTION = Section(name="baseline", title="Since the baseline", order=15, html=_html)
