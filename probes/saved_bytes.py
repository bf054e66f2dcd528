"""What does a forward pass keep for the backward pass? Bytes of the tensors that autograd saves: the memory of activations in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


def saved_bytes(run: Callable[[], Any], without: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps between `run()` and its backward pass; every storage is counted once.

    `without` are tensors that are there anyway: the parameters. What a kernel uses for itself in between is not
    seen. Exact, and the same in every run. See Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, for why it is
    what limits deep networks.

    Raises ValueError if nothing is saved, since then there was nothing to differentiate.

    >>> x = torch.ones(10, requires_grad=True)
    >>> saved_bytes(lambda: (x.exp() * 2).sum()), saved_bytes(lambda: (x * x).exp(), without=[x])
    (40, 40)
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in without}
    kept: dict[int, torch.UntypedStorage] = {}  # the storages themselves: a freed one would lend its address to another

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in there:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    if not kept:
        raise ValueError("nothing was saved for a backward pass; run something whose gradients are asked for")
    return sum(storage.nbytes() for storage in kept.values())
