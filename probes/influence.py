"""On which tokens does one output depend? The size of its gradient at every token of the batch, other examples included."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from probes.observable import Observable
from probes.record import record


def influence(
    model: Observable, inputs: tuple[Tensor | None, ...], *, example: int, position: int, generator: torch.Generator, site: str = "embed"
) -> Float[Tensor, "batch pos"]:
    """‖∂(r·y)/∂x_t‖ of each token t, where y is the model's output at one place, r a normal vector from the generator, and x_t the value at `site`.

    0 means that the output does not depend on that token at all (but for a set of r of measure zero): a causal mask gives 0 behind
    the place, a norm per token 0 in all other examples. The unit is that of the output per unit of x, so compare within one call. The
    model is differentiated in the mode, training or evaluation, that it is in.

    Raises IndexError for a place that the output does not have, UnknownSiteError for a site that there is not.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> sizes = influence(model, (torch.tensor([[1, 2, 3], [4, 5, 6]]),), example=0, position=1, generator=torch.Generator().manual_seed(0))
    >>> (sizes > 0).tolist()
    [[True, True, False], [False, False, False]]
    """
    with torch.enable_grad(), record(model, site, gradients=True) as activations:
        output = model(*inputs)  # batch pos d
    for name, i, n in (("example", example, output.shape[0]), ("position", position, output.shape[1])):
        if not -n <= i < n:
            raise IndexError(f"{name} must be from {-n} to {n - 1}, got {name}={i}")
    read = output[example, position]
    direction = torch.randn(read.shape, generator=generator).to(read)
    (gradient,) = torch.autograd.grad(read @ direction, activations[site])  # batch pos d
    return gradient.norm(dim=-1)
