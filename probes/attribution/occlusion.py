"""Occlusion: what does the metric lose when one token is taken out? (Zeiler & Fergus 2014, leave one out.)

f(x) − f(x with position i at the baseline): exact for one token at a time. Where tokens are redundant, or needed together, the numbers do
not sum to the whole effect.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution.site_function import SiteFunction, real_tokens_only


def occlusion(
    function: SiteFunction, baseline: Float[Tensor, "batch pos ..."], *, tokens_at_once: int = 4096
) -> Float[Tensor, "batch pos"]:
    """One number per example and position, in the unit of the metric.

    `tokens_at_once` bounds the memory of one pass.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> from probes.attribution.site_function import site_function
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> f = site_function(model, (torch.tensor([[1, 2, 3]]),), logit_difference(7, 8))
    >>> occlusion(f, torch.zeros_like(f.value)).shape
    torch.Size([1, 3])
    """
    n, length = function.value.shape[:2]
    at_once = max(1, tokens_at_once // (n * length))
    lost = []
    with torch.no_grad():
        for first in range(0, length, at_once):
            without = [function.value.clone() for _ in range(first, min(first + at_once, length))]
            for position, values in enumerate(without, start=first):
                values[:, position] = baseline.expand_as(values)[:, position]
            everything, *parts = function(torch.cat([function.value, *without])).split(n)  # the whole text in the same pass: same rounding
            lost += [everything - part for part in parts]
    return real_tokens_only(torch.stack(lost, dim=1), function)
