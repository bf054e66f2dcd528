"""Does the planted model do what it was built to do, with the heads it was planted in?"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from model import Transformer, load_model
from model.zoo import zoo
from model.zoo.planted_induction import INDUCTION_HEAD, PREVIOUS_TOKEN_HEAD, planted_induction
from probes import record

PERIOD = 32
HEADS = [(layer, head) for layer in range(2) for head in range(4)]


@pytest.fixture(scope="module")
def repeated() -> torch.Tensor:
    """Random tokens, none twice, and the same again."""
    generator = torch.Generator().manual_seed(3)
    half = torch.stack([torch.randperm(48, generator=generator)[:PERIOD] for _ in range(8)])
    return torch.cat((half, half), dim=1)


def loss_by_position(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """Nats at each position but the last."""
    return F.cross_entropy(model(tokens)[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none").mean(0)


def scores(model: Transformer, tokens: torch.Tensor) -> tuple[dict, dict]:
    """Mean mass on the token before, and on the token behind the last occurrence of the query's token, by head."""
    with record(model, "blocks.*.attn.pattern") as activations:
        model(tokens)
    previous, induction = {}, {}
    for layer, head in HEADS:
        pattern = activations[f"blocks.{layer}.attn.pattern"][:, head]
        previous[layer, head] = float(pattern.diagonal(-1, 1, 2).min())
        induction[layer, head] = float(pattern.diagonal(1 - PERIOD, 1, 2)[:, 1:].mean())  # queries of the second half
    return previous, induction


def test_it_knows_nothing_in_the_first_half_and_everything_in_the_second(repeated: torch.Tensor) -> None:
    loss = loss_by_position(planted_induction(), repeated)
    assert abs(float(loss[: PERIOD - 1].mean()) - math.log(48)) < 0.05
    assert loss[PERIOD:].max() < 0.01


def test_the_heads_are_where_they_were_planted(repeated: torch.Tensor) -> None:
    previous, induction = scores(planted_induction(), repeated)
    assert previous[PREVIOUS_TOKEN_HEAD] >= 0.99 and induction[INDUCTION_HEAD] >= 0.9
    assert max(score for head, score in previous.items() if head != PREVIOUS_TOKEN_HEAD) < 0.2
    assert max(score for head, score in induction.items() if head != INDUCTION_HEAD) < 0.2


def test_the_induction_head_reads_the_other_through_its_keys(repeated: torch.Tensor) -> None:
    model, (layer, head) = planted_induction(), PREVIOUS_TOKEN_HEAD
    remove = model.sites()[f"blocks.{layer}.attn.z"].edit(lambda z: z.index_fill(2, torch.tensor([head]), 0.0))
    _, induction = scores(model, repeated)
    remove()
    assert induction[INDUCTION_HEAD] < 0.05


def test_it_is_in_the_zoo_without_a_package() -> None:
    entry = zoo()["planted-induction"]
    assert entry.path() is None and entry.install == ""
    model = load_model("planted-induction", dtype=torch.float64)
    assert model.dtype == torch.float64 and model.source.kind == "initialised"
    assert model.source.sha256(model) == load_model("planted-induction", dtype=torch.float64).source.sha256(model)


def test_what_it_cannot_be() -> None:
    with pytest.raises(ValueError, match="sharpness must be positive, got sharpness=0"):
        planted_induction(sharpness=0)
    with pytest.raises(ValueError, match="at least 0, got noise=-1"):
        planted_induction(noise=-1)
