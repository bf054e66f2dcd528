"""What is read off some rows of a pattern, with the first key and without it?

The first key's mass a is taken out of the rows and kept apart; then every number of a whole row is that of the rest plus
that of a, and every number of the row without it is that of the rest, renormalised. Nothing is a difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.statistics._contract import RowsLike, Seen, SightLike

BINS = 22
"""of distances: 0, 1, 2–3, 4–7, … up to two million"""
SHARE = 0.9
"""of a row's mass that its window holds"""

Found = tuple[Float[Tensor, "version batch head query"], Bool[Tensor, "version batch head query"] | None]
"""values of rows, all keys and without the first; and where they are defined, None for everywhere"""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some rows of a pattern without the first key, ready to be measured. Keys are those of the rows' reach."""

    log_alpha: Float[Tensor, "batch head query key"]
    alpha: Float[Tensor, "batch head query key"]
    """0 at the first key"""
    first: Float[Tensor, "batch head query"]
    """mass on the first key"""
    rest: Float[Tensor, "batch head query"]
    """mass on all others"""
    far: Float[Tensor, "batch head query"] | None
    """Σ_j α_ij |i − j| over all others; None where queries and keys are of two sequences"""
    sight: SightLike
    places: Int[Tensor, "query"]
    """of the queries in the padded sequence"""
    offset: int
    """place of the first key of the reach"""
    seen: Seen
    counted: Bool[Tensor, "version batch head query"]
    """real queries that may see two keys, and two besides the first, on which something is left"""

    @classmethod
    def of(cls, pattern: RowsLike, queries: slice, seen: Seen, *, one_sequence: bool) -> Rows:
        """The rows of some queries, which are of the keys' own sequence or of another."""
        alpha, log_alpha, sight = pattern.read(queries)
        offset = pattern.reach(queries).start
        start = seen.key_mask.long().argmax(1)  # place of the first real key
        first, sees_first = _at(alpha, sight, start[:, None].expand(-1, alpha.shape[2]) - offset)
        inside = ((start >= offset) & (start < offset + alpha.shape[3])).nonzero()[:, 0]
        alpha[inside, :, :, start[inside] - offset] = 0.0
        places = torch.arange(*queries.indices(seen.mask.shape[1]), device=alpha.device)
        if one_sequence:
            own = slice(*(min(max(place - offset, 0), alpha.shape[3]) for place in (queries.start, queries.stop)))
            rest, far = _rest_and_far(alpha, seen.positions[:, queries], seen.positions[:, offset : offset + alpha.shape[3]], own)
        else:
            rest, far = alpha.sum(-1), None
        n_visible = sight.counts  # rows 1 query
        real = seen.mask[:, None, queries]  # batch 1 query
        counted = torch.stack(((n_visible >= 2) & real, (n_visible - sees_first.long() >= 2) & real)).expand(-1, *alpha.shape[:3])
        counted = counted & torch.stack((torch.ones_like(rest, dtype=torch.bool), rest > 0))
        return cls(
            log_alpha=log_alpha, alpha=alpha, first=first, rest=rest, far=far, sight=sight, places=places, offset=offset, seen=seen,
            counted=counted,
        )  # fmt: skip

    @property
    def query_positions(self) -> Int[Tensor, "batch query"]:
        """Among the real tokens."""
        return self.seen.positions[:, self.places]

    @property
    def key_positions(self) -> Int[Tensor, "batch key"]:
        """Among the real tokens."""
        return self.seen.positions[:, self.offset : self.offset + self.alpha.shape[3]]

    def both(self, rest: Tensor, of_first: Tensor) -> Tensor:
        """A sum over keys, of the whole row and of the row without the first key."""
        return torch.stack((rest + of_first, rest / self.rest.view(*self.rest.shape, *[1] * (rest.dim() - 3))))


