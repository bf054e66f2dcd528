"""What is an online statistic? It is shown one batch after another, merges with another of its kind, and ends in a table."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.observable import Observable

Part = Mapping[str, np.ndarray]
"""Numbers that can be joined with others of their kind, name → array, in float64 but for counts of things that have numbers."""


@runtime_checkable
class RowsLike(Protocol):
    """A pattern that is computed a few queries at a time.

    `read` gives α and ln α, Float[batch head query key], of some queries over the keys of their reach (ln α is a large negative
    number at hidden keys), both the reader's own, and what each query may see of these keys.
    """

    @property
    def n_query(self) -> int: ...

    def chunks(self, limit: int) -> Sequence[slice]: ...

    def reach(self, queries: slice) -> slice: ...

    def read(self, queries: slice) -> tuple[Tensor, Tensor, SightLike]: ...


class SightLike(Protocol):
    """What some queries may see: `counts`, Int[rows 1 query], how many keys; `at(index)`, Bool[batch 1 query], whether one of them."""

    @property
    def counts(self) -> Int[Tensor, "rows 1 query"]: ...

    def at(self, index: Int[Tensor, "batch query"]) -> Bool[Tensor, "batch 1 query"]: ...


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a statistic is shown: the values of one group of sites in one batch, in fp32 at least.

    The sites of a group share the sequence along their position axis: `tokens` and `mask` (True at real tokens) are of that
    sequence, and `key_mask` of the keys of a pattern. `first_example` is the number of the batch's first example.
    """

    values: Mapping[str, Any]
    """site → its value, or `RowsLike` for a statistic that reads patterns by rows"""
    tokens: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    key_mask: Bool[Tensor, "batch key"]
    first_example: int

    @property
    def positions(self) -> Int[Tensor, "batch pos"]:
        """The number of each token among the real ones, from 0; what padding has is not to be used."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Statistic(ABC):
    """An online measurement: frozen parameters, and a state that does not grow with the number of examples.

    Every step gives a new statistic and leaves the old one as it is. `merge` is associative and commutative up to rounding,
    so that shards of a corpus, read on different machines, give the numbers of the whole. Masked positions never count.
    """

    by_rows: ClassVar[bool] = False
    """does it read patterns by rows, without writing them out?"""

    state: Mapping[str, Part] = field(default_factory=dict, repr=False, compare=False)

    @abstractmethod
    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        """The groups of sites that it needs; those of a group are shown together, as soon as the last of them has its value."""

    def update(self, seen: Seen) -> Self:
        """The statistic of what was seen so far and of this."""
        return self.merge(replace(self, state=self._measure(seen)))

    def merge(self, other: Self) -> Self:
        """The statistic of both. Raises ValueError for one of another kind or with other parameters."""
        if type(other) is not type(self) or other != self:
            raise ValueError(f"only equal statistics can be merged, got {self!r} and {other!r}")
        joined = dict(self.state)
        for key, part in other.state.items():
            joined[key] = self._join(joined[key], part) if key in joined else part
        return replace(self, state=joined)

    @abstractmethod
    def finish(self) -> pd.DataFrame:
        """The table. Where there is no data, numbers are NaN."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """The state as plain arrays, for `numpy.savez` and the like."""
        return {f"{key}|{name}": values for key, part in self.state.items() for name, values in part.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> Self:
        """The statistic with these parameters and that state, the inverse of `state_dict`."""
        parts: dict[str, dict[str, np.ndarray]] = {}
        for name in state:
            key, _, last = name.rpartition("|")
            parts.setdefault(key, {})[last] = np.asarray(state[name])
        return replace(self, state=parts)

    @abstractmethod
    def _measure(self, seen: Seen) -> dict[str, Part]:
        """The state after this batch alone."""

    @abstractmethod
    def _join(self, a: Part, b: Part) -> Part:
        """One part of two."""


def exact(values: Tensor) -> Float[Tensor, "..."]:
    """In float64; on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).to(torch.float64)


def to_numpy(values: Tensor) -> np.ndarray:
    """As an array in float64, or of whole numbers where it holds such."""
    return (values if not values.is_floating_point() else exact(values)).detach().cpu().numpy()
