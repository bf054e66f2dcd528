"""Is a long sequence, computed a few queries at a time, what it is all at once; and do rows leave the output as it is?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import model.masks
import model.mixing
import model.relative
from model import Transformer
from tests.conftest import PADDING, relative
from tests.probes.statistics.test_attention_statistics import KINDS, random_model, tokens_of


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From here on nothing is kept written out, and forty scores are in memory at once."""

    def shrink() -> None:
        monkeypatch.setattr(model.mixing, "AT_ONCE", 40)
        for module in (model.masks, model.relative):
            monkeypatch.setattr(module, "WHOLE", 40)

    return shrink


def run(network: Transformer, padding: str) -> tuple[Tensor, Tensor]:
    tokens, mask = tokens_of(network, padding)
    return network(tokens, mask), mask


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", PADDING)
def test_a_few_queries_at_a_time_are_all_at_once(kind: str, padding: str, small: Callable[[], None]) -> None:
    network = random_model(**KINDS[kind])
    whole, mask = run(network, padding)
    small()
    parts, _ = run(network, padding)
    assert relative(parts[mask], whole[mask]) < 1e-5
    tokens, mask = tokens_of(network, padding)
    state, again = network.start(tokens, mask).repeat(2), whole
    for i in range(network.n_layers):
        state = network.step(state, i)
    assert relative(network.finish(state)[3:][mask], again[mask]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("gradients", [False, True])
def test_who_reads_rows_changes_nothing(kind: str, gradients: bool) -> None:
    network = random_model(**KINDS[kind])
    whole, mask = run(network, "left")
    read = []
    removes = [
        network.sites()[f"blocks.{i}.attn.pattern"].watch_rows(
            lambda rows: read.extend(rows.read(some)[0] for some in reversed(rows.chunks(700)))
        )
        for i in range(2)
    ]
    with torch.set_grad_enabled(gradients):
        seen, _ = run(network, "left")
    for remove in removes:
        remove()
    assert len(read) > 4 and all(alpha.sum(-1).sub(1).abs().max() < 1e-5 for alpha in read)
    assert relative(seen[mask], whole[mask]) < 1e-5
    assert torch.equal(run(network, "left")[0], whole)
