"""Does rollout follow tokens through the layers, and say nothing that the patterns do not?"""

from __future__ import annotations

import pytest
import torch

from model import Transformer, TransformerConfig
from probes import SiteError, record
from probes.attribution import attention_rollout


def patterns_of(causal: bool, n_layers: int = 3, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
    shape = {"d_model": 8, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 16, "d_vocab": 10, "n_ctx": 8}
    model = Transformer(TransformerConfig(n_layers=n_layers, causal=causal, **shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), record(model, "blocks.*.attn.pattern") as activations:
        model(torch.randint(10, (3, 6), generator=torch.Generator().manual_seed(1)), mask)
    return list(activations.values())


@pytest.mark.parametrize("causal", [True, False])
def test_rows_sum_to_one_and_causality_is_kept(causal: bool) -> None:
    rolled = attention_rollout(patterns_of(causal))
    assert torch.allclose(rolled.sum(-1), torch.ones(3, 6), atol=1e-6) and bool((rolled >= 0).all())
    assert bool((rolled.triu(1) == 0).all()) == causal


def test_a_token_that_is_handed_on_twice_is_found_where_it_came_from() -> None:
    first, second = torch.zeros(2, 1, 2, 4, 4)
    first[..., :, 1] = 1.0  # everybody copies token 1 …
    second[..., :, 3] = 1.0  # … and then looks at place 3, which holds it by now
    rolled = attention_rollout([first, second])[0, 0]
    assert torch.allclose(rolled, torch.tensor([0.25, 0.5, 0.0, 0.25]))  # last layer's attention alone would point at 3


def test_it_is_the_sum_over_all_paths() -> None:
    patterns = [pattern.double() for pattern in patterns_of(causal=False)]
    a, b, c = ((pattern.mean(1) + torch.eye(6)) / 2 for pattern in patterns)
    paths = torch.einsum("bij,bjk,bkl->bijkl", c, b, a).sum((2, 3))
    assert torch.allclose(attention_rollout(patterns), paths)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_in_no_real_state(side: str) -> None:
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, :2] = False
    mask = mask if side == "left" else mask.flip(1)
    rolled = attention_rollout(patterns_of(causal=False, mask=mask))
    assert bool((rolled[0][mask[0]][:, ~mask[0]] == 0).all())
    assert torch.allclose(rolled.sum(-1), torch.ones(3, 6), atol=1e-6)


def test_a_query_that_sees_nothing_holds_its_own_token() -> None:
    mask = torch.ones(3, 6, dtype=torch.bool)
    mask[0, :2] = False  # before all others: causality leaves nothing to see
    assert torch.equal(attention_rollout(patterns_of(causal=True, mask=mask))[0, :2], torch.eye(6)[:2])


def test_patterns_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(SiteError, match=r"got shapes \[\]"):
        attention_rollout([])
    with pytest.raises(SiteError, match=r"got shapes \[\(1, 2, 3, 4\)\]"):
        attention_rollout([torch.zeros(1, 2, 3, 4)])
