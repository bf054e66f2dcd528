"""Do two processes take the step that one would take on the batches of both?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from model.training import CausalLM, evaluate, train
from model.training.distributed import average_buffers, joined, n_processes, rank, share_weights, total
from model.training.loop import accumulate_gradients
from tests.model.training.samples import decoder, ragged
from tests.model.training.two_processes import RECIPE

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """What each of two processes ended with."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port),
        "-m", "tests.model.training.two_processes", str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return [load_file(folder / f"process-{i}.safetensors") for i in range(2)]


def test_gradients_are_those_of_one_process_over_both_batches(processes: list[dict[str, torch.Tensor]]) -> None:
    model = decoder().double()
    exercises = [CausalLM()(batch, torch.Generator()) for batch in ragged(2)]
    assert exercises[0].n_tokens != exercises[1].n_tokens
    loss = accumulate_gradients(model, exercises, RECIPE, 1)
    for found in processes:
        assert float(found["loss"]) == pytest.approx(loss, rel=1e-12)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[f"gradient/{name}"], parameter.grad, rtol=1e-9, atol=1e-12)


def test_processes_stay_the_same_and_are_one_that_accumulates(processes: list[dict[str, torch.Tensor]]) -> None:
    first, second = processes
    assert all(torch.equal(first[name], second[name]) for name in first)
    model = decoder().double()
    table = train(model, ragged(4), CausalLM(), replace(RECIPE, accumulate=2))
    torch.testing.assert_close(first["losses"], torch.tensor(table["loss"].to_numpy()), rtol=1e-9, atol=0)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(first[f"weight/{name}"], parameter.detach(), rtol=1e-6, atol=1e-9)
    assert float(first["validation"]) == pytest.approx(evaluate(model, ragged(3, seed=8), CausalLM(), RECIPE), rel=1e-6)


def test_alone_there_is_nothing_to_share() -> None:
    model, one = decoder(), torch.ones(2)
    with joined():
        share_weights(model)
        average_buffers(model)
        assert (rank(), n_processes()) == (0, 1) and total(one) is one
