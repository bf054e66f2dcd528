"""What can be done to an intermediate value? An Edit says where, a change says what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.errors import SiteError
from probes.places import Spot, WindowLike, n_beams, place_axis

Change = Callable[[Tensor], Tensor]
"""Any function from the value of a site to a new value of the same shape."""

SpotChange = Callable[[Spot], Tensor]
"""A function from where a value stands to a new value of the same shape."""

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
        if any(self.change is one for one in (zero, mean, positional_mean, resample, patch, scale, add, constant)):
            raise SiteError(f"{self.change.__name__} makes a change, and is none: call it, as in {self.change.__name__}(…)")
        if self.heads is not None:
            object.__setattr__(self, "heads", whole_numbers(self.heads, "heads"))
        if self.positions is not None:
            if hasattr(self.positions, "tolist"):
                object.__setattr__(self, "positions", self.positions.tolist())
            nested = isinstance(self.positions, Sequence) and any(isinstance(p, Sequence) for p in self.positions)
            fixed = tuple(whole_numbers(p, "positions", empty=True) for p in self.positions) if nested else whole_numbers(self.positions, "positions")
            if nested and not any(fixed):
                raise SiteError("positions must name at least one position, got an empty list for every example")
            object.__setattr__(self, "positions", fixed)


def whole_numbers(values: Any, what: str, *, empty: bool = False) -> tuple[int, ...]:
    """One number or several, of any library. Raises SiteError for anything else, and for none.

    >>> whole_numbers(3, "heads"), whole_numbers(torch.tensor([0, 2]), "layers")
    ((3,), (0, 2))
    """
    values = values.tolist() if hasattr(values, "tolist") else values
    values = list(values) if isinstance(values, Iterable) and not isinstance(values, str) else [values]
    if not values and not empty:
        raise SiteError(f"{what} must name at least one of them, got an empty list; None means all")
    if any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise SiteError(f"{what} must be whole numbers, got {values!r}")
    return tuple(index(v) for v in values)


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
class TensorChange:
    """A change that goes by a tensor which is broadcast to the value; of one that counts places, a part of the text takes its own."""

    name: str
    tensor: Tensor
    combine: Callable[[Tensor, Tensor], Tensor]

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise SiteError(f"{self.name.partition('(')[0]} takes a tensor, got {type(self.tensor).__name__}")

    def __call__(self, value: Tensor) -> Tensor:
        return self.combine(value, self.tensor.to(value))

    def at(self, spot: Spot) -> Tensor:
        """The new value where it stands. Raises SiteError for a tensor that cannot be broadcast to the value."""
        value, tensor, axis = spot.value, self.tensor, place_axis(spot.axes)
        behind = value.dim() - axis if axis is not None else value.dim() + 1  # the place axis, counted from the end
        if spot.window is not None and tensor.dim() >= behind and tensor.shape[-behind] == spot.window.size:
            tensor = tensor.narrow(-behind, spot.window.first, value.shape[axis])
        try:
            tensor = tensor.to(value).expand_as(value)
        except RuntimeError:
            shape, wanted = tuple(self.tensor.shape), tuple(value.shape)
            raise SiteError(f"{self.name} needs a tensor that can be broadcast to the value: it has shape {shape}, the value {wanted}") from None
        return self.combine(value, tensor)

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False, repr=False)
class ReferenceChange:
    """A change that takes its values from other inputs, or from a recording.

    `at(values, mask, axes)` makes the change of one site, given the values there under the reference, and which of its
    tokens are real: a function of the spot that is edited.
    """

    name: str
    reference: Reference
    mask: Tensor | None
    at: Callable[[Tensor, Tensor | None, tuple[str, ...]], SpotChange]

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
    """The value plus a vector, broadcast over the leading axes (a steering vector on a residual stream).

    Raises SiteError where it is no tensor and, when it is applied, where it cannot be broadcast to the value.
    """
    return TensorChange("add(vector)", vector, torch.add)


def constant(tensor: Tensor) -> Change:
    """A tensor instead of the value, broadcast over the leading axes. Raises SiteError as `add` does.

    >>> Edit("blocks.0.attn.z", constant(torch.ones(16)), heads=[1])
    Edit(site='blocks.0.attn.z', change=constant(tensor), heads=(1,), positions=None)
    """
    return TensorChange("constant(tensor)", tensor, lambda value, given: given)


def mean(reference: Reference, *, mask: Bool[Tensor, "batch pos"] | None = None) -> Change:
    """The mean over the real tokens of a reference, one value for every position (Wang et al. 2023, mean ablation).

    A site with query and key axes is averaged over examples only, so that the reference needs the same length; `scores` over
    those whose query may see the key. `mask` says which tokens of recorded activations are real; for tokens it is their own mask.
    """

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> SpotChange:
        if "pos" not in axes:
            average = _mean_of_seen(values)
            return lambda spot: spot.of(average.expand(spot.n_examples, *average.shape[1:]), "mean needs a reference of the same length here")
        average = values.mean((0, 1), keepdim=True) if mask is None else values[mask].mean(0)[None, None]
        return lambda spot: average.to(spot.value).expand_as(spot.value)

    return ReferenceChange("mean(reference)", reference, mask, at)


def positional_mean(reference: Reference, *, mask: Bool[Tensor, "batch pos"] | None = None) -> Change:
    """The mean over the examples of a reference, of each position its own (Wang et al. 2023, mean ablation over one template).

    It counts the examples whose token there is real; where there is none, all of them. The reference needs the length of
    what is edited, and as many examples as you like. A site with query and key axes is averaged as by `mean`.
    """

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> SpotChange:
        average = _mean_of_seen(values) if "pos" not in axes else _mean_of_real(values, mask)
        return lambda spot: spot.of(average.expand(spot.n_examples, *average.shape[1:]), "positional_mean needs a reference of the same length")

    return ReferenceChange("positional_mean(reference)", reference, mask, at)


def _mean_of_real(values: Float[Tensor, "batch pos ..."], mask: Bool[Tensor, "batch pos"] | None) -> Float[Tensor, "1 pos ..."]:
    """The mean over examples at each position, of those whose token there is real."""
    if mask is None:
        return values.mean(0, keepdim=True)
    counted = mask | ~mask.any(0, keepdim=True)
    weights = (counted / counted.sum(0, keepdim=True)).to(values).view(*counted.shape, *[1] * (values.dim() - 2))
    return (values * weights).sum(0, keepdim=True)


def _mean_of_seen(values: Float[Tensor, "batch head query key"]) -> Float[Tensor, "1 head query key"]:
    """The mean over examples, without scores of −inf where another example has one that is not."""
    seen = ~values.isneginf()
    total = values.where(seen, 0.0).sum(0, keepdim=True)
    return (total / seen.sum(0, keepdim=True)).masked_fill(~seen.any(0, keepdim=True), -torch.inf)


def resample(reference: Reference, generator: torch.Generator, *, mask: Bool[Tensor, "batch pos"] | None = None) -> Change:
    """The value of another example, drawn at random, at the same position (Chan et al. 2022, resampling ablation).

    The draw is made once, here: every edit that holds this change pairs the examples alike. Where the reference has as
    many examples as the batch, they are paired by a random cycle, so that none is paired with itself.
    """
    if not isinstance(generator, torch.Generator):
        raise SiteError(f"resample draws from a torch.Generator, got {generator!r}")
    seed = int(torch.randint(2**62, (1,), generator=generator))

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> SpotChange:
        return lambda spot: spot.of(values[_draw(spot.n_examples, len(values), seed)], "resample needs a reference of the same length")

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

    def at(values: Tensor, mask: Tensor | None, axes: tuple[str, ...]) -> SpotChange:
        return lambda spot: spot.of(values, "patch needs a recording of the same shape")

    return ReferenceChange("patch(activations)", activations, None, at)


def selection(edit: Edit, axes: tuple[str, ...], value: Tensor, window: WindowLike | None = None) -> Bool[Tensor, "..."] | None:
    """Which entries of the value the edit changes, broadcastable to it; None for all.

    A `window` says which places of a longer sequence the value holds (while text is generated): the edit's positions count
    those.

    Raises SiteError for heads or positions that the site does not have.
    """
    chosen: Tensor | None = None
    if edit.heads is not None:
        axis = next((i for i, name in enumerate(axes) if name in ("head", "kv_head")), None)
        if axis is None:
            raise SiteError(f"{edit.site} has no head axis (its axes are {' '.join(axes)}), but the edit names heads {list(edit.heads)}")
        chosen = _along(axis, _marked(edit.heads, value.shape[axis], edit.site, "heads", value.device), value)
    if edit.positions is not None:
        axis = place_axis(axes)
        if axis is None:
            raise SiteError(f"{edit.site} has no position axis (its axes are {' '.join(axes)}), but the edit names positions")
        marked = _marked_positions(edit, len(value), value.shape[axis], value.device, window)  # rows pos
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


def _marked_positions(
    edit: Edit, n_rows: int, n_places: int, device: torch.device, window: WindowLike | None
) -> Bool[Tensor, "rows pos"]:
    """The positions that an edit names, in one row for all examples or each its own."""
    positions, (first, size) = edit.positions, (0, n_places) if window is None else (window.first, window.size)
    each = isinstance(positions[0], tuple)
    n_examples = n_rows // n_beams(window)
    if each and len(positions) != n_examples:
        raise SiteError(f"positions per example must be one list for each of the {n_examples} examples, got {len(positions)}")
    marked = torch.stack([_marked(row, size, edit.site, "positions", device) for row in (positions if each else [positions])])
    if each:
        marked = marked.repeat_interleave(n_beams(window), dim=0)
    return marked[:, first : first + n_places]
