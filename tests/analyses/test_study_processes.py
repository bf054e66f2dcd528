"""Do the processes of a study work as one group, would they find a step that is not that of one, and does a failure end all of them?"""

from __future__ import annotations

import math
import time

import pytest
import torch
from torch import Tensor

from analyses.studies import _processes, q35_hardware
from analyses.studies._processes import together
from model.training import loop
from model.training.distributed import n_processes, rank, sum_gradients, total


def summed(x: float) -> tuple[int, float]:
    return rank(), float(total(torch.tensor(x * (1 + rank()))))


def planted() -> float:
    if rank() == 1:
        raise ValueError("planted in process 1")
    return float(total(torch.ones(1)))


def slow() -> None:
    time.sleep(30)


def averaging(seeds: list[int]) -> list[tuple[Tensor, Tensor]]:
    """Training in which every process takes the mean over its own tokens, and these means are averaged."""
    with pytest.MonkeyPatch.context() as patch:

        def averaged(parameters) -> None:
            parameters = list(parameters)
            sum_gradients(parameters)
            for parameter in parameters:
                parameter.grad /= n_processes()

        patch.setattr(loop, "total", lambda x: x)
        patch.setattr(loop, "sum_gradients", averaged)
        return q35_hardware._taught(seeds)


def test_processes_are_one_group_and_answer_by_their_rank() -> None:
    assert together(summed, 2, 2.0) == [(0, 6.0), (1, 6.0)]
    assert (rank(), n_processes()) == (0, 1), "this process is in no group"


def test_a_step_that_averages_means_is_found_and_one_that_adds_sums_is_not() -> None:
    right = q35_hardware._processes([0])
    assert len(right) == 2 and right[["gradient", "weights"]].to_numpy().max() < 1e-12
    ((gradient, _),) = q35_hardware._taught([0])
    for ((wrong, _),) in together(averaging, 2, [0]):
        assert q35_hardware._error(wrong, gradient) > 1e-3


def test_short_numbers_lose_what_their_spacing_says() -> None:
    """A bf16 weight m · 2^e, 1 ≤ m < 2, moves by r of itself if r · m > 2^-8; fp16 rounds below 2^-25 to 0."""
    lost = q35_hardware._rounding(0).set_index(["format", "what", "size"]).lost.sort_index()
    assert lost["bf16", "updates", 1e-3] == 1 and lost["bf16", "updates", 4e-3] == 0  # below 2^-9, above 2^-8
    assert lost["fp32", "updates", 1e-5] == 0 and (lost["bf16", "gradients"] == 0).all() and (lost["fp32", "gradients"] == 0).all()
    for size in q35_hardware.GRADIENTS:
        assert lost["fp16", "gradients", size] == pytest.approx(math.erf(2**-25 / size / 2**0.5), abs=0.006)


def test_a_failure_of_one_ends_all_and_the_next_group_is_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises((ValueError, RuntimeError), match="planted in process 1|2 processes of this machine must be done together"):
        together(planted, 2)
    began = time.monotonic()
    monkeypatch.setattr(_processes, "PATIENCE", 1)
    with pytest.raises(RuntimeError, match="2 processes of this machine must be done together within 1 s, got: "):
        together(slow, 2)
    assert time.monotonic() - began < 20
    monkeypatch.undo()
    assert together(rank, 2) == [0, 1]


def test_where_they_cannot_run_at_once_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_processes, "effective_n_jobs", lambda n: 1)
    with pytest.raises(RuntimeError, match="2 processes must run at once, but joblib starts 1 here"):
        together(rank, 2)
