"""prosect's sweep: each edit from the block, and the place, that it changes first."""

from __future__ import annotations

import torch
from torch import Tensor

from probes import record, sweep
from tests.benchmarks.peers import Job, Peer, last_states
from tests.benchmarks.problems import Problem


def swept(problem: Problem, inputs: tuple[Tensor, ...], edits: list) -> Tensor:
    table = sweep(problem.ours, inputs, edits, problem.metric)
    return torch.tensor(table["edited"].to_numpy()).view(len(edits), -1)


def ablation(problem: Problem) -> Job:
    return lambda: swept(problem, problem.inputs, problem.ablations)


def patching(problem: Problem) -> Job:
    return lambda: swept(problem, problem.corrupt, problem.patch_edits)


def forward(problem: Problem) -> Job:
    return lambda: problem.ours(*problem.inputs)


def recording(problem: Problem) -> Job:
    def recorded() -> Tensor:
        with record(problem.ours, "blocks.*.resid_post") as activations:
            problem.ours(*problem.inputs)
        return last_states(activations.values())

    return recorded


PEER = Peer(
    name="prosect",
    how="`sweep`; `record`",
    scales=False,
    jobs={"ablation": ablation, "patching": patching, "forward": forward, "recording": recording},
)
