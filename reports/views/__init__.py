"""Which figures can a reader work with? Every file here that does not begin with `_` exports one `VIEW`; adding one is adding a file.

A view is two files: this folder says which data its script gets, `assets/views/NAME.js` is the script and `assets/views/NAME.css`
its look. A script is one block in braces, so that nothing in it has a name on the page, and registers `views.NAME = (host, data) => …`.
The page runs it where the script can run and then hides the static picture, which stays for paper and for readers without scripts.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from importlib import import_module

from reports.figures import Figure
from reports.tabular import file_name
from reports.views._view import Placed, View, as_json

__all__ = ["Placed", "View", "as_json", "discover", "placed_views", "view_of"]


def discover() -> tuple[View, ...]:
    """All views by name.

    Raises:
        AttributeError: if a file exports no `VIEW`.

    >>> "attention" in [view.name for view in discover()]
    True
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    return tuple(import_module(f"{__name__}.{name}").VIEW for name in names)


def view_of(figure: Figure) -> View | None:
    """The view that shows figures of this kind, None where the picture is all there is."""
    return next((view for view in discover() if view.kind is type(figure)), None)


def placed_views() -> Callable[[Figure, str], Placed | None]:
    """For one page: a function from a figure and its analysis to its view, under an id of its own; None where it has no view."""
    taken: list[str] = []

    def place(figure: Figure, analysis: str) -> Placed | None:
        view = view_of(figure)
        data = view.data(figure) if view else None
        if view is None or data is None:
            return None
        name = f"view-{file_name(analysis)}-{figure.name}"
        taken.append(name)
        return Placed(name=view.name, id=name if taken.count(name) == 1 else f"{name}-{taken.count(name)}", json=as_json(data))

    return place
