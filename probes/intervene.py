"""What would the model have computed, had an intermediate value been another?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probes.edits import Change, Edit, PureChange, ReferenceChange, SpotChange, TensorChange, selection
from probes.errors import SiteError, did_not_fire
from probes.inputs import mask_at
from probes.observable import Observable, find, select
from probes.places import Spot, window_of
from probes.record import record

EditSet = Edit | tuple[Edit, ...]
"""One edit, or several that are applied together."""


@dataclass(frozen=True)
class BoundEdit:
    """An edit of one site of one model, with its reference values at hand: a function of the site's value."""

    edit: Edit
    site: str
    axes: tuple[str, ...]
    change: Change | SpotChange
    at: Any
    """the site, whose `window` says where in a longer sequence the value stands, if it has one"""

    def __call__(self, value: Tensor) -> Tensor:
        window = window_of(self.at)
        chosen = selection(self.edit, self.axes, value, window)
        if window is not None and chosen is not None and not bool(chosen.any()):
            return value  # another pass computes the places that are edited
        if isinstance(self.edit.change, ReferenceChange | TensorChange):
            changed = self.change(Spot(value=value, axes=self.axes, window=window, chosen=chosen))
        else:
            changed = self.change(value if isinstance(self.edit.change, PureChange) else value.clone())
        if not isinstance(changed, Tensor):
            raise SiteError(f"the change of {self.site} must return a tensor, got {type(changed).__name__}")
        if changed.shape != value.shape:
            raise SiteError(f"the change of {self.site} must keep the shape {tuple(value.shape)}, got {tuple(changed.shape)}")
        changed = changed.to(value)
        return changed if chosen is None else torch.where(chosen, changed, value)


def flatten(edits: Iterable[EditSet]) -> list[Edit]:
    """The single edits, tuples opened. Raises SiteError for anything else."""
    flat: list[Edit] = []
    for item in edits:
        flat.extend(flatten(item) if isinstance(item, tuple) else [item])
    if wrong := [item for item in flat if not isinstance(item, Edit)]:
        raise SiteError(f"expected an Edit or a tuple of them, got {type(wrong[0]).__name__}")
    return flat


def bind(model: Observable, edits: Iterable[Edit]) -> Callable[[Edit], list[BoundEdit]]:
    """A function that gives the bound edits of each of `edits`; every reference input is run through the model once.

    Raises UnknownSiteError for a site that the model does not have.
    """
    edits = list(edits)
    sites = model.sites()
    names = {id(edit): find(edit.site, sites) for edit in edits}
    wanted: dict[int, tuple[ReferenceChange, dict[str, None]]] = {}
    for edit in edits:
        if isinstance(edit.change, ReferenceChange):
            wanted.setdefault(id(edit.change), (edit.change, {}))[1].update(dict.fromkeys(names[id(edit)]))
    known = {key: _reference_values(model, change, list(at)) for key, (change, at) in wanted.items()}  # values, and masks by site

    def bound(edit: Edit) -> list[BoundEdit]:
        return [BoundEdit(edit, name, sites[name].axes, change_at(edit.change, name), sites[name]) for name in names[id(edit)]]

    def change_at(change: Change, name: str) -> Change | SpotChange:
        if not isinstance(change, ReferenceChange):
            return change.at if isinstance(change, TensorChange) else change
        values, masks = known[id(change)]
        return change.at(values[name], masks[name], sites[name].axes)

    return bound


def _reference_values(
    model: Observable, change: ReferenceChange, names: list[str]
) -> tuple[Mapping[str, Tensor], Mapping[str, Tensor | None]]:
    """The values of these sites under the reference, and the mask of each."""
    reference = change.reference
    if isinstance(reference, Mapping):
        return {name: reference[name] for name in names}, dict.fromkeys(names, change.mask)
    inputs = reference if isinstance(reference, tuple) else (reference,)
    with torch.no_grad(), record(model, names) as activations:
        model(*inputs)
    return activations, {name: mask_at(name, inputs) if change.mask is None else change.mask for name in names}


@contextmanager
def attached(model: Observable, changes: Mapping[str, Change]) -> Iterator[None]:
    """Replace the value of each named site by its change of it. Raises SiteError if one did not fire (unless the block itself raises)."""
    fired: set[str] = set()

    def apply(name: str, value: Tensor) -> Tensor:
        fired.add(name)
        return changes[name](value)

    with ExitStack() as taps:
        for name, site in select(model, changes).items() if changes else ():
            taps.callback(site.edit(lambda value, name=name: apply(name, value)))
        yield
    if missing := [name for name in changes if name not in fired]:
        raise did_not_fire(missing)


@contextmanager
def intervene(model: Observable, *edits: EditSet) -> Iterator[None]:
    """Apply the edits to every forward pass inside the block; several edits of one site apply in the order given.

    Reference inputs (of `mean`, `resample`) are run once, on entering, without gradients.

    Raises UnknownSiteError for a site that does not exist, SiteError for no edit at all, an edit that changes the
    shape, heads or positions that the site does not have, and a site that did not fire (unless the block itself raises).

    >>> import torch; from model import Transformer, TransformerConfig; from probes import zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> tokens = torch.tensor([[1, 2, 3]])
    >>> with intervene(model, Edit("blocks.0.attn.z", zero(), heads=[1])):
    ...     edited = model(tokens)
    >>> bool((edited == model(tokens)).all())
    False
    """
    flat = flatten(edits)
    if not flat:
        raise SiteError("intervene needs at least one Edit, got none")
    bound = bind(model, flat)
    chains: dict[str, list[BoundEdit]] = {}
    for edit in flat:
        for one in bound(edit):
            chains.setdefault(one.site, []).append(one)
    with attached(model, {name: chain(parts) for name, parts in chains.items()}):
        yield


def chain(parts: list[BoundEdit]) -> Change:
    """One change after another."""

    def change(value: Tensor) -> Tensor:
        for part in parts:
            value = part(value)
        return value

    return change
