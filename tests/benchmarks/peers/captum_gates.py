"""Captum's FeatureAblation on a gate for each head."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor, nn

from tests.benchmarks.peers import Job, Peer
from tests.benchmarks.problems import Problem, by_site, head_columns

AT_ONCE = 9


def ablation(problem: Problem) -> Job:
    from captum.attr import FeatureAblation

    groups, edits = by_site(problem.ablations), problem.ablations

    def gated(gates: Tensor) -> Tensor:
        """Float[rows·batch] under gates Float[rows·batch edits], 1 for a head that speaks."""

        def hook(site: str):
            columns = [(edits.index(edit), head_columns(problem, edit)) for edit in groups[site]]

            def scaled(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
                z = args[0].clone()
                for number, part in columns:
                    z[..., part] *= gates[:, number].view(-1, *[1] * (z.dim() - 1))
                return (z,)

            return scaled

        with ExitStack() as handles:
            for site in groups:
                handles.callback(problem.theirs.get_submodule(problem.paths[site]).register_forward_pre_hook(hook(site)).remove)
            return problem.run(copies=len(gates) // len(problem.inputs[0]))

    def effects() -> Tensor:
        ones = torch.ones(len(problem.inputs[0]), len(edits))
        effect = FeatureAblation(gated).attribute(ones, perturbations_per_eval=AT_ONCE)  # clean − ablated, batch edits
        return problem.measured(problem.clean, problem.clean) - effect.T

    return effects


PEER = Peer(
    name="Captum FeatureAblation",
    how=f"a gate for each head as the input, `perturbations_per_eval={AT_ONCE}`",
    package="captum",
    jobs={"ablation": ablation},
)
