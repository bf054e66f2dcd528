"""Which key may each query see?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from model.config import Span


@dataclass(frozen=True)
class AttentionMask:
    """The keys that every query may see.

    `allowed` is Bool[rows 1 query key]. None says that a rule which the fused kernel knows by itself is all there is: the
    causal triangle if `triangular`, else every key. `blind`, Bool[rows 1 query 1], marks queries that may see nothing
    (None if there are none): their rows of the pattern and of z are 0, never NaN.
    """

    allowed: Tensor | None
    blind: Tensor | None = None
    triangular: bool = False

    def matrix(self, n_query: int, n_key: int, device: torch.device) -> Bool[Tensor, "rows 1 query key"]:
        """The mask written out."""
        if self.allowed is not None:
            return self.allowed
        everything = torch.ones(n_query, n_key, dtype=torch.bool, device=device)
        return (everything.tril() if self.triangular else everything)[None, None]

    def repeat(self, n: int) -> AttentionMask:
        """The mask of n copies of the batch, one after another."""
        if self.allowed is None or self.allowed.shape[0] == 1:
            return self
        return AttentionMask(self.allowed.repeat(n, 1, 1, 1), None if self.blind is None else self.blind.repeat(n, 1, 1, 1))


def attention_mask(
    queries: Int[Tensor, "rows query"], keys: Int[Tensor, "rows key"], key_mask: Bool[Tensor, "batch key"] | None, *,
    causal: bool, span: Span = Span(),
) -> AttentionMask:
    """Who sees whom, given the positions of queries and keys and which keys are real.

    >>> positions = torch.tensor([[0, 0, 1]])
    >>> attention_mask(positions, positions, torch.tensor([[False, True, True]]), causal=True).allowed[0, 0].int()
    tensor([[0, 0, 0],
            [0, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    n_query, n_key = queries.shape[1], keys.shape[1]
    if span.kind == "window" and span.size >= n_key:
        span = Span()
    if key_mask is None and span.kind == "all" and (not causal or n_query == n_key):
        return AttentionMask(None, triangular=causal)
    allowed = torch.ones(1, n_query, n_key, dtype=torch.bool, device=queries.device)
    if causal:  # by place, not by position: padding shares positions with its neighbours
        allowed = allowed.tril(n_key - n_query)
    allowed = _within(span, queries, keys) & allowed  # rows query key
    if key_mask is not None:
        allowed = allowed & key_mask.unsqueeze(1)
    blind = ~allowed.any(-1, keepdim=True)  # rows query 1
    return AttentionMask(allowed.unsqueeze(1), blind.unsqueeze(1) if bool(blind.any()) else None)


def _within(span: Span, queries: Tensor, keys: Tensor) -> Bool[Tensor, "rows query key"]:
    """Is the key within the span of the query?"""
    i, j = queries.unsqueeze(2), keys.unsqueeze(1)  # rows query 1, rows 1 key
    if span.kind == "window":
        return (i - j).abs() < span.size
    if span.kind == "block":
        return (i // span.size == j // span.size) | (i < span.n_global) | (j < span.n_global)
    return torch.ones(1, 1, 1, dtype=torch.bool, device=queries.device)
