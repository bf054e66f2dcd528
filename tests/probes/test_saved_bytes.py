"""Are the bytes that a forward pass keeps those that its equations need?"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from model import Transformer, TransformerConfig
from probes import record
from probes.saved_bytes import saved_bytes


def test_planted_sizes() -> None:
    layer, x = nn.Linear(5, 3), torch.randn(7, 5)
    assert saved_bytes(lambda: layer(x), without=layer.parameters()) == 7 * 5 * 4  # its input, for the gradient of the weights
    y = torch.randn(6, requires_grad=True)
    assert saved_bytes(lambda: y.tanh()) == 6 * 4  # its output
    assert saved_bytes(lambda: (y * y, y * y)) == 6 * 4  # one storage, counted once
    assert saved_bytes(lambda: y[:3].exp() + y[3:].exp()) == 2 * 3 * 4


def test_of_what_is_computed_again_the_inputs_are_seen() -> None:
    """torch's checkpoint keeps the input of every part, and nothing else: it is not to be added to what is counted."""
    parts = nn.ModuleList(nn.Sequential(nn.Linear(5, 9), nn.Tanh(), nn.Linear(9, 5)) for _ in range(3))

    def run(x: torch.Tensor, again: bool) -> None:
        for part in parts:
            x = checkpoint(part, x, use_reentrant=False) if again else part(x)

    x = torch.randn(7, 5, requires_grad=True)
    whole, inputs = (saved_bytes(lambda again=again: run(x, again), without=parts.parameters()) for again in (False, True))
    assert inputs == 3 * 7 * 5 * 4
    assert whole == inputs + 3 * 7 * 9 * 4  # what tanh gives, which the second layer reads


def passes(n: int, explicit: bool, **changes) -> int:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 64, "d_vocab": 10, "n_ctx": 512}
    model, tokens = Transformer(TransformerConfig(**shape | changes)), torch.randint(10, (2, n))

    def run() -> None:
        if explicit:
            with record(model, "blocks.0.attn.pattern", gradients=True):
                model(tokens)
        else:
            model(tokens)

    return saved_bytes(run, without=[*model.parameters(), tokens])


@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_keeps_nothing_of_every_pair_and_explicit_attention_does(causal: bool) -> None:
    fused = [passes(n, explicit=False, causal=causal) for n in (64, 128, 256)]
    assert fused[2] - fused[1] == 2 * (fused[1] - fused[0])  # linear in the length
    explicit = [passes(n, explicit=True, causal=causal) for n in (64, 128, 256)]
    second = (explicit[2] - explicit[1]) - 2 * (explicit[1] - explicit[0])
    per_pair = second / (256**2 - 3 * 128**2 + 2 * 64**2) / 2  # a·n and constants fall out; two examples
    assert per_pair >= 4 * 4  # at least the pattern: 4 heads of 4 bytes


def test_nothing_to_differentiate_is_said() -> None:
    with pytest.raises(ValueError, match="nothing was saved"), torch.no_grad():
        saved_bytes(lambda: nn.Linear(2, 2)(torch.ones(1, 2)))
