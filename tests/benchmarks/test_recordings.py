"""What does a forward pass cost, and what do 30 recorded residual streams add, here and elsewhere? Run with `make benchmark`."""

from __future__ import annotations

import pytest

from tests.benchmarks.measuring import QUICK, contest, shown
from tests.benchmarks.peers import Kind
from tests.benchmarks.problems import Cell

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("batch", [1] if QUICK else [1, 8])
@pytest.mark.parametrize("kind", ["forward", "recording"])
def test_forward_and_recording(kind: Kind, batch: int) -> None:
    print(shown(contest(kind, Cell(model="smollm2", n_tokens=16 if QUICK else 128, batch=batch), runs=9)))
