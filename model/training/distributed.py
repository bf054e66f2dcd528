"""How do several processes train one model? Each reads other batches; gradients are summed, so that all take the same step.

    torchrun --nproc-per-node 2 my_training.py

where the script calls `train` inside `with joined():`. Without a process group every function here does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

Backend = Literal["gloo", "nccl"]


@contextmanager
def joined(backend: Backend | None = None) -> Iterator[None]:
    """Be one of the processes that torchrun started, until the block ends; alone where torchrun did not start this one.

    `backend` is nccl where there is a GPU and gloo where there is none. With nccl, process i of a machine uses its GPU i.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield
        return
    backend = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    dist.init_process_group(backend)
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0.

    >>> rank(), n_processes()
    (0, 1)
    """
    return dist.get_rank() if _together() else 0


def n_processes() -> int:
    """How many processes train this model."""
    return dist.get_world_size() if _together() else 1


def total(x: Tensor) -> Tensor:
    """The sum over the processes, in place.

    >>> total(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if _together():
        dist.all_reduce(x)
    return x


def wait() -> None:
    """Go on when every process has come here."""
    if _together():
        dist.barrier()


@torch.no_grad()
def share_weights(model: nn.Module) -> None:
    """Give every process the parameters and buffers of process 0."""
    if _together():
        for tensor in _tensors(model):
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


@torch.no_grad()
def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its sum over the processes; one that was not computed counts as 0."""
    parameters = list(parameters)
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if not _together():
        return
    flat = total(torch.cat([parameter.grad.reshape(-1) for parameter in parameters]))  # one message, not one for each
    for parameter, summed in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.grad.copy_(summed.view_as(parameter))


@torch.no_grad()
def average_buffers(model: nn.Module) -> None:
    """Replace running statistics (batch norm) by their mean over the processes."""
    if _together():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(total(buffer.clone()) / n_processes())


def _together() -> bool:
    return dist.is_available() and dist.is_initialized()


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*(parameter.data for parameter in model.parameters()), *model.buffers()]