def measured_rows(rows: Rows, which: Sequence[str]) -> dict[str, Found]:
    """Each quantity of each row."""
    found: dict[str, Found] = {}
    if "entropy" in which:
        found |= _entropy(rows)
    if "maximum" in which:
        largest = rows.alpha.amax(-1)
        found["maximum"] = torch.stack((torch.maximum(largest, rows.first), largest / rows.rest)), None
    if "first" in which:
        found["first"] = _mass_at(rows, rows.seen.key_mask.long().argmax(1)[:, None].expand(-1, len(rows.places)))
    if "previous" in which:
        found["previous"] = _mass_at(rows, previous_place(rows.seen.mask)[:, rows.places])
    if "same" in which:
        found["same"] = _mass_at(rows, rows.places.expand(len(rows.alpha), -1))
    if "last" in which:
        last = rows.seen.key_mask.shape[1] - 1 - rows.seen.key_mask.long().flip(1).argmax(1)
        found["last"] = _mass_at(rows, last[:, None].expand(-1, len(rows.places)))
    if "distance" in which:
        found["distance"] = rows.both(rows.far, rows.first * rows.query_positions[:, None]), None
    if "histogram" in which or "window" in which:
        found |= {name: value for name, value in _distances(rows).items() if name in which}
    return found


def _entropy(rows: Rows) -> dict[str, Found]:
    """H of the whole row; without the first key −Σ (α/m) ln (α/m) = −Σ α ln α / m + ln m, with m the mass of the rest."""
    spread = -_dot(rows.alpha, rows.log_alpha)
    entropy = torch.stack((spread - torch.xlogy(rows.first, rows.first), spread / rows.rest + rows.rest.log()))
    return {"entropy": (entropy, None), "effective_keys": (entropy.exp(), None)}


def _dot(a: Float[Tensor, "*axes key"], b: Float[Tensor, "*axes key"]) -> Float[Tensor, "*axes"]:
    """Σ_j a_j b_j, on the CPU without writing the products out."""
    return torch.from_numpy(np.vecdot(a.numpy(), b.numpy())) if a.device.type == "cpu" else (a * b).sum(-1)


def _rest_and_far(
    alpha: Float[Tensor, "batch head query key"], query: Int[Tensor, "batch query"], key: Int[Tensor, "batch key"], own: slice
) -> tuple[Float[Tensor, "batch head query"], Float[Tensor, "batch head query"]]:
    """Σ_j α_ij and Σ_j α_ij |i − j|, both in one product; the queries stand at the keys `own`.

    |i − j| is i − j = (i − m) + (m − j), with m one of the queries, and for the keys behind i twice j − i more.
    """
    query, key = query.to(alpha.dtype), key.to(alpha.dtype)  # exact up to 2²⁴
    middle = query[:, :1]
    beyond = (query - middle)[:, None]  # batch 1 query
    rest, before = _two_sums(alpha, middle - key)
    far = before + beyond * rest
    ahead = (key[:, None, own] - query[:, :, None]).clamp(min=0)  # batch query key
    far = far + 2 * (alpha[..., own] * ahead[:, None]).sum(-1)
    if own.stop >= key.shape[1]:
        return rest, far
    mass, after = _two_sums(alpha[..., own.stop :], key[:, own.stop :] - middle)
    return rest, far + 2 * (after - beyond * mass)


def _two_sums(alpha: Float[Tensor, "batch head query key"], weight: Float[Tensor, "batch key"]) -> tuple[Tensor, ...]:
    """Σ_j α_ij and Σ_j α_ij w_j, [batch head query] each."""
    weights = torch.stack((torch.ones_like(weight), weight), dim=-1)  # batch key 2
    return (alpha.flatten(1, 2) @ weights).unflatten(1, alpha.shape[1:3]).unbind(-1)


def _mass_at(rows: Rows, places: Int[Tensor, "batch query"]) -> Found:
    """Mass on one key of each query, given by its place in the padded sequence, −1 for none; over the rows that see it."""
    mass, there = _at(rows.alpha, rows.sight, places - rows.offset)
    start = rows.seen.key_mask.long().argmax(1)[:, None]
    is_first = ((places == start) & rows.seen.key_mask.any(1)[:, None])[:, None]  # batch 1 query
    values = torch.stack((torch.where(is_first, rows.first, mass), mass / rows.rest))
    return values, torch.stack((there, there & ~is_first)).expand(-1, *mass.shape)


