"""Which key may each query see?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True)
class AttentionMask:
    """The keys that every query may see.

    `allowed` is Bool[batch 1 query key], or None for the causal triangle and nothing else, which the fused kernel
    knows by itself. `blind`, Bool[batch 1 query 1], marks queries that may see nothing (None if there are none):
    their rows of the pattern and of z are 0, never NaN.
    """

    allowed: Tensor | None
    blind: Tensor | None = None

    def matrix(self, n_query: int, device: torch.device) -> Bool[Tensor, "rows 1 query key"]:
        """The mask written out."""
        return triangle(n_query, device) if self.allowed is None else self.allowed

    def repeat(self, n: int) -> AttentionMask:
        """The mask of n copies of the batch, one after another."""
        if self.allowed is None:
            return self
        return AttentionMask(self.allowed.repeat(n, 1, 1, 1), None if self.blind is None else self.blind.repeat(n, 1, 1, 1))


def triangle(n: int, device: torch.device) -> Bool[Tensor, "1 1 query key"]:
    """True on and below the diagonal: a query sees itself and what came before."""
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()[None, None]


def causal_mask(mask: Bool[Tensor, "batch pos"] | None) -> AttentionMask:
    """A query sees itself and earlier positions, real tokens only.

    >>> causal_mask(torch.tensor([[False, True, True]])).allowed[0, 0].int()
    tensor([[0, 0, 0],
            [0, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    if mask is None:
        return AttentionMask(None)
    allowed = triangle(mask.shape[1], mask.device) & mask[:, None, None, :]  # batch 1 query key
    blind = ~allowed.any(-1, keepdim=True)  # batch 1 query 1
    return AttentionMask(allowed, blind if bool(blind.any()) else None)
