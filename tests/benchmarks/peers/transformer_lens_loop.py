"""TransformerLens' run_with_hooks, one for each edit, and its own activation patching."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from tests.benchmarks.peers import Job, Peer, last_states
from tests.benchmarks.problems import Problem


def bridge_around(problem: Problem) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    theirs = problem.theirs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build_bridge_from_module(theirs, type(theirs).__name__, hf_config=theirs.config)


def ablation(problem: Problem) -> Job:
    bridge = bridge_around(problem)

    def one(edit) -> Tensor:
        def silenced(z: Tensor, hook: Any) -> Tensor:
            z[:, :, edit.heads[0]] = 0
            return z

        logits = bridge.run_with_hooks(*problem.inputs, fwd_hooks=[(edit.site.replace(".z", ".hook_z"), silenced)], use_cache=False)
        return problem.measured(logits[:, -1:], problem.clean)

    return lambda: torch.stack([one(edit) for edit in problem.ablations])


def patching(problem: Problem) -> Job:
    from transformer_lens.patching import generic_activation_patch, layer_pos_patch_setter

    bridge, cells = bridge_around(problem), pd.DataFrame(problem.patches, columns=["layer", "pos"])

    def patched() -> Tensor:
        _, clean = bridge.run_with_cache(*problem.inputs, names_filter=lambda name: name.endswith("hook_resid_pre"))
        values = generic_activation_patch(
            bridge,
            problem.corrupt[0],
            clean,
            lambda logits: problem.measured(logits[:, -1:], problem.clean)[0],
            layer_pos_patch_setter,
            "resid_pre",
            index_df=cells,
        )
        return values.unsqueeze(1)

    return patched


def forward(problem: Problem) -> Job:
    bridge = bridge_around(problem)
    return lambda: bridge(*problem.inputs, use_cache=False)


def recording(problem: Problem) -> Job:
    bridge = bridge_around(problem)

    def recorded() -> Tensor:
        _, cache = bridge.run_with_cache(*problem.inputs, names_filter=lambda name: name.endswith("hook_resid_post"), use_cache=False)
        return last_states([cache[f"blocks.{i}.hook_resid_post"] for i in range(problem.ours.n_layers)])

    return recorded


PEER = Peer(
    name="TransformerLens, loop",
    how="`TransformerBridge` around the same model: `run_with_hooks` per edit; `generic_activation_patch`",
    package="transformer-lens",
    jobs={"ablation": ablation, "patching": patching, "forward": forward, "recording": recording},
    models=("smollm2",),
)
