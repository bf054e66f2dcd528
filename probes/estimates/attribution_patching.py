"""What would patching each node do, to first order? All nodes at once, in two forward passes and one backward pass."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from probes.errors import check_evaluating
from probes.estimates.first_order import FirstOrder, Linearised, linearise, wide
from probes.estimates.nodes import folded, rows_of_nodes
from probes.estimates.qk_fix import beside, fixed, needed, qk_effects
from probes.inputs import Inputs
from probes.metrics import Metric
from probes.observable import Observable
from probes.sweep.pairs import check_pairs
from probes.sweep.patch_grid import named, patch_sites


def attribution_patching(
    model: Observable, clean: Inputs, corrupt: Inputs, metric: Metric, sites: Iterable[str] | str = "z", *,
    by_position: bool = False, rule: FirstOrder = FirstOrder(),
) -> pd.DataFrame:  # fmt: skip
    """An estimate of what `sweep` would find if each node of the clean run got its value from the corrupt run (Nanda 2023).

    A node is a head of a site (all of it where it has no heads), at all places at once or each `by_position`; `sites` are words,
    names and globs as in `patch_sites`. The estimate is
    (corrupt value − clean value) · ∂metric/∂value; for queries and keys the softmax is exact (`FirstOrder.qk_fix`), which takes
    one forward pass more for each of `q`, `k`, `rot_q`, `rot_k` that is asked for. For denoising, give the batches the other
    way round. The metric is that of the first batch, as in a sweep on it.

    It is an estimate, and where the model bends between the two runs a wrong one: `screen_then_verify` settles its best nodes
    exactly. `kl_divergence` has no slope at the clean run itself; give it `FirstOrder(gradients="path")`.

    Columns: `site`, `layer`, `head`, `position` (missing where the node has none), `example`, `clean` and `estimate` (in the
    unit of the metric). `attrs` say `exact=False`, `metric`, `unit`, and in `estimated` by what rule.

    Raises UnknownSiteError for a site that is not there, SiteError for batches of different shape or mask, and for a metric
    without a gradient.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> clean, corrupt = (torch.tensor([[1, 2, 3]]),), (torch.tensor([[1, 5, 3]]),)
    >>> table = attribution_patching(model, clean, corrupt, logit_difference(7, 8), ["z", "mlp_out"])
    >>> len(table), table.attrs["exact"], table.attrs["estimated"]
    (6, False, 'first order, gradients at clean, softmax exact for queries and keys')
    """
    check_evaluating(model)
    check_pairs(clean, corrupt)
    names = named(sites, model.sites())
    through_softmax = [name for name in names if rule.qk_fix and fixed(name)]
    direct = [name for name in names if name not in through_softmax]
    slopes = list(dict.fromkeys([*direct, *(beside(name, "pattern") for name in through_softmax)]))
    values = list(dict.fromkeys([*names, *needed(model, through_softmax)]))
    runs = linearise(model, clean, corrupt, metric, values=values, slopes=slopes, rule=rule)
    effects = {name: _linear(model, name, runs, by_position) for name in direct}
    effects |= qk_effects(model, clean, through_softmax, runs, by_position=by_position)
    edits = patch_sites(model, runs.corrupt, names, positions="each" if by_position else None)
    table = rows_of_nodes(edits, [effects[name] for name in names], runs.metric)
    table.attrs = {"metric": metric.name, "unit": metric.unit, "exact": False, "estimated": str(rule)}
    return table


def _linear(model: Observable, name: str, runs: Linearised, by_position: bool) -> Tensor:
    """(corrupt − clean) · slope, with 0 where both are −inf."""
    here, there = wide(runs.clean[name]), wide(runs.corrupt[name])
    moved = torch.where(here == there, 0.0, there - here)
    return folded(moved * wide(runs.slopes[name]), model.sites()[name].axes, by_position=by_position)
