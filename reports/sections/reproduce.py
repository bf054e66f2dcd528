"""Can it be run again, and what does it leave open? The exact command, everything it depended on, and the limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.content import content_hash
from reports.result import Result
from reports.sections._section import Section

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>Reproduce</h2>
{% if command %}
<p>This command gives these numbers again, except times and memory readings.</p>
<pre tabindex="0"><code>{{ command }}</code></pre>
{% endif %}
<h3>What this report does not show</h3>
{% if limits %}
<ul class="limits-list">{% for title, text in limits %}<li><b>{{ title }}:</b> {{ text | prose }}</li>{% endfor %}</ul>
{% else %}
<p>No analysis states a limit.</p>
{% endif %}
{% if facts %}
<h3>Provenance</h3>
<details><summary>{{ facts | length }} parameters, versions, sizes and digests</summary>
{{ m.pairs(facts, "facts") }}</details>
{% endif %}
<p class="fine">In CSV files, text that a spreadsheet would read as a formula begins with an apostrophe.
Content hash (parameters, verdicts and tables without times): <span class="code">{{ digest }}</span></p>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    provenance = dict(run["provenance"])
    command = provenance.pop("command", "")
    parameters = {"parameters": run["parameters"]} if run.get("parameters") else {}
    limits = [(result.title, result.limits) for result in results if result.limits]
    facts = environment.filters["flat"]({**parameters, **provenance})
    context = {"command": command, "facts": facts, "limits": limits, "digest": content_hash(results)}
    return Markup(environment.from_string(_TEMPLATE).render(**context))


SECTION = Section(name="reproduce", title="Reproduce", order=120, html=_html)
