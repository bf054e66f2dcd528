"""How much of a computation must be done in turn? The longest chain of matrix products of which each needs the one before."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "linear", "mv", "addmv", "dot")
FUSED_ATTENTION = "scaleddotproduct"
"""two products in a row: q kᵀ, then pattern · v"""
OPAQUE = ("mkldnnrnn", "cudnnrnn", "miopenrnn")


def product_chain(output: Tensor) -> int:
    """Length of the longest chain of dependent matrix products from any parameter or input to `output`.

    That is the depth of the computation, against its work (Blelloch 1996): with any number of processors it takes no fewer
    steps. It is the column "sequential operations" of Vaswani et al. 2017, table 1, counted on autograd's graph. Operations
    between the products are not counted.

    Raises ValueError for an output that autograd did not follow, and for a recurrent layer that hides its steps in one
    operation (compute it inside `recurrence_in_the_open()`).

    >>> a, b = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2)
    >>> product_chain(a @ b @ b), product_chain(a @ b + a @ b)
    (2, 1)
    """
    if output.grad_fn is None:
        raise ValueError(
            "a chain is counted on autograd's graph, got a tensor without one; compute it from something that asks for gradients"
        )
    longest: dict[Any, int] = {}
    waiting = [output.grad_fn]
    while waiting:  # depth first, without recursion: graphs of long sequences are deep
        node = waiting[-1]
        before = [one for one, _ in node.next_functions if one is not None]
        unknown = [one for one in before if one not in longest]
        if unknown:
            waiting += unknown
            continue
        longest[node] = _products(node.name()) + max((longest[one] for one in before), default=0)
        waiting.pop()
    return longest[output.grad_fn]


@contextmanager
def recurrence_in_the_open() -> Iterator[None]:
    """Inside the block a recurrent layer computes step by step, as operations of their own, not in one of oneDNN's.

    >>> with recurrence_in_the_open():
    ...     product_chain(torch.nn.LSTM(2, 2)(torch.zeros(5, 1, 2))[0])
    5
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="TF32 acceleration")  # torch says so whenever these flags are set
        with torch.backends.mkldnn.flags(enabled=False):
            yield


def _products(node: str) -> int:
    """How many products in a row a node of the graph stands for."""
    name = node.lower()
    if name.startswith(OPAQUE):
        raise ValueError(f"a recurrent layer hides its steps in {node}; compute it inside recurrence_in_the_open()")
    if name.startswith(FUSED_ATTENTION):
        return 2
    return int(name.partition("backward")[0] in PRODUCTS)
