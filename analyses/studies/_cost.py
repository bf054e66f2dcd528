"""What did a study take? CPU seconds of all its processes, and how long it lasted."""

from __future__ import annotations

import os
import time

import pandas as pd
import psutil

from analyses._contract import table
from reports import Table

COST = "cost"
"""the name of the table that every study has"""


class Clock:
    """CPU and wall seconds since it was made, of this process and of all that it starts.

    >>> clock = Clock()
    >>> while clock.table().frame.cpu_seconds[0] == 0:  # the system counts in hundredths of a second
    ...     _ = sum(i * i for i in range(200_000))
    >>> bool(clock.table().frame.cpu_seconds[0] > 0)
    True
    """

    def __init__(self) -> None:
        self._cpu, self._wall = _cpu_seconds(), time.perf_counter()

    def table(self) -> Table:
        """What has been taken so far."""
        row = {"cpu_seconds": _cpu_seconds() - self._cpu, "seconds": time.perf_counter() - self._wall, "cores": os.cpu_count()}
        return table(
            pd.DataFrame([row]), "What the measurement took on this machine.", measurement=True, cpu_seconds=("s", "of all processes together"),
            seconds=("s", "from beginning to end"), cores=("cores", "of the machine"),
        )  # fmt: skip


def _cpu_seconds() -> float:
    """Of this process, of those it has started that are alive, and of those that have ended and were waited for."""
    total, processes = 0.0, [psutil.Process()]
    processes += processes[0].children(recursive=True)
    for process in processes:
        try:
            used = process.cpu_times()
        except psutil.NoSuchProcess:  # it ended meanwhile
            continue
        total += used.user + used.system + used.children_user + used.children_system
    return total
