"""How is a pattern that a foreign model has written out read by rows?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
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

    def read(self, queries: slice) -> tuple[Tensor, Tensor, Bool[Tensor, "rows 1 query key"]]:
        """α, ln α (a large negative number where α is 0), and the keys with mass in any head."""
        alpha = self.pattern[:, :, queries].clone()
        return alpha, alpha.log().clamp(min=torch.finfo(alpha.dtype).min / 2), (alpha > 0).any(1, keepdim=True)
