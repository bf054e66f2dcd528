"""Do studies 23, 24 and 25 compare what their sentences compare: arms that differ in one thing, heads that share nothing, gradients from the last block to the first?"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import BASE
from analyses.studies.q24_head_subspaces import _overlaps
from analyses.studies.q25_norms_and_residuals import DEPTH, _decades, _start
from model import Transformer
from probes import Edit, intervene, record, zero


def test_from_glorots_start_arms_differ_in_their_positions_alone() -> None:
    arms = {kind: dict(started_as_in_the_paper(dataclasses.replace(PAPER, positions=kind), seed=3).named_parameters()) for kind in ("none", "sinusoidal", "learned")}
    assert set(arms["learned"]) - set(arms["none"]) == {"position_embedding.weight"} and set(arms["sinusoidal"]) == set(arms["none"])
    assert all(torch.equal(arm[name], weight) for name, weight in arms["none"].items() for arm in arms.values())


def test_pairs_of_heads_are_told_apart_by_whether_one_value_head_feeds_both() -> None:
    model = Transformer(dataclasses.replace(BASE, n_layers=1, n_heads=4, n_kv_heads=2)).eval().requires_grad_(False)
    directions = torch.eye(64)[:32].view(2, 16, 64)
    for head in range(4):
        model.W_O[0][head] = directions[head // 2]  # two heads of a group write into one subspace, groups into orthogonal ones
    tokens = torch.randint(BASE.d_vocab, (1, 5), generator=torch.Generator().manual_seed(0))
    with record(model, "blocks.0.attn.z") as clean:
        model(tokens)
    with intervene(model, Edit("blocks.0.attn.v", zero(), heads=0)), record(model, "blocks.0.attn.z") as edited:
        model(tokens)
    fed = (clean["blocks.0.attn.z"] != edited["blocks.0.attn.z"]).any(-1).any(1)[0]
    pairs = _overlaps(model)
    assert [bool(fed[a] == fed[b]) for a, b in zip(pairs.a, pairs.b, strict=True)] == pairs.shared.tolist() and pairs.shared.sum() == 2
    assert pairs[pairs.shared].written.tolist() == pytest.approx([1.0] * 2) and pairs[~pairs.shared].written.tolist() == pytest.approx([0.0] * 4, abs=1e-6)
    assert not _overlaps(Transformer(BASE)).shared.any()


def test_decades_say_which_way_the_gradient_goes() -> None:
    """Without norms and residual connections, what goes back is smaller behind every one of Glorot's blocks."""
    found = _start("none", residual=False, seed=0)
    assert found.block.tolist() == list(range(1, DEPTH + 1))
    assert float(_decades(found)[0]) > 1 and found.gradient.is_monotonic_increasing
    assert float(_decades(found.assign(gradient=1 / found.gradient))[0]) < -1
