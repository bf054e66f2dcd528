"""Is the likeness of heads what it is where it is known: one head twice, disjoint heads, random ones?"""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.distance import jensenshannon

from model import Transformer, TransformerConfig
from probes import record
from probes.statistics import View, pattern_divergence, subspace_overlap


def patterns(*shape: int, seed: int = 0) -> torch.Tensor:
    scores = 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return scores.masked_fill(torch.ones(shape[-2:]).triu(1).bool(), -torch.inf).softmax(-1)


def test_the_divergence_is_scipys() -> None:
    alpha = patterns(2, 3, 6, 6)
    found = pattern_divergence(alpha)
    for b in range(2):
        for h in range(3):
            for g in range(3):
                expected = [jensenshannon(alpha[b, h, i].numpy(), alpha[b, g, i].numpy()) ** 2 for i in range(1, 6)]
                assert float(found[b, h, g]) == pytest.approx(sum(expected) / 5, abs=1e-6)
    assert torch.equal(found, found.mT) and float(found.max()) <= math.log(2) + 1e-6


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(side: str, causal: bool) -> None:
    config = TransformerConfig(
        n_layers=1, d_model=12, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=8, causal=causal, norm="none"
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(1)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(20)
    tokens = torch.randint(9, (2, 5), generator=torch.Generator().manual_seed(2))
    pads, real = torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool)
    padded, mask = (torch.cat((b, a) if side == "left" else (a, b), dim=1) for a, b in ((tokens, pads), (real, pads.bool())))
    found = []
    for read in ((tokens, None), (padded, mask)):
        with record(model, "blocks.0.attn.pattern") as activations:
            model(*read)
        found.append(pattern_divergence(activations["blocks.0.attn.pattern"], View(kind="causal" if causal else "full", mask=read[1])))
    assert torch.allclose(found[0], found[1], atol=1e-5) and float(found[0].max()) > 0.01


def test_an_example_with_one_token_has_no_divergence() -> None:
    assert pattern_divergence(torch.ones(1, 2, 1, 1)).isnan().all()


def test_overlap_of_random_heads_is_their_share_of_the_stream() -> None:
    weights = torch.randn(40, 4, 32, generator=torch.Generator().manual_seed(0))
    overlap = subspace_overlap(weights)
    other = ~torch.eye(40, dtype=torch.bool)
    assert float(overlap[other].mean()) == pytest.approx(4 / 32, abs=0.005)
    assert torch.allclose(overlap.diagonal(), torch.ones(40), atol=1e-5)


def test_overlap_is_of_subspaces_not_of_their_bases_or_of_the_axes_of_the_stream() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 4, 16, generator=generator)
    mixed = torch.randn(3, 4, 4, generator=generator) @ weights
    turned = weights @ torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    expected = subspace_overlap(weights)
    assert torch.allclose(subspace_overlap(mixed), expected, atol=1e-4) and torch.allclose(subspace_overlap(turned), expected, atol=1e-4)


def test_rows_that_depend_on_each_other_span_less() -> None:
    axes = torch.eye(4)
    assert subspace_overlap(torch.stack([torch.stack([axes[0], 2 * axes[0]]), axes[:2]])).tolist() == [[0.5, 0.5], [0.5, 1.0]]


def test_heads_wider_than_the_model_are_refused() -> None:
    with pytest.raises(ValueError, match="span a subspace of the stream, got d_head=5, d_model=3"):
        subspace_overlap(torch.ones(2, 5, 3))
