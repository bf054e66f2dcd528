"""How is a pattern that a foreign model has written out read by rows?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class WrittenRows:
    """A pattern that is in memory, as `RowsLike`. A key is taken to be visible where any head gives it mass."""

    pattern: Float[Tensor, "batch head query key"]

    @property
    def n_query(self) -> int:
        """How many queries there are."""
        return self.pattern.shape[2]

    def chunks(self, limit: int) -> list[slice]:
        """Consecutive queries with at most `limit` entries, but one query at least."""
        size = max(1, limit // self.pattern[:, :, 0].numel())
        return [slice(i, min(i + size, self.n_query)) for i in range(0, self.n_query, size)]

    def reach(self, queries: slice) -> slice:
        """Every key."""
        return slice(0, self.pattern.shape[3])

    def read(self, queries: slice) -> tuple[Tensor, Tensor, WrittenSight]:
        """α, ln α (a large negative number where α is 0), and the keys with mass in any head."""
        alpha = self.pattern[:, :, queries].clone()
        return alpha, alpha.log().clamp(min=torch.finfo(alpha.dtype).min / 2), WrittenSight((alpha > 0).any(1, keepdim=True))


@dataclass(frozen=True)
class WrittenSight:
    """Which keys each query sees, written out."""

    visible: Bool[Tensor, "batch 1 query key"]

    @property
    def counts(self) -> Int[Tensor, "batch 1 query"]:
        """How many."""
        return self.visible.sum(-1)

    def at(self, index: Int[Tensor, "batch query"]) -> Bool[Tensor, "batch 1 query"]:
        """Whether each query sees one key."""
        return self.visible.gather(-1, index[:, None, :, None])[..., 0]
