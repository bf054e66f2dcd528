"""What does it take to patch the residual stream at every layer and position, here and elsewhere? Run with `make benchmark`."""

from __future__ import annotations

import pytest

from tests.benchmarks.measuring import QUICK, contest, shown
from tests.benchmarks.problems import Cell

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("n_tokens", [8] if QUICK else [48])
def test_every_layer_and_position_patched(n_tokens: int) -> None:
    print(shown(contest("patching", Cell(model="smollm2", n_tokens=n_tokens, batch=1, every=10), runs=3)))
