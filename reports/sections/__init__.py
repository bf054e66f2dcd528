"""Which parts has the page? Every file here that does not begin with `_` exports one `SECTION`; adding a section is adding a file."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from reports.sections._section import Section


def discover() -> tuple[Section, ...]:
    """All sections in the order of the page, ties by name.

    Raises:
        AttributeError: if a file exports no `SECTION`.

    >>> [section.name for section in discover() if section.order in (0, 10, 20)]
    ['header', 'verdicts', 'gates']
    """
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    sections = [import_module(f"{__name__}.{name}").SECTION for name in names]
    return tuple(sorted(sections, key=lambda section: (section.order, section.name)))
