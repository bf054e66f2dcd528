"""Is a fused matrix used as it lies in memory, and differentiated as if it were three?"""

from __future__ import annotations

import pytest
import torch

from model import load_model, save_model, wrap
from model.projection import HeadProjection
from tests.conftest import example, hugging_face, relative


@pytest.mark.parametrize("family", ["gpt_neox", "bloom"])
def test_gradients_are_those_of_the_fused_matrix(family: str) -> None:
    theirs = hugging_face(family, 0)
    ours = wrap(theirs)
    tokens, _ = example(ours)
    ours(tokens).logsumexp(-1).sum().backward()
    theirs(tokens).logits.logsumexp(-1).sum().backward()
    fused = theirs.gpt_neox.layers[1].attention.query_key_value if family == "gpt_neox" else theirs.transformer.h[1].self_attention.query_key_value
    attention, parts = ours.blocks[1].attn, fused.weight.grad.unflatten(0, (5, 3, 8))  # head (q, k, v) d_head d_model
    for i, part in enumerate((attention.W_Q, attention.W_K, attention.W_V)):
        assert part.weight.shape == (5, 8, 40) and part.weight.untyped_storage().data_ptr() == fused.weight.untyped_storage().data_ptr()
        assert relative(part.weight.grad, parts[:, i]) < 1e-4


def test_nothing_is_kept_for_a_backward_pass_but_the_view() -> None:
    projection = HeadProjection(12, 3, 4, bias=False)
    fused = torch.randn(3, 3, 4, 12)
    projection.weight = torch.nn.Parameter(fused[:, 1])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        x = torch.randn(2, 5, 12, requires_grad=True)
        y = projection(x)
    assert {tensor.untyped_storage().data_ptr() for tensor in kept} <= {fused.untyped_storage().data_ptr(), x.untyped_storage().data_ptr()}
    assert relative(y, (x @ fused[:, 1].reshape(12, 12).T).unflatten(-1, (3, 4))) < 1e-6


def test_a_folder_of_ours_holds_three_plain_matrices(tmp_path) -> None:
    ours = wrap(hugging_face("gpt_neox", 0))
    again = load_model(save_model(ours, tmp_path))
    assert again.blocks[0].attn.W_Q.weight.shape == (40, 40) and again.blocks[0].attn.W_Q.bias.shape == (40,)
    tokens, mask = example(ours, "left")
    assert relative(again(tokens, mask), ours(tokens, mask)) < 1e-6
