"""Gradient × input: how fast does the metric change along each token's own value? (Shrikumar et al. 2016; Captum's InputXGradient.)

(x − baseline) · ∂f/∂x, summed over the coordinates of a position. A first-order estimate at x: exact for a linear model only, and
without completeness otherwise.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from probes.attribution.site_function import SiteFunction, real_tokens_only


def gradient_x_input(function: SiteFunction, baseline: Float[Tensor, "batch pos ..."]) -> Float[Tensor, "batch pos"]:
    """One number per example and position, in the unit of the metric.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> from probes.attribution.site_function import site_function
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> f = site_function(model, (torch.tensor([[1, 2, 3]]),), logit_difference(7, 8))
    >>> gradient_x_input(f, torch.zeros_like(f.value)).shape
    torch.Size([1, 3])
    """
    from captum.attr import InputXGradient

    distance = (function.value - baseline).requires_grad_()
    attribution = InputXGradient(lambda step: function(baseline + step)).attribute(distance)
    return real_tokens_only(attribution.detach().flatten(2).sum(-1), function)
