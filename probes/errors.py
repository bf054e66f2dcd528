"""What can go wrong when a model is watched or changed? Each mistake is one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

import torch


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


def check_evaluating(model: Any) -> None:
    """Raises SiteError for a module whose passes are random, or change it: with dropout or batch norm in training mode.

    >>> check_evaluating(torch.nn.Dropout(0.1))
    Traceback (most recent call last):
    probes.errors.SiteError: the model is in training mode, in which dropout or batch norm make its numbers others in every pass: call model.eval() first
    """
    for part in model.modules() if isinstance(model, torch.nn.Module) else ():
        if part.training and (_drops(part) or {"running_mean", "variance"} & set(part._buffers)):
            raise SiteError("the model is in training mode, in which dropout or batch norm make its numbers others in every pass: call model.eval() first")


def _drops(part: torch.nn.Module) -> bool:
    rates = (getattr(part, "dropout", 0), getattr(part, "p", 0), getattr(getattr(part, "config", None), "dropout", 0))
    return any(isinstance(rate, float) and rate > 0 for rate in rates)


def did_not_fire(names: Iterable[str]) -> SiteError:
    """The error for a `with` block that ended although some of its sites never had a value."""
    names = list(names)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return SiteError(f"{names[0]}{more} did not fire: no forward pass of this model ran inside the block, or it took a compiled path that skips hooks")
