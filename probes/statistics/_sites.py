"""How does a statistic of single tokens look at a site? The sink, the first real token, apart from all others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import SiteError
from probes.observable import Observable, find, layer_of
from probes.statistics._contract import Part, Seen, Statistic, exact

FIRST, REST = "first", "rest"
ALL, WITHOUT_FIRST = "all", "without first"
"""the column `positions`: every real token, or all but the first, on which massive activations rest (Sun et al. 2024)"""

Of = Literal["value", "magnitude", "norm"]
"""every coordinate x, its |x|, or ‖x‖ over the coordinates"""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The values of some tokens at a site, and which tokens these are."""

    values: Float[Tensor, "token *axes d"]
    example: Int[Tensor, "token"]
    position: Int[Tensor, "token"]
    """number among the real tokens of the example"""
    token: Int[Tensor, "token"]


@dataclass(frozen=True, kw_only=True)
class SiteStatistic(Statistic):
    """A statistic of what stands at each token, site by site.

    `at` is a name, a glob, or several, of sites that have a position axis. Its parts are kept by kind of token: the first
    real one of each example, and the rest.
    """

    at: str | tuple[str, ...]

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        """Each site alone. Raises UnknownSiteError for a name that matches nothing, SiteError for a site without a position axis."""
        known = model.sites()
        names = find(self.at, known)
        if wrong := [name for name in names if known[name].axes[:2] != ("batch", "pos")]:
            raise SiteError(f"{type(self).__name__} reads sites with axes batch pos …, but {wrong[0]} has {' '.join(known[wrong[0]].axes)}")
        return [(name,) for name in names]

    def _measure(self, seen: Seen) -> dict[str, Part]:
        ((name, value),) = seen.values.items()
        return {f"{name}|{kind}": self._of(tokens_of(seen, value, chosen)) for kind, chosen in self._kinds(seen).items()}

    def _kinds(self, seen: Seen) -> dict[str, Bool[Tensor, "batch pos"]]:
        """Kinds of real tokens that are kept apart."""
        first = seen.positions == 0
        return {FIRST: seen.mask & first, REST: seen.mask & ~first}

    @abstractmethod
    def _of(self, tokens: Tokens) -> Part:
        """The part of these tokens, of which there may be none."""

    def _versions(self) -> Iterator[tuple[dict[str, object], Part]]:
        """What the rows of the table are called, with the part of each: every site, with and without the first tokens."""
        for name in dict.fromkeys(key.rpartition("|")[0] for key in self.state):
            first, rest = (self.state[f"{name}|{kind}"] for kind in (FIRST, REST))
            label = {"site": name, "layer": layer_of(name)}
            yield label | {"positions": ALL}, self._join(first, rest)
            yield label | {"positions": WITHOUT_FIRST}, rest


def tokens_of(seen: Seen, value: Tensor, chosen: Bool[Tensor, "batch pos"]) -> Tokens:
    """The chosen tokens, one after another."""
    example, place = (chosen.to(value.device)).nonzero(as_tuple=True)
    where = example.to(seen.tokens.device), place.to(seen.tokens.device)
    return Tokens(
        values=value[example, place], example=example + seen.first_example, position=seen.positions[where], token=seen.tokens[where]
    )


def reduced(values: Float[Tensor, "token *axes d"], of: Of) -> Float[Tensor, "token *axes d"]:
    """The numbers that are looked at, in float64; the last axis is 1 for a norm."""
    values = exact(values)
    return values.norm(dim=-1, keepdim=True) if of == "norm" else values.abs() if of == "magnitude" else values


def tidy(rows: list[dict[str, object]]) -> pd.DataFrame:
    """Rows as a table whose whole numbers stay whole where some are missing."""
    table = pd.DataFrame(rows)
    whole = [name for name in ("layer", "head", "unit", "n", "rank", "example", "position", "token") if name in table]
    return table.astype(dict.fromkeys(whole, "Int64"))


def divided(total: np.ndarray, n: np.ndarray) -> np.ndarray:
    """total / n, NaN where n is 0."""
    total, n = np.broadcast_arrays(np.asarray(total, dtype=float), np.asarray(n, dtype=float))
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0)
