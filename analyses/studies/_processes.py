"""How do several processes of this machine train one model inside a study? They meet over loopback, do the same job, and part."""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from joblib import Parallel, delayed, effective_n_jobs

from analyses.studies._jobs import alone, workers

PATIENCE = 120
"""seconds within which all of them must be done"""
INTERFACE = "GLOO_SOCKET_IFNAME"


def together(job: Callable[..., Any], n: int, *arguments: Any) -> list[Any]:
    """What `job(*arguments)` returns in each of n processes at once that form a group of torch.distributed, by their rank.

    The job is a function of a module, as in `each`, whose processes it takes where they are still there; on a single core the
    n processes share it. Inside the job `model.training.distributed` counts and joins them. None is left waiting by a failure.

    Raises RuntimeError if n processes cannot run at once here, if they cannot meet, or are not done in time.

    >>> from model.training.distributed import n_processes
    >>> together(n_processes, 2)
    [2, 2]
    """
    with tempfile.TemporaryDirectory() as folder, workers():
        possible = effective_n_jobs(n)
        if possible < n:
            raise RuntimeError(f"{n} processes must run at once, but joblib starts {possible} here; run the study in a process of its own")
        try:
            jobs = (delayed(_member)(job, arguments, Path(folder) / "meeting", i, n) for i in range(n))
            return Parallel(n_jobs=n, batch_size=1, timeout=PATIENCE)(jobs)
        except (RuntimeError, multiprocessing.TimeoutError) as error:
            said = str(error).partition("\n")[0] or type(error).__name__
            raise RuntimeError(f"{n} processes of this machine must be done together within {PATIENCE} s, got: {said}") from error


def _member(job: Callable[..., Any], arguments: tuple[Any, ...], meeting: Path, rank: int, n: int) -> Any:
    """The job in one process of the group."""
    with _over_loopback():
        store = dist.FileStore(str(meeting), n)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=n, timeout=timedelta(seconds=PATIENCE))
    try:
        dist.barrier()  # who is done at once must not leave while another still connects
        return alone(job, arguments)
    finally:
        dist.destroy_process_group()


@contextmanager
def _over_loopback() -> Iterator[None]:
    """Inside the block gloo connects through the loopback interface, whatever the machine's name resolves to."""
    before, loopback = os.environ.get(INTERFACE), next((name for _, name in socket.if_nameindex() if name in ("lo", "lo0")), None)
    if loopback is not None:
        os.environ[INTERFACE] = loopback
    try:
        yield
    finally:
        os.environ.pop(INTERFACE, None)
        if before is not None:
            os.environ[INTERFACE] = before
