"""How much memory do tensors take at once? The peak of live storages, counted as they are made and freed.

On a CPU every operation is watched (`TorchDispatchMode`): the storages of its results are added, each once, and taken off when the last
tensor lets go of them. That is exact and the same in every run, but does not see what a kernel uses inside. On CUDA it is the
allocator's own peak, which does.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Bytes of storages that were made inside and are still alive: `now`, and at most, `peak`. What existed before is not counted."""

    def __init__(self, *before: Tensor) -> None:
        super().__init__()
        self.now, self.peak = 0, 0
        self._known: dict[int, weakref.finalize | None] = {tensor.untyped_storage()._cdata: None for tensor in before}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = weakref.finalize(storage, self._drop, key, size)
        self.now += size
        self.peak = max(self.peak, self.now)

    def _drop(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self.now -= size


def peak_bytes(run: Callable[[], Any], device: torch.device, before: list[Tensor]) -> int:
    """Most bytes that `run` holds at once beyond what was there; `before` are the tensors that it may return views of (weights, inputs)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        start = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - start
    with LiveBytes(*before) as live:
        run()
    return live.peak
