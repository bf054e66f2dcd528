"""What does another query or key do to a pattern? The softmax again, exactly (Kramár et al. 2024, AtP*, section 3.1).

A softmax that is sure of itself has no slope, and a first-order estimate through it finds nothing. So it is computed again
with the patched query or key, and only what follows the pattern is taken to be linear: Σ (pattern′ − pattern) · ∂metric/∂pattern.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution.site_function import logits_read
from probes.edits import Edit, patch
from probes.errors import SiteError
from probes.estimates.first_order import Linearised, wide
from probes.inputs import Inputs
from probes.intervene import intervene
from probes.observable import Observable
from probes.record import record

QUERIES, KEYS = ("q", "rot_q"), ("k", "rot_k")
Scores = Float[Tensor, "batch head query key"]


def fixed(name: str) -> bool:
    """Is this a site that acts through a softmax alone?"""
    return word(name) in QUERIES + KEYS


def word(name: str) -> str:
    """The last word of a site's name."""
    return name.rpartition(".")[2]


def beside(name: str, other: str) -> str:
    """Another site of the same attention."""
    return f"{name.rpartition('.')[0]}.{other}"


def needed(model: Observable, names: Sequence[str]) -> list[str]:
    """Scores and z of the attentions of these sites. Raises SiteError where the model does not show them."""
    wanted = list(dict.fromkeys(beside(name, other) for name in names for other in ("scores", "z")))
    if missing := [name for name in [*wanted, *(beside(name, "pattern") for name in names)] if name not in model.sites()]:
        raise SiteError(f"the softmax can be computed again where the model has {missing[0]}, which it has not; give qk_fix=False")
    return wanted


def qk_effects(
    model: Observable, inputs: Inputs, names: Sequence[str], runs: Linearised, *, by_position: bool
) -> dict[str, Float[Tensor, "batch pos head"]]:
    """The estimated effect of each query or key, its softmax exact; with one entry for all places unless `by_position`."""
    effects = {}
    for kind in dict.fromkeys(word(name) for name in names):
        of_kind = [name for name in names if word(name) == kind]
        patched = _patched_scores(model, inputs, of_kind, runs)
        for name in of_kind:
            scores, slope = wide(runs.clean[beside(name, "scores")]), wide(runs.slopes[beside(name, "pattern")])
            one_key = kind in KEYS and by_position
            effect = (of_one_key if one_key else of_rows)(scores, wide(patched[name]), slope).transpose(1, 2)  # batch pos head
            n_heads = runs.clean[name].shape[2]
            effect = effect.unflatten(2, (n_heads, -1)).sum(3)  # heads that share a key
            effects[name] = effect if by_position else effect.sum(1, keepdim=True)
    return effects


def _patched_scores(model: Observable, inputs: Inputs, names: Sequence[str], runs: Linearised) -> dict[str, Tensor]:
    """The scores of every attention, had only its own queries (or keys) been those of the corrupt run.

    One pass for all layers: what each attention gives on is put back to its clean value, so that the next starts clean.
    """
    edits = [Edit(name, patch(runs.corrupt)) for name in names] + [Edit(beside(name, "z"), patch(runs.clean)) for name in names]
    with torch.no_grad(), intervene(model, *edits), record(model, [beside(name, "scores") for name in names]) as patched:
        logits_read(model, inputs, runs.readout)
    return {name: patched[beside(name, "scores")] for name in names}


def of_rows(scores: Scores, patched: Scores, slope: Scores) -> Float[Tensor, "batch head query"]:
    """The effect of whole rows of scores: of another query, or of all keys at once.

    >>> one, two = torch.tensor([[[[0.0, 0.0]]]]), torch.tensor([[[[0.0, 50.0]]]])
    >>> of_rows(one, two, torch.tensor([[[[0.0, 3.0]]]])).item()
    1.5
    """
    return ((_softmax(patched) - _softmax(scores)) * slope).sum(-1)


def of_one_key(scores: Scores, patched: Scores, slope: Scores) -> Float[Tensor, "batch head key"]:
    """The effect of each key on its own, over all queries, without a softmax for each: with m the mean slope of the other keys,
    p the weight of this one, and p′ what it is with its patched score, a row changes by (p′ − p) (slope − m).

    The others of the largest key have next to no weight where the softmax is sure of itself: they are summed without it.
    """
    weight, seen = _softmax(scores), ~scores.isneginf()
    largest = scores.argmax(-1, keepdim=True)
    others = scores.scatter(-1, largest, -torch.inf)
    total, mean = scores.logsumexp(-1, keepdim=True), (weight * slope).sum(-1, keepdim=True)
    rest = (total + torch.log1p(-weight)).scatter(-1, largest, others.logsumexp(-1, keepdim=True))
    rest_mean = ((mean - weight * slope) / (1 - weight)).scatter(-1, largest, (_softmax(others) * slope).sum(-1, keepdim=True))
    patched_weight = torch.sigmoid(patched - rest)
    return torch.where(seen, (patched_weight - weight) * (slope - rest_mean), 0.0).sum(-2)


def _softmax(scores: Scores) -> Scores:
    """Rows that see nothing are 0."""
    blind = scores.isneginf().all(-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)
