"""Do scores, and the gradients that reach them, do what the studies of attention's scores say of them?"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from analyses.studies._starts import start_scores
from analyses.studies._training import BASE, character_model
from analyses.studies.q02_separate_queries_and_keys import EDITS, TEXT_ARMS
from analyses.studies.q03_dot_against_additive import WithoutTanh, _attention
from analyses.studies.q04_scaled_dot_product import WIDE, _start, at_start
from probes import intervene, record

TOKENS = torch.arange(12)[None] % BASE.d_vocab


@pytest.mark.parametrize(("start", "of_unit_queries"), [("Glorot", 1.0), ("nn.Linear", 1 / 3), ("N(0, 0.02)", WIDE * 0.02**2)])
def test_scores_spread_by_the_root_of_the_width_of_a_head(start: str, of_unit_queries: float) -> None:
    """Of d_k products whose factors both have the variance `of_unit_queries`."""
    for d_head in (16, 256):
        assert _start(start, d_head, seed=0)["spread"] == pytest.approx(of_unit_queries * d_head**0.5, rel=0.2)


def test_a_factor_moved_from_the_scores_into_the_weights_changes_no_gradient_at_the_scores() -> None:
    """The same scores, softmax and loss; W_Q, now smaller by √d_k, has a gradient that is larger by as much."""
    scaled, unscaled = (
        character_model(dataclasses.replace(BASE, n_heads=1, n_kv_heads=1, d_head=64, score_scale=scale), seed=0) for scale in (None, 1.0)
    )
    for model in (scaled, unscaled):
        start_scores(model, "Glorot", seed=0)
    with torch.no_grad():
        for block in unscaled.blocks:
            block.attn.W_Q.weight.div_(8)
    a, b = (at_start(model, seed=0) for model in (scaled, unscaled))
    assert b["at_scores"] == pytest.approx(a["at_scores"], rel=1e-4) and b["gradient"] == pytest.approx(8 * a["gradient"], rel=1e-4)
    assert b["entropy"] == pytest.approx(a["entropy"], rel=1e-4) and b["spread"] == pytest.approx(a["spread"] / 8, rel=1e-4)


def test_additive_scores_without_tanh_order_the_keys_alike_for_every_query() -> None:
    """w·(q + k) is w·q + w·k, and the softmax forgets w·q."""
    model, tokens = _attention("additive", 12)
    for projection in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K):
        projection.weight.mul_(100)  # so that the tanh bends
    with record(model, "blocks.0.attn.pattern") as seen, WithoutTanh():
        model(tokens)
    pattern = seen["blocks.0.attn.pattern"][0, 0]
    torch.testing.assert_close(pattern, pattern[:1].expand_as(pattern))
    with record(model, "blocks.0.attn.pattern") as seen:
        model(tokens)
    assert not torch.allclose(seen["blocks.0.attn.pattern"][0, 0], pattern)


def test_keys_as_in_reformer_have_one_length_and_no_token_looks_at_itself_but_the_first() -> None:
    arm = "shared, as in Reformer"
    model = character_model(TEXT_ARMS[arm], seed=0)
    with intervene(model, *EDITS[arm]), record(model, ["blocks.*.attn.q", "blocks.*.attn.k", "blocks.*.attn.pattern", "blocks.*.attn.scores"]) as seen:
        model(TOKENS).square().mean().backward()
    for i, block in enumerate(model.blocks):
        q, k, pattern, scores = (seen[f"blocks.{i}.attn.{name}"] for name in ("q", "k", "pattern", "scores"))
        torch.testing.assert_close(k.norm(dim=-1), torch.full(k.shape[:-1], BASE.d_head**0.5))
        torch.testing.assert_close(k / k.norm(dim=-1, keepdim=True), q / q.norm(dim=-1, keepdim=True))
        seen_scores = scores.masked_fill(scores < -1e4, 0.0).abs().amax(-1)  # batch head query
        assert bool((seen_scores <= q.norm(dim=-1).mT + 1e-5).all()), "q·k/√d_k is the length of q times a cosine"
        itself = pattern.diagonal(dim1=-2, dim2=-1)
        assert bool((itself[..., 0] == 1).all()) and bool((itself[..., 1:] == 0).all())
        assert float(block.attn.W_Q.weight.grad.norm()) > 0
