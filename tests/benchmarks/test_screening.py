"""What does screening save, and what does it miss? All heads exactly, beside a screen whose first ten are settled exactly. Run with `make benchmark`."""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from model import load_model
from probes import FirstOrder, Screening, logit_difference, patching, recall, screen_then_verify
from tests.benchmarks.measuring import QUICK, keep
from tests.benchmarks.problems import ANSWERS

pytestmark = pytest.mark.benchmark
MATRIX_UNITS = "amx_bf16"


def timed(f) -> tuple[float, object]:
    began = time.perf_counter()
    found = f()
    return time.perf_counter() - began, found


@pytest.mark.parametrize(("by", "name"), [("bfloat16", "bfloat16"), (FirstOrder(), "first order")])
def test_heads_screened_and_settled(by, name: str) -> None:
    model = load_model("smollm2")
    names = [("Mary", "John"), ("John", "Mary"), ("Anna", "Tom"), ("Tom", "Anna")][: 1 if QUICK else 4]
    clean = model.tokenize([f"When {a} and {b} went to the store, {b} gave a drink to" for a, b in names])
    corrupt = model.tokenize([f"When {a} and {b} went to the store, {a} gave a drink to" for a, b in names])
    metric, screening = logit_difference(*ANSWERS), Screening(by=by, n_checked=20)
    runs = []
    for _ in range(1 if QUICK else 3):
        whole, truth = timed(lambda: patching(model, clean, corrupt, metric, "z"))
        screened, table = timed(
            lambda: screen_then_verify(model, clean, corrupt, metric, "z", k=10, generator=torch.Generator().manual_seed(0), screening=screening)
        )
        runs.append((whole, screened))
    ratio = statistics.median(whole / screened for whole, screened in runs)
    with open("/proc/cpuinfo") as lines:
        units = any(MATRIX_UNITS in line for line in lines)
    keep(
        f"screening {name}",
        f"270 heads, {len(names)} prompts, screened by {name}, 10 + 20 settled exactly: {ratio:.2f} × as fast as all of them exactly "
        f"({statistics.median(w for w, _ in runs):.1f} s); {recall(table, truth):.0%} of the ten largest found; at most "
        f"{table.attrs['missed_at_most']:.1%} of the others exceed the tenth; bfloat16 matrix units: {'yes' if units else 'no'}"
    )
    assert table["verified"].sum() == 30
