"""Does a direction steer the model? The difference of two sets of texts, added to the stream at several strengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from probes.edits import Edit, Positions, add, whole_numbers
from probes.errors import SiteError
from probes.inputs import Inputs, sequence_at
from probes.metrics import Metric
from probes.observable import Observable, find, layer_of, select
from probes.record import record
from probes.sweep import sweep


def steering_vectors(
    model: Observable, positive: Inputs, negative: Inputs, sites: Iterable[str] | str, *, over: Literal["tokens", "last"] = "tokens"
) -> dict[str, Tensor]:
    """For each matching site, the mean of its values on the positive texts minus that on the negative ones (Turner et al. 2023;
    Rimsky et al. 2024): Float[d_model], or with the site's own axes behind its places.

    The mean is over all real tokens of all texts, or over the `last` real token of each. The two sets may differ in number
    and in length.

    Raises SiteError for a site whose second axis is not `pos`, and for a set without a real token.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> vectors = steering_vectors(model, (torch.tensor([[1, 2, 3]]),), (torch.tensor([[4, 5]]),), "blocks.*.resid_post")
    >>> {name: tuple(vector.shape) for name, vector in vectors.items()}
    {'blocks.0.resid_post': (8,), 'blocks.1.resid_post': (8,)}
    """
    if over not in ("tokens", "last"):
        raise SiteError(f'a mean is over "tokens" or over the "last" of each text, got {over!r}')
    chosen = select(model, sites)
    if wrong := [name for name, site in chosen.items() if site.axes[:2] != ("batch", "pos")]:
        raise SiteError(f"a steering vector is a mean over places, {wrong[0]} has axes {' '.join(chosen[wrong[0]].axes)}")
    means = [_means(model, inputs, list(chosen), over) for inputs in (positive, negative)]
    return {name: means[0][name] - means[1][name] for name in chosen}


def _means(model: Observable, inputs: Inputs, names: Sequence[str], over: str) -> dict[str, Tensor]:
    with torch.no_grad(), record(model, names) as activations:
        model(*inputs)
    means = {}
    for name in names:
        tokens, mask = sequence_at(name, inputs)
        real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        if over == "last":
            real = real & (real.flip(1).cumsum(1).flip(1) == 1)  # the one behind which none is real
        if not bool(real.any()):
            raise SiteError("a steering vector needs a real token in each set of texts, one has none")
        means[name] = activations[name][real].mean(0)
    return means


def steer(
    model: Observable, batch: Inputs, vectors: Mapping[str, Tensor], metric: Metric, strengths: Sequence[float], *,
    layers: Sequence[int] | None = None, positions: Positions | None = None,
) -> pd.DataFrame:  # fmt: skip
    """The metric with each vector added to its site, one site at a time, at each strength: a sweep with a column `strength`.

    `layers` chooses among the sites (None: all), `positions` are those of an `Edit` (None: every place). Strength 1 moves the
    mean of the negative texts onto that of the positive ones; −1 the other way.

    Raises SiteError for no vector, no strength, or a layer for which there is no vector, and as `sweep` does.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> batch = (torch.tensor([[1, 2, 3]]),)
    >>> table = steer(model, batch, {"blocks.0.resid_post": torch.ones(8)}, logit_difference(4, 5), [0.0, 2.0])
    >>> table[["site", "layer", "strength"]].values.tolist(), bool(abs(table["effect"][0]) < 1e-6)
    ([['blocks.0.resid_post', 0, 0.0], ['blocks.0.resid_post', 0, 2.0]], True)
    """
    layers = None if layers is None else whole_numbers(layers, "layers")
    strengths = [strengths] if isinstance(strengths, int | float) else list(strengths)
    names = [name for name in vectors if layers is None or layer_of(name) in set(layers)]
    if layers is not None and (missing := sorted(set(layers) - {layer_of(name) for name in names})):
        raise SiteError(f"there is no vector for layer {missing[0]}, only for {', '.join(vectors)}")
    if not names or not len(strengths):
        raise SiteError(f"steering needs a vector and a strength, got {len(names)} and {len(strengths)}")
    if wrong := [name for name in names if len(find(name, model.sites())) != 1]:
        raise SiteError(f"a vector belongs to one site, {wrong[0]!r} matches several")
    edits = [Edit(name, add(vectors[name] * strength), positions=positions) for name in names for strength in strengths]
    table = sweep(model, batch, edits, metric)
    table.insert(5, "strength", [float(strengths[number % len(strengths)]) for number in table["edit"]])
    return table
