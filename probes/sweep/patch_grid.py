"""Which edits make up a map of activation patching? One for each layer, head and position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from torch import Tensor

from probes.edits import Edit, patch, whole_numbers
from probes.errors import SiteError, UnknownSiteError
from probes.inputs import Inputs, sequence_at
from probes.observable import Observable, canonical, find, layer_of
from probes.places import place_axis

Place = int | Sequence[int]
"""A position of the padded sequence: one for all examples, or one for each."""


def patch_sites(
    model: Observable,
    activations: Mapping[str, Tensor],
    sites: str | Iterable[str] = "resid_pre",
    *,
    positions: Literal["each"] | Sequence[Place] | None = None,
    heads: Literal["each"] | Sequence[int] | None = "each",
    layers: Sequence[int] | None = None,
    inputs: Inputs | None = None,
) -> list[Edit]:
    """One edit per cell of a grid: the recorded value of a site, at one head and position, instead of the model's own.

    `sites` are words, which stand for every site so called in all stacks and attentions (`resid_pre`, `attn_out`, `mlp_out`,
    `z`, `k`, `pattern`), or names and globs (`encoder.*resid_pre`, `decoder.*.cross_attn.z`). `positions` None patches all
    of them in one edit, "each" makes one edit for every position, a list one for each that it names: a number, or the
    numbers of the same place in every example. `heads` in the same way, where the site has any: key-value heads on `k` and
    `v`. With `inputs`, what the model is to be called with, "each" leaves out positions that are padding in all examples.
    `layers` are numbers of blocks within their stack. Which run is patched and which was recorded is the caller's
    choice; `patching` does both and compares.

    Raises UnknownSiteError for a name that matches nothing or was not recorded, SiteError for no such layer, and heads,
    positions or examples that the recording does not have.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import record
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> with record(model, ["*resid_pre", "*attn.z"]) as clean:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> [(edit.site, edit.positions) for edit in patch_sites(model, clean, "resid_pre", positions="each", layers=[1])]
    [('blocks.1.resid_pre', (0,)), ('blocks.1.resid_pre', (1,)), ('blocks.1.resid_pre', (2,))]
    >>> [(edit.site, edit.heads) for edit in patch_sites(model, clean, "z", layers=[1])]
    [('blocks.1.attn.z', (0,)), ('blocks.1.attn.z', (1,))]
    """
    names = named(sites, model.sites())
    if layers is not None:
        layers = whole_numbers(layers, "layers")
        kept = [name for name in names if layer_of(name) in set(layers)]
        if missing := sorted(set(layers) - {layer_of(name) for name in kept}):
            raise SiteError(f"there is no layer {missing[0]} with a site {', '.join([sites] if isinstance(sites, str) else sites)}")
        names = kept
    change, known = patch(activations), model.sites()
    edits: list[Edit] = []
    for name in names:
        if name not in activations:
            raise UnknownSiteError(name, activations)
        shape = dict(zip(known[name].axes, activations[name].shape, strict=True))
        places = _places(name, known[name].axes, shape, positions, inputs)
        edits += [Edit(name, change, heads=head, positions=place) for head in _heads(name, shape, heads) for place in places]
    return edits


def named(sites: str | Iterable[str], known: Iterable[str]) -> list[str]:
    """The sites that words, names and globs stand for. A word is the last part of a name.

    Raises UnknownSiteError for one that matches nothing.

    >>> named("attn_out", ["embed", "decoder.blocks.0.attn_out", "decoder.blocks.0.cross_attn_out"])
    ['decoder.blocks.0.attn_out']
    """
    known, chosen = list(known), set()
    for site in [sites] if isinstance(sites, str) else sites:
        word = canonical(site)
        hits = [name for name in known if name.rpartition(".")[2] == word]
        chosen.update(hits or find(site, known))
    return [name for name in known if name in chosen]


def _heads(site: str, shape: Mapping[str, int], heads: Literal["each"] | Sequence[int] | None) -> list[list[int] | None]:
    """The heads of each edit of a site."""
    n = shape.get("head", shape.get("kv_head"))
    if heads is None or (n is None and isinstance(heads, str) and heads == "each"):
        return [None]
    if n is None:
        raise SiteError(f"{site} has no head axis, but heads {heads!r} are named")
    heads = range(n) if isinstance(heads, str) and heads == "each" else whole_numbers(heads, "heads")
    if outside := [head for head in heads if not -n <= head < n]:
        raise SiteError(f"{site} has {n} heads, got {outside[0]}")
    return [[head] for head in heads]


def _places(
    site: str, axes: tuple[str, ...], shape: Mapping[str, int], positions: Literal["each"] | Sequence[Place] | None, inputs: Inputs | None
) -> list[list[int] | list[list[int]] | None]:
    """The positions of each edit of a site."""
    if positions is None:
        return [None]
    n = shape[axes[place_axis(axes)]]
    if isinstance(positions, str) and positions != "each":
        raise SiteError(f'positions are "each", whole numbers, or a list of them for every example, got {positions!r}')
    if isinstance(positions, str):
        mask = None if inputs is None else sequence_at(site, inputs)[1]
        return [[p] for p in range(n) if mask is None or bool(mask[:, p].any())]
    positions = positions.tolist() if hasattr(positions, "tolist") else positions
    positions = list(positions) if isinstance(positions, Iterable) else [positions]
    alone = [hasattr(place, "__index__") for place in positions]
    wanted = [list(whole_numbers(place, "positions")) for place in positions]
    if outside := [p for place in wanted for p in place if not -n <= p < n]:
        raise SiteError(f"{site} has {n} positions, got {outside[0]}")
    if wrong := [row for one, row in zip(alone, wanted, strict=True) if not one and len(row) != shape["batch"]]:
        raise SiteError(f"a place of each example must be {shape['batch']} numbers, got {len(wrong[0])}")
    return [row if one else [[p] for p in row] for one, row in zip(alone, wanted, strict=True)]
