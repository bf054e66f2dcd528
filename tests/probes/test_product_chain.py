"""Is the longest chain of matrix products the one that the equations have?"""

from __future__ import annotations

import pytest
import torch

from model import LSTMConfig, LSTMLanguageModel, Transformer, TransformerConfig
from probes import record
from probes.product_chain import product_chain, recurrence_in_the_open

PER_BLOCK = 6  # q, k or v; q kᵀ; pattern · v; W_O; W_in; W_out


def transformer(n_layers: int, **changes) -> Transformer:
    shape = {"d_model": 8, "n_heads": 2, "n_kv_heads": 1, "d_head": 4, "d_mlp": 16, "d_vocab": 10, "n_ctx": 64}
    return Transformer(TransformerConfig(n_layers=n_layers, **shape | changes))


def test_a_planted_chain() -> None:
    a = torch.eye(3, requires_grad=True)
    x = a
    for _ in range(7):
        x = (x @ a).tanh()
    assert product_chain(x) == 7
    assert product_chain(x + a @ a) == 7
    assert product_chain(torch.cat([x @ a, a])) == 8
    assert product_chain(a.exp().sum()) == 0


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("n", [4, 32])
def test_a_transformers_chain_is_that_of_its_equations_at_any_length(n: int, causal: bool) -> None:
    for n_layers in (1, 3):
        model = transformer(n_layers, causal=causal)
        tokens = torch.randint(10, (2, n))
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[0, -2:] = False
        assert product_chain(model(tokens, mask)) == PER_BLOCK * n_layers + 1
        with record(model, "blocks.*.attn.pattern"):  # attention in the open has the same products
            assert product_chain(model(tokens)) == PER_BLOCK * n_layers + 1


def test_a_recurrent_chain_grows_with_the_sequence() -> None:
    model = LSTMLanguageModel(LSTMConfig(n_layers=1, d_model=8, d_vocab=10))
    with recurrence_in_the_open():
        lengths = {n: product_chain(model(torch.randint(10, (2, n)))) for n in (4, 9)}
    assert lengths == {4: 4 + 1, 9: 9 + 1}  # a product for every step (the first reads no state), the first input's, the logits'


def test_a_long_graph_is_no_trouble() -> None:
    a = torch.ones(1, 1, requires_grad=True)
    x = a
    for _ in range(5000):
        x = x @ a
    assert product_chain(x) == 5000


def test_what_cannot_be_counted_is_said() -> None:
    with pytest.raises(ValueError, match="got a tensor without one"):
        product_chain(torch.ones(2, 2) @ torch.ones(2, 2))
    model = LSTMLanguageModel(LSTMConfig(n_layers=1, d_model=8, d_vocab=10))
    if torch.backends.mkldnn.is_available():
        with pytest.raises(ValueError, match="hides its steps in MkldnnRnn"):
            product_chain(model(torch.randint(10, (2, 4))))
