"""What happens to each layer in a step? The norm of its gradient, and how far its weights move relative to their size.

A layer is a block, or what lies before and behind the blocks: `embedding`, `blocks.3`, `ln_final`, `encoder.blocks.0`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor, nn

_LAYER = re.compile(r"(?:(?:encoder|decoder)\.)?(?:(?:blocks|layers)\.\d+|[^.]+)")


@cache
def layer_of(parameter: str) -> str:
    """The layer that a parameter belongs to.

    >>> [layer_of(name) for name in ("embedding.weight", "blocks.3.attn.W_Q.bias", "decoder.blocks.0.ln1.gain", "encoder.ln_final.gain")]
    ['embedding', 'blocks.3', 'decoder.blocks.0', 'encoder.ln_final']
    """
    return _LAYER.match(parameter).group()


@torch.no_grad()
def norms(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """√(sum of squares) over all tensors of each layer, in the order in which the layers come; `tensors` by parameter name.

    >>> norms({"blocks.0.ln1.gain": torch.tensor([3.0]), "blocks.0.ln1.bias": torch.tensor([4.0]), "ln_final.gain": torch.ones(4)})
    {'blocks.0': 5.0, 'ln_final': 2.0}
    """
    each = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors.values()]).double().square().tolist()
    squares: dict[str, float] = {}
    for name, square in zip(tensors, each, strict=True):
        squares[layer_of(name)] = squares.get(layer_of(name), 0.0) + square
    return {layer: square**0.5 for layer, square in squares.items()}


@torch.no_grad()
def update_ratios(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, float]:
    """‖Δθ‖ / ‖θ‖ per layer, of the weights before the step; NaN for a layer of zeros. About 1e-3 is usual.

    >>> update_ratios({"blocks.0.W": torch.tensor([2.0])}, {"blocks.0.W": torch.tensor([2.5])})
    {'blocks.0': 0.25}
    """
    moved = norms({name: after[name] - before[name] for name in before})
    sizes = norms(before)
    return {layer: moved[layer] / size if size else float("nan") for layer, size in sizes.items()}


def decayed(model: nn.Module) -> set[str]:
    """The parameters that weight decay pulls to 0: all but biases, gains and embeddings. A tied unembedding is an embedding."""
    kept = {id(parameter) for module in model.modules() if isinstance(module, nn.Embedding) for parameter in module.parameters()}
    return {
        name for name, parameter in model.named_parameters()
        if parameter.dim() > 1 and not name.endswith(("bias", "gain")) and id(parameter) not in kept
    }
