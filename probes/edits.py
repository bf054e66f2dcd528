"""What can be done to an intermediate value? An Edit says where, a change says what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probes.errors import SiteError

Change = Callable[[Tensor], Tensor]
"""Any function from the value of a site to a new value of the same shape."""

Reference = Tensor | tuple[Tensor, ...] | Mapping[str, Tensor]
"""Tokens, the model's whole input (tokens, mask), or recorded activations."""

Positions = int | Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Edit:
    """A change of the value of one site (or of all that a glob matches), at some heads and positions or at all.

    `heads` index the site's own head axis (key-value heads on `k`, `v`, `rot_k`). `positions` index the padded
    sequence (the query axis of `scores` and `pattern`): one number, a list for all examples, or a list per example.
    Negative ones count from the padded end. While text is generated the sequence is the padded prompt with all new tokens
    but the last, which is never read.

    >>> Edit("blocks.3.attn.z", zero(), heads=[2])
    Edit(site='blocks.3.attn.z', change=zero(), heads=(2,), positions=None)
    """

    site: str
    change: Change
    heads: Sequence[int] | int | None = None
    positions: Positions | None = None

    def __post_init__(self) -> None:
        if not callable(self.change):
            raise SiteError(f"the change of an edit is a function of the value, got {type(self.change).__name__}")
        if self.heads is not None:
            object.__setattr__(self, "heads", _whole_numbers(self.heads, "heads"))
        if self.positions is not None:
            nested = isinstance(self.positions, Sequence) and any(isinstance(p, Sequence) for p in self.positions)
            fixed = tuple(_whole_numbers(p, "positions", empty=True) for p in self.positions) if nested else _whole_numbers(self.positions, "positions")
            if nested and not any(fixed):
                raise SiteError("positions must name at least one position, got an empty list for every example")
            object.__setattr__(self, "positions", fixed)


def _whole_numbers(values: Any, what: str, *, empty: bool = False) -> tuple[int, ...]:
    values = [values] if isinstance(values, int) else values.tolist() if isinstance(values, Tensor) else list(values)
    if not values and not empty:
        raise SiteError(f"{what} must name at least one of them, got an empty list; None means all")
    if any(not isinstance(v, int) or isinstance(v, bool) for v in values):
        raise SiteError(f"{what} must be whole numbers, got {values!r}")
    return tuple(values)


@dataclass(frozen=True, repr=False)
class PureChange:
    """A change that leaves the value it is given as it is."""

    name: str
    function: Change

    def __call__(self, value: Tensor) -> Tensor:
        return self.function(value)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceChange:
    """A change that takes its values from other inputs, or from a recording.

    `at(values, mask, axes)` makes the change of one site, given the values there under the reference, and which of its
    tokens are real.
    """

    name: str
    reference: Reference
    mask: Tensor | None
    at: Callable[[Tensor, Tensor | None, tuple[str, ...]], Change]

    def __post_init__(self) -> None:
        whole = isinstance(self.reference, Tensor | Mapping) or (isinstance(self.reference, tuple) and isinstance(self.reference[0], Tensor))
        if not whole:
            raise SiteError(f"a reference is tokens, (tokens, mask), or recorded activations, got {type(self.reference).__name__}")

    def __call__(self, value: Tensor) -> Tensor:
        raise SiteError(f"{self.name} takes its values from a reference; give it to an Edit, and that to intervene or sweep")

    def __repr__(self) -> str:
        return self.name


def zero() -> Change:
    """All zeros."""
    return PureChange("zero()", torch.zeros_like)


def scale(factor: float) -> Change:
    """The value times a factor."""
    return PureChange(f"scale({factor})", lambda value: value * factor)


def add(vector: Tensor) -> Change:
    """The value plus a vector, broadcast over the leading axes (a steering vector on a residual stream)."""
    return PureChange("add(vector)", lambda value: value + vector.to(value))


def mean(reference: Reference, *, mask: Bool[Tensor, "batch pos"] | None = None) -> Change:
    """The mean over the real tokens of a reference, one value for every position (Wang et al. 2023, mean ablation).

    A site with query and key axes is averaged over examples only, so that the reference needs the same length. `mask`
    says which tokens of recorded activations are real; for tokens it is their own mask.
    """

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> Change:
        if "pos" not in axes:
            average = values.mean(0, keepdim=True)
        elif mask is None:
            average = values.mean((0, 1), keepdim=True)
        else:
            average = values[mask].mean(0)[None, None]
        return lambda value: average.to(value).expand_as(value)

    return ReferenceChange("mean(reference)", reference, mask, at)


