"""Where does chance come from? From the seed of the recipe, what it is for, and the number of the step; from nothing before it.

So a run that is resumed at step 500 draws what it would have drawn, and no process draws what another does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def seed_of(*parts: int | str) -> int:
    """A number of 56 bits that stands for the parts; the same on every machine.

    >>> seed_of(0, "dropout", 1) == seed_of(0, "dropout", 1), seed_of(0, "dropout", 1) == seed_of(0, "dropout", 2)
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big")


def generator_of(*parts: int | str) -> torch.Generator:
    """A generator on the CPU that starts from `seed_of(*parts)`."""
    return torch.Generator().manual_seed(seed_of(*parts))


@contextmanager
def dropout_from(*parts: int | str) -> Iterator[None]:
    """Inside the block torch's own generators, from which dropout draws, start from `seed_of(*parts)`; behind it they are as before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        start = torch.manual_seed if torch.accelerator.is_available() else torch.default_generator.manual_seed
        start(seed_of(*parts))  # torch.manual_seed keeps a stack trace for every kind of device that is not there
        yield


def order(n: int, seed: int, epoch: int) -> list[int]:
    """The order of n batches in one pass over them, passes counted from 0.

    >>> sorted(order(4, seed=0, epoch=1))
    [0, 1, 2, 3]
    """
    return torch.randperm(n, generator=generator_of(seed, "order", epoch)).tolist()