def _at(
    alpha: Tensor, sight: SightLike, index: Int[Tensor, "batch query"]
) -> tuple[Float[Tensor, "batch head query"], Bool[Tensor, "batch 1 query"]]:
    """The entry of each row at one key of the reach, and whether the query may see it; 0 outside of the reach."""
    inside = ((index >= 0) & (index < alpha.shape[3]))[:, None]  # batch 1 query
    near = index.clamp(0, alpha.shape[3] - 1)
    there = sight.at(near) & inside
    at = near[:, None, :, None].expand(-1, alpha.shape[1], -1, -1)  # batch head query 1
    return alpha.gather(-1, at)[..., 0] * there, there


def previous_place(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """Place of the real token before each, −1 where there is none.

    >>> previous_place(torch.tensor([[True, False, True, True]])).tolist()
    [[-1, 0, 0, 2]]
    """
    place = torch.where(mask, torch.arange(mask.shape[1], device=mask.device), -1).cummax(1).values
    return torch.cat((torch.full_like(place[:, :1], -1), place[:, :-1]), dim=1)


def _distances(rows: Rows) -> dict[str, Found]:
    """The histogram and the window of each row, from sums over all keys up to each."""
    summed = rows.alpha.cumsum(-1)
    first_at = rows.query_positions[:, None]  # batch 1 query: the first key has position 0

    def within(distance: Int[Tensor, "batch head query n"]) -> Tensor:
        """Mass at keys no further than this, the first key left out."""
        query, keys = rows.query_positions[:, None, :, None], rows.key_positions.contiguous()
        first_key = torch.searchsorted(keys, (query - distance).flatten(1)).view_as(distance)
        last_key = torch.searchsorted(keys, (query + distance).flatten(1), right=True).view_as(distance)
        return _up_to(summed, last_key) - _up_to(summed, first_key)

    ends = (2 ** torch.arange(BINS, device=summed.device) - 1).expand(len(summed), 1, summed.shape[2], -1)  # 0, 1, 3, 7, …
    rest = within(ends).diff(dim=-1, prepend=summed.new_zeros(1).expand(*summed.shape[:3], 1))
    of_first = ((first_at.unsqueeze(-1) <= ends).long().diff(dim=-1, prepend=torch.zeros_like(ends[..., :1])) > 0) * rows.first.unsqueeze(
        -1
    )
    return {"histogram": (rows.both(rest, of_first), None), "window": (_window(rows, within, first_at), None)}


def _window(rows: Rows, within: Callable[[Tensor], Tensor], first_at: Tensor) -> Float[Tensor, "version batch head query"]:
    """The smallest w for which distances below w hold the share, by halving."""
    rest, first = rows.rest, rows.first
    n_key = rows.alpha.shape[3]
    low = torch.zeros(2, *rest.shape, dtype=torch.long, device=rest.device)  # smallest distance that may do
    high = torch.full_like(low, max(n_key, int(rows.query_positions.max()) + 1))
    enough = SHARE * torch.stack((rest + first, rest))
    while bool((low < high).any()):
        middle = (low + high) // 2
        mass = within(torch.stack(tuple(middle), dim=-1)).unbind(-1)
        holds = torch.stack((mass[0] + first * (first_at <= middle[0]), mass[1])) >= enough
        low, high = torch.where(holds, low, middle + 1), torch.where(holds, middle, high)
        low = torch.minimum(low, high)
    return (low + 1).to(rest.dtype)


def _up_to(summed: Float[Tensor, "batch head query key"], n: Int[Tensor, "batch head query m"]) -> Tensor:
    """The sum over the first n keys."""
    n = n.expand(-1, summed.shape[1], -1, -1)
    return summed.gather(-1, (n - 1).clamp(min=0)) * (n > 0)