def resample(reference: Reference, generator: torch.Generator, *, mask: Bool[Tensor, "batch pos"] | None = None) -> Change:
    """The value of another example, drawn at random, at the same position (Chan et al. 2022, resampling ablation).

    The draw is made once, here: every edit that holds this change pairs the examples alike. Where the reference has as
    many examples as the batch, they are paired by a random cycle, so that none is paired with itself.
    """
    seed = int(torch.randint(2**62, (1,), generator=generator))

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> Change:
        def change(value: Tensor) -> Tensor:
            if values.shape[1:] != value.shape[1:]:
                raise SiteError(f"resample needs a reference of the same length: it has shape {tuple(values.shape)}, the value {tuple(value.shape)}")
            return values[_draw(len(value), len(values), seed)].to(value)

        return change

    return ReferenceChange("resample(reference)", reference, mask, at)


def _draw(n: int, n_reference: int, seed: int) -> Int[Tensor, "n"]:
    generator = torch.Generator().manual_seed(seed)
    if n != n_reference:
        return torch.randint(n_reference, (n,), generator=generator)
    order = torch.randperm(n, generator=generator)
    partner = torch.empty(n, dtype=torch.long)
    partner[order] = order.roll(1)
    return partner


def patch(activations: Mapping[str, Tensor]) -> Change:
    """The recorded value of the same site (activation patching: Vig et al. 2020; Meng et al. 2022)."""
    if not isinstance(activations, Mapping):
        raise SiteError(f"patch takes recorded activations, got {type(activations).__name__}; for one tensor write Edit(site, lambda value: tensor)")

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> Change:
        def change(value: Tensor) -> Tensor:
            if values.shape != value.shape:
                raise SiteError(f"patch needs a recording of the same shape: it has {tuple(values.shape)}, the value {tuple(value.shape)}")
            return values.to(value)

        return change

    return ReferenceChange("patch(activations)", activations, None, at)


def selection(edit: Edit, axes: tuple[str, ...], value: Tensor, window: Any = None) -> Bool[Tensor, "..."] | None:
    """Which entries of the value the edit changes, broadcastable to it; None for all.

    A `window` says that the value is part of a longer sequence (while text is generated): `window.places`, Int[rows pos], are
    its places among `window.size`, which the edit's positions then count.

    Raises SiteError for heads or positions that the site does not have.
    """
    chosen: Tensor | None = None
    if edit.heads is not None:
        axis = next((i for i, name in enumerate(axes) if name in ("head", "kv_head")), None)
        if axis is None:
            raise SiteError(f"{edit.site} has no head axis (its axes are {' '.join(axes)}), but the edit names heads {list(edit.heads)}")
        chosen = _along(axis, _marked(edit.heads, value.shape[axis], edit.site, "heads", value.device), value)
    if edit.positions is not None:
        axis = next((i for i, name in enumerate(axes) if name in ("pos", "query")), None)
        if axis is None:
            raise SiteError(f"{edit.site} has no position axis (its axes are {' '.join(axes)}), but the edit names positions")
        marked = _marked_positions(edit, len(value), value.shape[axis] if window is None else window.size, value.device)  # rows size
        if window is not None:
            n_rows = max(len(marked), len(window.places))
            marked = marked.expand(n_rows, -1).gather(1, window.places.expand(n_rows, -1))  # rows pos
        at = marked.view([marked.shape[0] if i == 0 else marked.shape[1] if i == axis else 1 for i in range(value.dim())])
        chosen = at if chosen is None else chosen & at
    return chosen


def _marked(indices: Sequence[int], size: int, site: str, what: str, device: torch.device) -> Bool[Tensor, "size"]:
    outside = [i for i in indices if not -size <= i < size]
    if outside:
        raise SiteError(f"{site} has {size} {what}, the edit names {outside[0]}")
    marked = torch.zeros(size, dtype=torch.bool, device=device)
    marked[list(indices)] = True
    return marked


def _along(axis: int, marked: Tensor, value: Tensor) -> Tensor:
    return marked.view([-1 if i == axis else 1 for i in range(value.dim())])


def _marked_positions(edit: Edit, n_rows: int, size: int, device: torch.device) -> Bool[Tensor, "rows size"]:
    """The positions that an edit names, in one row for all examples or one for each."""
    positions = edit.positions
    if not isinstance(positions[0], tuple):
        return _marked(positions, size, edit.site, "positions", device).unsqueeze(0)
    if len(positions) != n_rows:
        raise SiteError(f"positions per example must be one list for each of the {n_rows} examples, got {len(positions)}")
    return torch.stack([_marked(row, size, edit.site, "positions", device) for row in positions])
