"""Is a merged adapter what the peft library's own merge is, to the last matrix, and refused where it would not be?"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model import load_model, save_model
from tests.conftest import Pair, example, hugging_face, read_mask, relative

EXACT = 1e-5
TARGETS = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bert": ["query", "value", "dense"],
    "t5": ["q", "v", "wi", "wo"],
    "gpt_neox": ["query_key_value", "dense"],
    "phi3": ["qkv_proj", "gate_up_proj"],
}
"""Families with matrices of every kind: separate, [in, out], below a head's prefix, in two stacks, fused by head, fused in rows."""


def adapted(family: str, folder: Path, i: int = 0, **settings: Any) -> nn.Module:
    """A base model and a random adapter of it, saved as the libraries save them; the peft model."""
    base = hugging_face(family, i)
    base.save_pretrained(folder / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(base, peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": TARGETS[family]} | settings))
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:  # B is 0 at first
                    parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(folder / "adapter")
    return model.eval()


@torch.no_grad()
def assert_merged(family: str, folder: Path, **settings: Any) -> None:
    """Ours with the adapter gives what peft's merged model gives, which is not what the base model gives."""
    model = adapted(family, folder, **settings)
    ours = load_model(folder / "base", adapter=folder / "adapter")
    inputs = example(ours, "left" if family != "t5" else "right")
    mask, pair = read_mask(inputs).unsqueeze(-1), Pair(model.merge_and_unload(), ours)
    assert relative(pair.got(*inputs), pair.expected(*inputs)) < EXACT
    assert relative(load_model(folder / "base")(*inputs) * mask, pair.expected(*inputs)) > 1e-2


@pytest.mark.parametrize("family", TARGETS)
def test_every_layout_of_matrices(family: str, tmp_path: Path) -> None:
    assert_merged(family, tmp_path)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"use_rslora": True}),
        ("llama", {"rank_pattern": {"q_proj": 5, r"layers\.1\..*\.v_proj": 2}, "alpha_pattern": {"^model.layers.0.mlp.up_proj": 11}}),
        ("llama", {"target_modules": "all-linear", "modules_to_save": ["lm_head"], "i": 1}),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"], "i": 1}),
        ("llama", {"layers_to_transform": [1], "modules_to_save": ["norm"]}),
        ("gpt2", {"bias": "all"}),
        ("gpt2", {"bias": "lora_only"}),
        ("gpt2", {"fan_in_fan_out": True, "target_modules": ["c_attn", "wte"]}),
        ("bert", {"bias": "all", "modules_to_save": ["LayerNorm"]}),
        ("bert", {"bias": "lora_only", "target_modules": ["query", "key"]}),
        ("t5", {"target_modules": ["k", "o"], "modules_to_save": ["layer_norm"]}),
    ],
)
def test_every_setting(family: str, settings: dict[str, Any], tmp_path: Path) -> None:
    assert_merged(family, tmp_path, **settings)


def test_a_tied_unembedding_cannot_be_replaced_alone(tmp_path: Path) -> None:
    adapted("llama", tmp_path, modules_to_save=["lm_head"])
    with pytest.raises(ValueError, match="lm_head.weight must equal model.embed_tokens.weight, to which the config ties it"):
        load_model(tmp_path / "base", adapter=tmp_path / "adapter")


