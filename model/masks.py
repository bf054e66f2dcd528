"""Which key may each query see?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from model.config import Span
from model.places import Places, pick

EVERY = slice(None)
WHOLE = 2**24
"""how many entries of a mask or bias are kept written out between layers; more are written again, a few queries at a time"""


@dataclass(frozen=True, kw_only=True)
class AttentionMask:
    """The keys that every query may see, as a rule that is written out for the queries that are asked for.

    A key must be real, not later than the query if `causal`, and within the `span` of the query's position. `blind`,
    Bool[rows 1 query 1], marks queries that may see nothing (None if there are none): their rows of the pattern and of z
    are 0, never NaN.
    """

    queries: Int[Tensor, "rows query"]
    keys: Int[Tensor, "rows key"]
    key_mask: Bool[Tensor, "batch key"] | None
    causal: bool
    span: Span
    whole: Bool[Tensor, "rows 1 query key"] | None = None
    """the mask written out, where it is small"""
    blind: Bool[Tensor, "rows 1 query 1"] | None = None
    places: Int[Tensor, "rows query"] | None = None
    """where the queries stand among the keys; None for the last places, in order"""

    @property
    def plain(self) -> bool:
        """Is it one that the fused kernel knows by itself: the causal triangle, or every key?"""
        square = self.queries.shape[1] == self.keys.shape[1]
        ordered = square and self.places is None
        return self.key_mask is None and self.span.kind == "all" and (not self.causal or ordered)

    def rows(self, queries: slice = EVERY, keys: slice = EVERY) -> Bool[Tensor, "rows 1 query key"]:
        """The mask of some queries and keys, written out."""
        if self.whole is not None:
            return self.whole[:, :, queries, keys]
        n_query, n_key = self.queries.shape[1], self.keys.shape[1]
        place = torch.arange(max(n_query, n_key), device=self.queries.device)
        if self.causal:  # by place, not by position: padding shares positions with its neighbours
            at = place[:n_query] + (n_key - n_query) if self.places is None else self.places
            allowed = at[..., queries, None] >= place[:n_key][keys]
        else:
            allowed = torch.ones(len(place[:n_query][queries]), len(place[:n_key][keys]), dtype=torch.bool, device=place.device)
        if self.span.kind != "all":
            allowed = allowed & _within(self.span, self.queries[:, queries], self.keys[:, keys])  # rows query key
        if self.key_mask is not None:
            allowed = allowed & self.key_mask[:, None, keys]
        return allowed.unsqueeze(1) if allowed.dim() == 3 else allowed[None, None]

    def reach(self, queries: slice) -> slice:
        """Keys outside of which none of these queries sees any."""
        n_query, n_key = self.queries.shape[1], self.keys.shape[1]
        if self.places is not None:
            return slice(0, n_key)
        first, after, _ = queries.indices(n_query)
        start, stop = 0, after + n_key - n_query if self.causal else n_key
        if self.span.kind == "window" and self.key_mask is None:  # then positions differ as places do
            start = max(0, first + n_key - n_query - self.span.size + 1)
            stop = min(stop, after + n_key - n_query + self.span.size - 1)
        return slice(start, stop)

    def repeat(self, n: int) -> AttentionMask:
        """The mask of n copies of the batch, one after another."""

        def rows(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[0] == 1 else x.repeat(n, *[1] * (x.dim() - 1))

        names = ("queries", "keys", "key_mask", "whole", "blind", "places")
        return replace(self, **{name: rows(getattr(self, name)) for name in names})

    def at(self, places: Places) -> AttentionMask:
        """The mask of the queries at some places."""
        own = self.places
        if own is None and self.causal and not isinstance(places, slice):
            own = torch.arange(self.queries.shape[1], device=places.device)[None] + self.keys.shape[1] - self.queries.shape[1]
        whole, blind = (pick(x, places, 2) for x in (self.whole, self.blind))
        return replace(self, queries=pick(self.queries, places), whole=whole, blind=blind, places=pick(own, places))


@dataclass(frozen=True)
class Sight:
    """What some queries see of the keys of their reach; written out only where no rule says it."""

    mask: AttentionMask
    queries: slice
    keys: slice

    @property
    def counts(self) -> Int[Tensor, "rows 1 query"]:
        """How many keys each query sees."""
        if self._last is None:
            return self.written.sum(-1)
        return (self._last + 1).clamp(max=self.keys.stop - self.keys.start)[None, None]

    @property
    def partial(self) -> slice:
        """Keys of the reach outside of which every query sees every key."""
        if self._last is not None:
            return slice(min(int(self._last[0]) + 1, self.keys.stop - self.keys.start), self.keys.stop - self.keys.start)
        columns = (~self.written.all(2).all(0)[0]).nonzero()
        return slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 0)

    @property
    def hidden(self) -> Bool[Tensor, "rows 1 query key"]:
        """True at the keys of `partial` that a query does not see."""
        return ~(self.written[..., self.partial] if self._last is None else self.mask.rows(self.queries, self._moved(self.partial)))

    def at(self, index: Int[Tensor, "batch query"]) -> Bool[Tensor, "batch 1 query"]:
        """Does each query see one key of the reach?"""
        if self._last is not None:
            return (index <= self._last)[:, None]
        return self.written.expand(len(index), -1, -1, -1).gather(-1, index[:, None, :, None])[..., 0]

    @cached_property
    def written(self) -> Bool[Tensor, "rows 1 query key"]:
        """The mask of these queries and keys."""
        return self.mask.rows(self.queries, self.keys)

    @cached_property
    def _last(self) -> Int[Tensor, "query"] | None:
        """The last key of the reach that each query sees, where it sees all before it: in a causal sequence without padding."""
        mask, n_query, n_key = self.mask, self.mask.queries.shape[1], self.mask.keys.shape[1]
        if not mask.causal or mask.key_mask is not None or mask.span.kind != "all" or mask.places is not None:
            return None
        return torch.arange(*self.queries.indices(n_query), device=mask.queries.device) + (n_key - n_query - self.keys.start)

    def _moved(self, keys: slice) -> slice:
        return slice(keys.start + self.keys.start, keys.stop + self.keys.start)


def attention_mask(
    queries: Int[Tensor, "rows query"], keys: Int[Tensor, "rows key"], key_mask: Bool[Tensor, "batch key"] | None, *,
    causal: bool, span: Span = Span(),
) -> AttentionMask:
    """Who sees whom, given the positions of queries and keys and which keys are real.

    >>> positions = torch.tensor([[0, 0, 1]])
    >>> attention_mask(positions, positions, torch.tensor([[False, True, True]]), causal=True).rows()[0, 0].int()
    tensor([[0, 0, 0],
            [0, 1, 0],
            [0, 1, 1]], dtype=torch.int32)
    """
    n_query, n_key = queries.shape[1], keys.shape[1]
    if span.kind == "window" and span.size >= n_key:
        span = Span()
    mask = AttentionMask(queries=queries, keys=keys, key_mask=key_mask, causal=causal, span=span)
    if mask.plain:
        return mask
    n_rows = len(queries) if key_mask is None else len(key_mask)
    if n_rows * n_query * n_key <= WHOLE:
        mask = replace(mask, whole=mask.rows())
    if key_mask is None:  # a query sees itself
        return mask
    blind = torch.cat([~mask.rows(some).any(-1, keepdim=True) for some in chunks(n_query, n_rows * n_key)], dim=2)  # rows 1 query 1
    return replace(mask, blind=blind if bool(blind.any()) else None)


def chunks(n_query: int, entries_per_query: int, limit: int = WHOLE) -> list[slice]:
    """Consecutive queries whose rows have at most `limit` entries together, but one query at least.

    >>> chunks(5, 10, limit=25)
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    size = max(1, limit // entries_per_query)
    return [slice(i, min(i + size, n_query)) for i in range(0, n_query, size)]


def _within(span: Span, queries: Tensor, keys: Tensor) -> Bool[Tensor, "rows query key"]:
    """Is the key within the span of the query?"""
    i, j = queries.unsqueeze(2), keys.unsqueeze(1)  # rows query 1, rows 1 key
    if span.kind == "window":
        return (i - j).abs() < span.size
    return (i // span.size == j // span.size) | (i < span.n_global) | (j < span.n_global)
