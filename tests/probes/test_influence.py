"""Is the influence the gradient that it says, and exactly 0 where the architecture cuts the way?"""

from __future__ import annotations

import dataclasses

import pytest
import torch

from model import EncoderDecoder, EncoderDecoderConfig, Transformer, TransformerConfig
from probes.errors import UnknownSiteError
from probes.influence import influence

SHAPE = TransformerConfig(n_layers=2, d_model=8, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=8)
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [5, 6, 7, 8, 9], [1, 1, 2, 2, 3]])


def made(**changes) -> Transformer:
    return Transformer(dataclasses.replace(SHAPE, **changes), generator=torch.Generator().manual_seed(0)).double()


def sizes(model, inputs, example: int = 1, position: int = 2, **named) -> torch.Tensor:
    return influence(model, inputs, example=example, position=position, generator=torch.Generator().manual_seed(3), **named)


def test_it_is_what_a_small_step_shows() -> None:
    """Parity with a Jacobian by central differences of the embedding table: token 6 stands once, so its row is its value."""
    model = made(tied_embeddings=False)
    direction = torch.randn(10, generator=torch.Generator().manual_seed(3)).double()
    table, columns, step = model.embedding.weight, [], 1e-5
    with torch.no_grad():
        for i in range(8):
            read = []
            for sign in (1, -1):
                table[6, i] += sign * step
                read.append(float(model(TOKENS)[1, 2] @ direction))
                table[6, i] -= sign * step
            columns.append((read[0] - read[1]) / (2 * step))
    assert float(sizes(model, (TOKENS,))[1, 1]) == pytest.approx(float(torch.tensor(columns).norm()), rel=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_a_norm_per_token_keeps_examples_apart(causal: bool, norm: str) -> None:
    found = sizes(made(causal=causal, norm=norm), (TOKENS,))
    assert (found[[0, 2]] == 0).all() and (found[1, :3] > 0).all()
    assert bool((found[1, 3:] > 0).all()) is not causal


def test_batch_norm_in_training_sees_everything_and_nothing_more_in_evaluation() -> None:
    model = made(norm="batch")
    assert (sizes(model.train(), (TOKENS,)) > 0).all()
    found = sizes(model.eval(), (TOKENS,))
    assert (found[[0, 2]] == 0).all() and (found[1, 3:] == 0).all()


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_padding_has_none(left: bool, norm: str) -> None:
    mask = torch.ones_like(TOKENS, dtype=torch.bool)
    mask[:, 0 if left else -1] = False
    found = sizes(made(norm=norm, causal=False).train(), (TOKENS, mask))
    assert (found[~mask] == 0).all() and (found[1][mask[1]] > 0).all()


def test_two_stacks() -> None:
    encoder = dataclasses.replace(SHAPE, causal=False, head="none")
    model = EncoderDecoder(EncoderDecoderConfig(encoder=encoder, decoder=SHAPE), generator=torch.Generator().manual_seed(0))
    found = sizes(model, (TOKENS, TOKENS[:, :4], None, None), site="encoder.embed")
    assert (found[1] > 0).all() and (found[[0, 2]] == 0).all()


def test_bad_places_are_said() -> None:
    with pytest.raises(IndexError, match="position must be from -5 to 4, got position=5"):
        sizes(made(), (TOKENS,), position=5)
    with pytest.raises(IndexError, match="example must be from -3 to 2, got example=7"):
        sizes(made(), (TOKENS,), example=7)
    with pytest.raises(UnknownSiteError, match="embd"):
        sizes(made(), (TOKENS,), site="embd")