def test_the_source_names_the_adapter(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    plain, merged = load_model(tmp_path / "base"), load_model(tmp_path / "base", adapter=str(tmp_path / "adapter"))
    assert merged.source.steps == ("merged the LoRA adapter adapter (r=3, lora_alpha=5, 21 matrices)",) and plain.source.steps == ()
    assert [path.name for path in merged.source.files] == ["model.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    before = merged.source.sha256(merged)
    assert before != plain.source.sha256(plain) and not [p for p in merged.parameters() if p.requires_grad]
    change(tmp_path, config={"lora_alpha": 6})
    assert merged.source.sha256(merged) != before
    again = load_model(save_model(merged, tmp_path / "kept"))
    assert again.source.steps == merged.source.steps


@torch.no_grad()
def test_a_checkpoint_saved_without_the_heads_prefix(tmp_path: Path) -> None:
    """GPT-2's own file has h.0.…, an adapter of the model with a head transformer.h.0.…"""
    adapted("gpt2", tmp_path)
    expected = load_model(tmp_path / "base", adapter=tmp_path / "adapter")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    save_file({name.removeprefix("transformer."): tensor for name, tensor in weights.items()}, tmp_path / "base" / "model.safetensors")
    inputs = example(expected)
    assert torch.equal(load_model(tmp_path / "base", adapter=tmp_path / "adapter")(*inputs), expected(*inputs))


@torch.no_grad()
def test_half_precision_is_rounded_once(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    exact, half = (load_model(tmp_path / "base", adapter=tmp_path / "adapter", dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    base = load_model(tmp_path / "base", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and not torch.equal(half.W_Q[0], base.W_Q[0])
    assert relative(half.W_Q[0].float(), exact.W_Q[0]) < 2**-7


@torch.no_grad()
def test_gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors of a GGUF file have the names and the row order of the checkpoint that it was made from."""
    from gguf import GGUFWriter

    from model.gguf import NAMES

    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path / "cache"))
    model = adapted("llama", tmp_path)
    config, weights = model.config, load_file(tmp_path / "base" / "model.safetensors")
    d_head = config.head_dim
    writer = GGUFWriter(tmp_path / "base.gguf", "llama")
    for add, value in (
        (writer.add_head_count, config.num_attention_heads),
        (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_embedding_length, config.hidden_size),
        (writer.add_key_length, d_head),
        (writer.add_rope_dimension_count, d_head),
        (writer.add_block_count, config.num_hidden_layers),
        (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_context_length, config.max_position_embeddings),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps),
        (writer.add_rope_freq_base, 10000.0),
        (writer.add_token_list, [str(i) for i in range(config.vocab_size)]),
    ):
        add(value)
    theirs = {ours: theirs for theirs, ours in NAMES.items()}
    for name, tensor in weights.items():
        part = name.removeprefix("model.layers.").partition(".")
        short = theirs.get(name) or f"blk.{part[0]}.{theirs[part[2].removesuffix('.weight')]}.weight"
        if "attn_q." in short or "attn_k." in short:
            tensor = tensor.unflatten(0, (-1, 2, d_head // 2)).transpose(1, 2).flatten(0, 2)  # rotation pairs side by side
        writer.add_tensor(short, np.ascontiguousarray(tensor.numpy()))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    folder, file = (load_model(tmp_path / base, adapter=tmp_path / "adapter") for base in ("base", "base.gguf"))
    inputs = example(folder)
    assert relative(file(*inputs), folder(*inputs)) < EXACT and file.source.steps == folder.source.steps
    assert relative(load_model(tmp_path / "base.gguf")(*inputs), folder(*inputs)) > 1e-2


def change(folder: Path, config: dict[str, Any] | None = None, tensors: dict[str, torch.Tensor | None] | None = None) -> None:
    """Write the adapter with other settings, or with tensors added and (None) taken away."""
    path, weights = folder / "adapter" / "adapter_config.json", folder / "adapter" / "adapter_model.safetensors"
    path.write_text(json.dumps(json.loads(path.read_text()) | (config or {})))
    save_file({name: tensor for name, tensor in (load_file(weights) | (tensors or {})).items() if tensor is not None}, weights)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"use_dora": True}, {}, "adapter setting use_dora=True is not supported; ignoring it could compute something else"),
        ({"lora_bias": True}, {}, "adapter setting lora_bias=True is not supported"),
        ({"layer_replication": [[0, 2]]}, {}, "adapter setting layer_replication=.* is not supported"),
        ({"novelty": {"x": 1}}, {}, "adapter setting novelty=.* is not supported"),
        (
            {"init_lora_weights": "pissa"},
            {},
            "init_lora_weights='pissa' is not supported: it changes the weights that the adapter is added to",
        ),
        ({"peft_type": "IA3"}, {}, r"only LoRA adapters are merged \(peft_type='LORA'\), got peft_type='IA3'"),
        ({"r": 4}, {}, "config gives model.layers.0.mlp.down_proj rank 4, its tensors have 3"),
        ({"rank_pattern": {"(": 2}}, {}, "rank_pattern holds an expression that cannot be read: "),
        ({}, {A: None}, "holds only one of the two factors of model.layers.0.self_attn.q_proj"),
        ({}, {A: torch.zeros(3, 7)}, r"change of model.layers.0.self_attn.q_proj.weight has shape \(60, 7\), the weight \(60, 36\)"),
        ({}, {"odd": torch.zeros(1)}, "holds 'odd', whose name must begin with base_model.model."),
        ({}, {"base_model.model.x.lora_magnitude_vector": torch.zeros(1)}, "lora_magnitude_vector', which is neither A nor B of a matrix"),
        ({}, {"base_model.model.score.weight": torch.zeros(2, 36)}, r"has a head for another task \(score.weight\)"),
        (
            {},
            {f"base_model.model.model.layers.9.mlp.up_proj.lora_{k}.weight": torch.zeros(3, 3) for k in "AB"},
            "changes 'model.layers.9.mlp.up_proj.weight', which the checkpoint has no tensor for",
        ),
    ],
)
def test_what_cannot_be_merged_is_refused(config: dict, tensors: dict, message: str, tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    change(tmp_path, config, tensors)
    with pytest.raises(ValueError, match=message):
        load_model(tmp_path / "base", adapter=tmp_path / "adapter")


def test_mistakes_in_the_folder(tmp_path: Path) -> None:
    adapted("llama", tmp_path)
    for name, message in (("nowhere", "adapter must be a folder with adapter_config.json"), ("base", "adapter_config.json is missing")):
        with pytest.raises(ValueError, match=message):
            load_model(tmp_path / "base", adapter=tmp_path / name)
    with pytest.raises(ValueError, match="and glasslm is neither"):
        load_model("glasslm", adapter=tmp_path / "adapter")
    ours = save_model(load_model(tmp_path / "base"), tmp_path / "ours")
    with pytest.raises(ValueError, match="fits a Hugging Face checkpoint, and this is one that save_model wrote"):
        load_model(ours, adapter=tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no adapter_model.safetensors and no adapter_model.bin"):
        load_model(tmp_path / "base", adapter=tmp_path / "adapter")
