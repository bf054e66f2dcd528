"""Plain torch hooks, the heads of a block in one large batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.benchmarks.peers import Job, Peer
from tests.benchmarks.problems import Problem, by_site, head_columns


def ablation(problem: Problem) -> Job:
    def block(site: str, edits: list) -> Tensor:
        def silenced(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone()
            for part, edit in zip(z.chunk(len(edits)), edits, strict=True):
                part[..., head_columns(problem, edit)] = 0
            return (z,)

        handle = problem.theirs.get_submodule(problem.paths[site]).register_forward_pre_hook(silenced)
        try:
            return problem.run(copies=len(edits)).view(len(edits), -1)
        finally:
            handle.remove()

    return lambda: torch.cat([block(site, edits) for site, edits in by_site(problem.ablations).items()])


PEER = Peer(
    name="plain hooks, batched",
    how="the same, with the heads of a block as copies in one batch",
    package="transformers",
    jobs={"ablation": ablation},
)
