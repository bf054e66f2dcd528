"""Does every family compute what its own implementation computes, and refuse what it does not understand?"""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import EncoderDecoder, Transformer, load_model, save_model, wrap
from model.architectures import architectures
from model.checkpoint import assemble
from tests.conftest import FAMILIES, Pair, example, hugging_face, read_mask, relative
from tests.contracts.families import EXACT, LOWER, dtype_difference, padded_difference, plain_difference

OPTIONAL = {"final_logits_bias", "lm_head.weight"}
"""What the families' own loaders do without: BART's bias is then 0, T5's unembedding the embedding."""


@torch.no_grad()
def test_logits_equal_the_familys_own(pair: Pair) -> None:
    assert plain_difference(pair) < EXACT


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batch(pair: Pair, side: str) -> None:
    """Both sides: against the family's own, and against our own unpadded rows."""
    assert padded_difference(pair, side) < EXACT
    inputs = example(pair.ours, side, pos=32)
    assert pair.ours(*inputs).isfinite().all()
    mask = read_mask(inputs)
    alone = [x[1:2, inputs[i + len(inputs) // 2][1]] for i, x in enumerate(inputs[: len(inputs) // 2])]
    assert relative(pair.ours(*inputs)[1, mask[1]], pair.ours(*alone)[0]) < EXACT


@torch.no_grad()
def test_what_stands_at_padding_does_not_matter(pair: Pair) -> None:
    inputs = example(pair.ours, "left")
    half = len(inputs) // 2
    other = [torch.where(mask, tokens, (tokens + 1) % 60) for tokens, mask in zip(inputs[:half], inputs[half:], strict=True)]
    assert torch.equal(pair.got(*inputs), pair.got(*other, *inputs[half:]))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_head_there_are_final_states(family: tuple[str, int], tmp_path) -> None:
    theirs = hugging_face(*family, headless=True)
    pair = Pair(theirs, wrap(theirs))
    inputs = example(pair.ours, "right")
    assert "logits" not in pair.ours.sites()
    assert relative(pair.got(*inputs), pair.expected(*inputs)) < EXACT
    theirs.save_pretrained(tmp_path)
    assert torch.equal(load_model(tmp_path)(*inputs), pair.ours(*inputs))


@torch.no_grad()
@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_segments(name: str) -> None:
    for i, family in enumerate(architectures()[name].random_configs):
        theirs, kinds = hugging_face(name, i), family.get("type_vocab_size", 2)
        ours = wrap(theirs)
        tokens = torch.randint(5, 60, (2, 9), generator=torch.Generator().manual_seed(0))  # none that RoBERTa takes for padding
        segments = torch.arange(9).expand(2, -1) % kinds
        assert relative(ours(tokens, segments=segments), theirs(tokens, token_type_ids=segments).logits) < EXACT
        with pytest.raises(ValueError, match=f"segments must be from 0 to {kinds - 1}, got {kinds}"):
            ours(tokens, segments=segments * 0 + kinds)


def test_wrapping_shares_parameters_and_leaves_the_object_alone(pair: Pair) -> None:
    theirs, inputs = pair.theirs, example(pair.ours)
    keys, wants, before = list(theirs.state_dict()), [p.requires_grad for p in theirs.parameters()], pair.expected(*inputs)
    with torch.no_grad():
        ours = wrap(theirs)
        assert torch.equal(pair.expected(*inputs), before)
        assert list(theirs.state_dict()) == keys and [p.requires_grad for p in theirs.parameters()] == wants
        storages = {tensor.untyped_storage().data_ptr() for tensor in theirs.state_dict().values()}
        assert {p.untyped_storage().data_ptr() for p in ours.parameters()} <= storages
        for parameter in theirs.parameters():  # a change in one is seen by the other
            parameter.mul_(1.1 if parameter.requires_grad else 1.0)
        assert relative(ours(*inputs), pair.expected(*inputs)) < EXACT


@torch.no_grad()
def test_folder_round_trips(pair: Pair, tmp_path) -> None:
    inputs = example(pair.ours, "left")
    pair.theirs.save_pretrained(tmp_path / "theirs")
    loaded = load_model(tmp_path / "theirs")
    assert torch.equal(loaded(*inputs), pair.ours(*inputs))
    assert not any(p.requires_grad for p in loaded.parameters())
    ours = load_model(save_model(loaded, tmp_path / "ours"))
    assert relative(ours(*inputs), loaded(*inputs)) < 1e-6  # a fused matrix is kept as three
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
    expect("holds 'extra.weight'", weights=weights | {"extra.weight": torch.zeros(1)})
    expect("unknown model family 'gpt22'", config | {"model_type": "gpt22"})
    if "rope_parameters" in config and "rope_type" in config["rope_parameters"]:
        expect("rotary key 'mystery'", config | {"rope_parameters": config["rope_parameters"] | {"mystery": 7}})
        expect("rotary scaling 'spiral', which is not supported", config | {"rope_parameters": {"rope_type": "spiral"}})


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_is_needed_and_has_its_shape(family: tuple[str, int], tmp_path) -> None:
    theirs, architecture = hugging_face(*family), architectures()[family[0]]
    theirs.save_pretrained(tmp_path)
    foreign, weights = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")

    def read(weights: dict[str, torch.Tensor]) -> Transformer | EncoderDecoder:
        config = architecture.read_config(foreign, weights)
        return assemble(config, architecture.read_weights(config, weights))

    read(weights)
    for name in weights:
        if name not in OPTIONAL:
            with pytest.raises(ValueError, match=f"lacks the tensor '{architecture.spelling(name)}'"):
                read({key: tensor for key, tensor in weights.items() if key != name})
        with pytest.raises(ValueError, match=r"must have shape \(.*, got \("):
            read(weights | {name: torch.zeros(2, 2, 2)})


def test_families_are_found_by_listing() -> None:
    assert {"gpt2", "llama", "bert", "t5"} <= set(architectures())
    for name, family in architectures().items():
        assert family.model_type == name and family.random_configs


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_dtypes(pair: Pair, dtype: torch.dtype) -> None:
    other = wrap(copy.deepcopy(pair.theirs).to(dtype))
    assert other(*example(other)).dtype == dtype
    assert dtype_difference(pair, other) < {torch.float64: 1e-5, torch.bfloat16: LOWER, torch.float16: 0.02}[dtype]
