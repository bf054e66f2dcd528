"""What does one run of one peer cost? A process of its own, which runs once for every line that it reads and answers with a line."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import time
from typing import Any

import torch

from tests.benchmarks.peers import peers
from tests.benchmarks.problems import PROBLEMS, Cell


def memory(key: str) -> float:
    """VmRSS or VmHWM of this process, in MB; nan where the system does not say."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024
    except OSError:
        return float("nan")


def forget_peak() -> None:
    """The high-water mark starts from here."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def give_back() -> None:
    """Memory that is free goes back to the system, where its C library can."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except (OSError, AttributeError):
        pass


@torch.no_grad()
def main(spec: dict[str, Any]) -> None:
    """Prepare, say so, and run when told."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(**values: Any) -> None:
        answers.write(json.dumps(values) + "\n")
        answers.flush()

    peer, cell = peers()[spec["peer"]], Cell(**spec["cell"])
    problem = PROBLEMS[cell.model](cell, cell.every if peer.scales else 1)
    problem.run(), problem.ours(*problem.inputs)  # what is read of the clean run, before anything is edited
    try:
        job = peer.jobs[spec["kind"]](problem)
    except ImportError as error:
        return answer(missing=str(error))
    give_back()
    before = memory("VmRSS")
    answer(share=len([i for i in range(problem.ours.n_layers) if problem.takes(i)]) / problem.ours.n_layers)
    for _ in sys.stdin:
        forget_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        values = job()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        answer(wall=wall, cpu=cpu, peak=memory("VmHWM") - before, values=values.flatten()[:100_000].tolist())


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
