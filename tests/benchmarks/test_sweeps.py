"""What does it take to silence every head, here and elsewhere? Run with `make benchmark`; `PROSECT_BENCHMARK=quick` only shows that all of it works."""

from __future__ import annotations

import pytest

from tests.benchmarks.measuring import QUICK, contest, shown
from tests.benchmarks.problems import Cell

pytestmark = pytest.mark.benchmark

CELLS = [
    (Cell(model="smollm2", n_tokens=16, batch=1), 5),
    (Cell(model="smollm2", n_tokens=48, batch=4, every=3), 3),
    (Cell(model="smollm2", n_tokens=64, batch=8, every=10), 3),
    (Cell(model="minilm", n_tokens=32, batch=8), 5),
    (Cell(model="g2p", n_tokens=12, batch=16), 9),
]
FEW = [
    Cell(model="smollm2", n_tokens=16, batch=1, every=10),
    Cell(model="minilm", n_tokens=16, batch=2),
    Cell(model="g2p", n_tokens=8, batch=4),
]


@pytest.mark.parametrize(("cell", "runs"), [(cell, 1) for cell in FEW] if QUICK else CELLS, ids=str)
def test_every_head_silenced(cell: Cell, runs: int) -> None:
    print(shown(contest("ablation", cell, runs=runs)))
