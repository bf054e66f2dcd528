"""Which sequence do a model's outputs stand over, and which of its tokens are real?

A model of one stack is called with (tokens) or (tokens, mask); one of two stacks with (source, target), and then
(source mask, target mask).
"""

from __future__ import annotations

import re

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Inputs = tuple[Tensor | None, ...]


OF_SOURCE = re.compile(r"\.cross_attn\.(k|v|ln_k\.\w+)$")
"""Sites of a decoder whose positions are those of the source."""


def written(inputs: Inputs) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
    """The tokens that the outputs stand over (the target of two stacks), and their mask, None where all are real.

    >>> source, target = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    >>> written((source, target))[0].tolist(), written((source, torch.ones(1, 3, dtype=torch.bool)))[0].tolist()
    ([[4, 5]], [[1, 2, 3]])
    """
    given = (*inputs, None, None, None)
    return (given[1], given[3]) if two_sequences(inputs) else (given[0], given[1])


def mask_at(site: str, inputs: Inputs) -> Bool[Tensor, "batch pos"] | None:
    """Which tokens are real along the position axis of a site: the source's in an encoder, and in cross-attention's keys and values."""
    return sequence_at(site, inputs)[1]


def sequence_at(site: str, inputs: Inputs) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
    """The tokens along the position axis of a site, and their mask, None where all are real."""
    if two_sequences(inputs) and (site.startswith("encoder.") or OF_SOURCE.search(site)):
        return inputs[0], (*inputs, None)[2]
    return written(inputs)


def two_sequences(inputs: Inputs) -> bool:
    """Is this what a model of two stacks is called with?"""
    return len(inputs) > 1 and inputs[1] is not None and inputs[1].dtype != torch.bool
