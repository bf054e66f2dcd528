"""Which figures answer one question together? Those that name the same part, of all results, in order, each beside its analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.figures import Figure, Part
from reports.result import Result
from reports.sections._anchors import anchors, figure_anchor
from reports.sections._section import Section

_TEMPLATE = """
{% import "macros.html" as m with context %}
<h2>{{ title }}</h2>
<p class="see">{{ see }}</p>
{% for result, anchor, figures in found %}
<div class="panel" aria-labelledby="{{ part }}-{{ anchor }}" role="group">
<h3 class="source" id="{{ part }}-{{ anchor }}"><a href="#{{ anchor }}">{{ result.title }}</a> {{ m.badge(result.verdict.status) }}</h3>
<div class="figures">
{% for figure in figures %}{{ m.figure(figure, result.analysis, place(anchor, figure)) }}{% endfor %}
</div>
</div>
{% endfor %}
"""

Found = tuple[Result, str, Sequence[Figure]]


def figures_of(results: Sequence[Result], part: Part) -> list[Found]:
    """The results that have figures of this part: result, its place on the page, those figures."""
    found = [
        (result, anchor, [f for f in result.figures if f.part == part]) for result, anchor in zip(results, anchors(results), strict=True)
    ]
    return [one for one in found if one[2]]


def has_figures(part: Part, results: Sequence[Result]) -> bool:
    """Does any result have a figure of this part?"""
    return any(figure.part == part for result in results for figure in result.figures)


def figures_html(part: Part, title: str, see: str, results: Sequence[Result], environment: Environment) -> Markup:
    """The heading, what to see, and the figures; nothing where there is none."""
    found = figures_of(results, part)
    if not found:
        return Markup("")
    return Markup(environment.from_string(_TEMPLATE).render(title=title, see=see, found=found, part=part, place=figure_anchor))


def section_of(part: Part, *, title: str, order: int, see: str) -> Section:
    """The section that shows the figures of a part, by its name; `see` says in a sentence or two what to look for."""

    def html(run: Mapping[str, Any], results: Sequence[Result], environment: Environment) -> Markup:
        return figures_html(part, title, see, results, environment)

    return Section(name=part, title=title, order=order, html=html, filled=partial(has_figures, part))
