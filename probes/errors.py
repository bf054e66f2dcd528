"""What can go wrong when a model is watched or changed? Each mistake is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SiteError(ValueError):
    """A site, an edit or a recording that cannot do what was asked."""


class UnknownSiteError(SiteError, KeyError):
    """A name that no site has. The message holds the nearest names."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = list(known)
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {len(known)} sites, for example {', '.join(known[:3])}"
        super().__init__(f"no site matches {name!r}; {hint}")

    def __str__(self) -> str:  # KeyError would show the repr
        return str(self.args[0])


def did_not_fire(names: Iterable[str]) -> SiteError:
    """The error for a `with` block that ended although some of its sites never had a value."""
    names = list(names)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return SiteError(f"{names[0]}{more} did not fire: no forward pass of this model ran inside the block, or it took a compiled path that skips hooks")
