"""Does every family compute what its own implementation computes, and refuse what it does not understand?"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import load_model, save_model, wrap
from model.architectures import architectures
from tests.conftest import FAMILIES, Pair, hugging_face, relative

EXACT = 1e-5


@torch.no_grad()
def test_logits_equal_the_familys_own(pair: Pair) -> None:
    for batch, pos in ((1, 1), (1, 17), (3, 30)):
        tokens = pair.tokens(batch, pos)
        assert relative(pair.ours(tokens), pair.theirs(tokens).logits) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch(pair: Pair, side: str) -> None:
    """Both sides: against the family's own with the same position ids, and against our own unpadded rows."""
    lengths, width = (5, 12, 9), 12
    tokens, mask = pair.tokens(3, width), torch.zeros(3, width, dtype=torch.bool)
    for row, n in enumerate(lengths):
        mask[row, slice(width - n, None) if side == "left" else slice(n)] = True
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    expected = pair.theirs(tokens, attention_mask=mask.long(), position_ids=positions).logits
    got = pair.ours(tokens, mask)
    assert got.isfinite().all()
    assert relative(got[mask], expected[mask]) < EXACT
    for row in range(3):
        alone = pair.ours(tokens[row : row + 1, mask[row]])
        assert relative(got[row, mask[row]], alone[0]) < EXACT


@torch.no_grad()
def test_what_stands_at_padding_does_not_matter(pair: Pair) -> None:
    tokens, mask = pair.tokens(2, 8), torch.ones(2, 8, dtype=torch.bool)
    mask[0, :3] = False
    other = torch.where(mask, tokens, (tokens + 1) % pair.ours.config.d_vocab)
    assert torch.equal(pair.ours(tokens, mask)[mask], pair.ours(other, mask)[mask])


def test_wrapping_shares_parameters_and_leaves_the_object_alone(pair: Pair) -> None:
    theirs, tokens = hugging_face(pair.theirs.config.model_type, 0), pair.tokens(1, 6) % 60
    keys, wants = list(theirs.state_dict()), [p.requires_grad for p in theirs.parameters()]
    with torch.no_grad():
        before = theirs(tokens).logits
        ours = wrap(theirs)
        assert torch.equal(theirs(tokens).logits, before)
        assert list(theirs.state_dict()) == keys and [p.requires_grad for p in theirs.parameters()] == wants
        storages = {p.untyped_storage().data_ptr() for p in theirs.parameters()}
        assert {p.untyped_storage().data_ptr() for p in ours.parameters()} <= storages
        for parameter in theirs.parameters():  # a change in one is seen by the other
            parameter.mul_(1.1)
        assert relative(ours(tokens), theirs(tokens).logits) < EXACT


@torch.no_grad()
def test_folder_round_trips(pair: Pair, tmp_path) -> None:
    tokens = pair.tokens(2, 7)
    pair.theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs")
    assert torch.equal(loaded(tokens), pair.ours(tokens))
    assert not any(p.requires_grad for p in loaded.parameters())
    ours = load_model(save_model(loaded, tmp_path / "ours"))
    assert torch.equal(ours(tokens), loaded(tokens))
    assert ours.config == loaded.config and len(ours.source.sha256(ours)) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_not_understood_is_refused(family: tuple[str, int], tmp_path) -> None:
    theirs = hugging_face(*family)
    theirs.save_pretrained(tmp_path)
    config, weights = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")

    def expect(message: str, config=config, weights=weights) -> None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        save_file(weights, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path)

    expect("config key 'mystery' \\(value 7\\) is not understood", config | {"mystery": 7})
    name = sorted(weights)[-1]
    expect(f"lacks the tensor '{name}'", weights={k: v for k, v in weights.items() if k != name})
    expect("holds 'extra.weight'", weights=weights | {"extra.weight": torch.zeros(1)})
    expect("must have shape", weights=weights | {name: torch.zeros(3)})
    expect("unknown model family 'gpt22'", config | {"model_type": "gpt22"})


def test_families_are_found_by_listing() -> None:
    assert {"gpt2", "llama"} <= set(architectures())
    for name, family in architectures().items():
        assert family.model_type == name and family.random_configs


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(pair: Pair, dtype: torch.dtype) -> None:
    tokens, exact = pair.tokens(2, 9), pair.ours(pair.tokens(2, 9))
    other = wrap(copy.deepcopy(pair.theirs).to(dtype))
    got = other(tokens)
    assert got.dtype == dtype
    assert relative(got.float(), exact) < {torch.float64: 1e-5, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
