"""What is each head like, and which ones matter? Maps of scores and of the effects of ablation, and the heads that stand out, in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result
from reports.sections._flagged_heads import flagged_heads
from reports.sections._parts import figures_html, has_figures
from reports.sections._section import Section

_SEE = (
    "One cell per head, layers downwards. A head that is bright in a map of scores and pale in a map of ablation looks busy and does "
    "not matter here; brackets join the query heads that read one key-value head."
)
_TABLE = """
<div class="panel" role="group" aria-labelledby="flagged-heads">
<h3 class="source" id="flagged-heads">Heads that stand out</h3>
<p class="caption">Their scores as the analyses measured them, and {{ what }} with its 95 % interval. A column's head sorts by it.</p>
<div class="scroll" tabindex="0" role="group" aria-label="Heads that stand out">
<table class="dense" data-sortable><thead><tr>
{% for name in frame.columns %}<th scope="col" title="{{ columns[name].meaning }}"{% if name not in words %} class="number"{% endif %}>{{ name }}</th>
{% endfor %}</tr></thead>
<tbody>
{% for row in frame.itertuples(index=False) %}<tr>{% for name, cell in zip(frame.columns, row) %}<td class="{{ "words" if name == "why" else "number" if name not in words else "code" }}"{% if cell != cell %} aria-label="n/a">–{% else %}>{{ cell }}{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</div>
"""


def _html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
    figures = figures_html("heads", "Heads", _SEE, results, environment)
    found = flagged_heads(results) if figures else None
    if found is None:
        return figures
    what = found.columns["effect"].meaning if "effect" in found.columns else "why they are here"
    context = {"frame": found.frame, "columns": found.columns, "what": what, "words": ("head", "why"), "zip": zip}
    return figures + Markup(environment.from_string(_TABLE).render(**context))


SECTION = Section(name="heads", title="Heads", order=40, html=_html, filled=lambda results: has_figures("heads", results))
