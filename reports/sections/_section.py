"""What is a section of the page? A name, a place in the order, and a function from the results to HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from reports.result import Result


@dataclass(frozen=True, kw_only=True)
class Link:
    """A line of the page's navigation; `status` is that of a verdict, or empty."""

    target: str
    text: str
    status: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of the page.

    `html(run, results, environment)` gets the run's mapping (`title`, `state`, `provenance` and `missing` are always there), the
    results in order and a jinja2 environment with autoescape on, and returns the inside of `<section id=NAME>`, its `<h2>` included.
    `links` gives the lines of the navigation below its own; a section without a title has none. `filled` tells whether the results
    have anything for it: where they have not, it is left out of the page and of the navigation.
    """

    name: str
    title: str
    order: int
    html: Callable[[Mapping[str, Any], Sequence[Result], Environment], Markup]
    links: Callable[[Sequence[Result]], Sequence[Link]] | None = None
    filled: Callable[[Sequence[Result]], bool] | None = None

    def navigation(self, results: Sequence[Result]) -> Sequence[Link]:
        """The lines that lead to this section and into it; none where there is nothing to show."""
        if self.filled is not None and not self.filled(results):
            return []
        own = [Link(target=self.name, text=self.title)] if self.title else []
        return [*own, *(self.links(results) if self.links else [])]
