"""How are many small trainings run? Side by side in processes of one thread each, every one with its own seed, in the order asked for."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from joblib import Parallel, delayed, parallel_config

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(job: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """`job(*a)` for every a, in their order. The job is a function of a module: processes that run it import it.

    Small networks gain nothing from threads, so that every process has one; a single job runs here.
    """
    if len(arguments) < 2 or CORES < 2:
        return [alone(job, a) for a in arguments]
    with workers():
        return Parallel(n_jobs=min(CORES, len(arguments)))(delayed(alone)(job, a) for a in arguments)


@contextmanager
def workers() -> Iterator[None]:
    """Inside the block joblib's processes have one thread each. That one which has kept much memory is replaced between two jobs is no news."""
    with parallel_config(backend="loky", inner_max_num_threads=1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A worker stopped while some jobs were given to the executor")
        yield


def alone(job: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """The job with one thread."""
    with one_thread():
        return job(*arguments)


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch computes with one thread.

    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class CpuClock:
    """CPU seconds of this process since it was made."""

    def __init__(self) -> None:
        self.began = time.process_time()

    def seconds(self) -> float:
        """So far."""
        return time.process_time() - self.began
