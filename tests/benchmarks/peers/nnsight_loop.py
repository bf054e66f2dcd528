"""nnsight's trace, one for each edit."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.peers import Job, Peer, last_states
from tests.benchmarks.problems import Problem, head_columns


def around(problem: Problem) -> Any:
    from nnsight import NNsight

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return NNsight(problem.theirs)


def ablation(problem: Problem) -> Job:
    traced = around(problem)
    places = dict(traced.named_modules())  # by path: a module that is called `output` has another name as an attribute

    def one(edit) -> Tensor:
        columns, place = head_columns(problem, edit), places[f"model.{problem.paths[edit.site]}"]
        with traced.trace(*problem.inputs, **problem.options):
            place.input[..., columns] = 0
            output = traced.output.save()
        return problem.measured(problem.read(output), problem.clean)

    return lambda: torch.stack([one(edit) for edit in problem.ablations])


def recording(problem: Problem) -> Job:
    traced = around(problem)

    def recorded() -> Tensor:
        with traced.trace(*problem.inputs, use_cache=False):
            states = [layer.output for layer in traced.model.layers].save()
        return last_states(states)

    return recorded


PEER = Peer(
    name="nnsight, loop",
    how="one trace per edit around the same model; the last position unembedded alone",
    package="nnsight",
    jobs={"ablation": ablation, "recording": recording},
    models=("smollm2", "minilm"),
)
