"""Plain torch hooks, one forward pass for each edit."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from tests.benchmarks.peers import Job, Peer, last_states
from tests.benchmarks.problems import Problem, head_columns


def ablation(problem: Problem) -> Job:
    def one(edit) -> Tensor:
        columns = head_columns(problem, edit)

        def silenced(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            z[..., columns] = 0
            return (z,)

        handle = problem.theirs.get_submodule(problem.paths[edit.site]).register_forward_pre_hook(silenced)
        try:
            return problem.run()
        finally:
            handle.remove()

    return lambda: torch.stack([one(edit) for edit in problem.ablations])


def patching(problem: Problem) -> Job:
    layers = problem.theirs.model.layers

    def patched() -> Tensor:
        clean: dict[int, Tensor] = {}
        with ExitStack() as handles:
            for i, layer in enumerate(layers):
                handles.callback(layer.register_forward_pre_hook(lambda _, args, i=i: clean.__setitem__(i, args[0])).remove)
            problem.theirs(*problem.inputs, **problem.options)
        values = []
        for i, p in problem.patches:

            def put(module: nn.Module, args: tuple, i: int = i, p: int = p) -> tuple:
                resid = args[0].clone()
                resid[:, p] = clean[i][:, p]
                return (resid, *args[1:])

            handle = layers[i].register_forward_pre_hook(put)
            values.append(problem.measured(problem.read(problem.theirs(*problem.corrupt, **problem.options)), problem.clean))
            handle.remove()
        return torch.stack(values)

    return patched


def forward(problem: Problem) -> Job:
    return lambda: problem.theirs(*problem.inputs, use_cache=False).logits


def recording(problem: Problem) -> Job:
    def recorded() -> Tensor:
        states: list[Tensor] = []
        with ExitStack() as handles:
            for layer in problem.theirs.model.layers:
                handles.callback(layer.register_forward_hook(lambda _, args, out: states.append(out)).remove)
            problem.theirs(*problem.inputs, use_cache=False)
        return last_states(states)

    return recorded


PEER = Peer(
    name="plain hooks, loop",
    how="Hugging Face's model and a torch hook, one forward pass per edit; the last position unembedded alone",
    package="transformers",
    jobs={"ablation": ablation, "patching": patching, "forward": forward, "recording": recording},
)
