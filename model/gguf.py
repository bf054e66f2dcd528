"""How does a llama.cpp file become a model? Dequantise its tensors, undo its row order, rebuild its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from torch import Tensor

from model.adapters import Adapter, merge_adapter
from model.architectures import architecture_for
from model.checkpoint import assemble
from model.tokenizer import Tokenizer
from model.transformer import Transformer

if TYPE_CHECKING:
    from gguf import GGUFReader

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}
"""Names of a llama-family GGUF → names of the Hugging Face checkpoint that it was made from."""

SPECIAL, USER_DEFINED = 3, 4
"""Token types of the GGUF specification: control tokens and tokens that the user added."""


def read_gguf(path: Path, device: str | torch.device, dtype: torch.dtype, adapter: Adapter | None = None) -> Transformer:
    """The model in a .gguf file, dequantised, with an adapter merged where one is given.

    Raises ValueError for a file that is cut off or no GGUF, an architecture other than llama, and a quantisation that
    the `gguf` package cannot undo.
    """
    reader = _open(path)
    values = {name: field for name, field in reader.fields.items()}
    family = _value(values, "general.architecture")
    if family != "llama":
        raise ValueError(f"{path.name} holds a {family!r} model; from GGUF prosect loads 'llama' models")
    foreign = _config(values)
    architecture = architecture_for(family)
    tensors = {_their_name(t.name): _tensor(t, foreign) for t in reader.tensors if t.name != "rope_freqs.weight"}
    if adapter is not None:
        tensors = merge_adapter(tensors, adapter, architecture)
    foreign["tie_word_embeddings"] = "lm_head.weight" not in tensors
    config = architecture.read_config(foreign)
    weights = architecture.read_weights(config, tensors)
    model = assemble(config, {name: tensor.to(device, dtype) for name, tensor in weights.items()})
    model.tokenizer = _tokenizer(values)
    return model


def _open(path: Path) -> GGUFReader:
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except Exception as error:  # the reader fails in many ways on a file that is cut off
        raise ValueError(f"{path} is not a whole GGUF file: {error}") from None


def _value(values: Mapping[str, Any], name: str, default: Any = ...) -> Any:
    if name in values:
        return values[name].contents()
    if default is ...:
        raise ValueError(f"the GGUF metadata lack {name!r}")
    return default


def _config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as the Hugging Face config that they were made from."""
    n_heads, d_model = _value(values, "llama.attention.head_count"), _value(values, "llama.embedding_length")
    if (scaling := _value(values, "llama.rope.scaling.type", "none")) != "none":
        raise ValueError(f"rotary scaling {scaling!r} in a GGUF file is not supported")
    d_head = _value(values, "llama.attention.key_length", d_model // n_heads)
    rotated = _value(values, "llama.rope.dimension_count", d_head)
    if rotated != d_head:
        raise ValueError(f"a rotation of {rotated} of {d_head} head dimensions is not supported for llama")
    return {
        "model_type": "llama", "hidden_size": d_model, "num_attention_heads": n_heads, "head_dim": d_head,
        "num_key_value_heads": _value(values, "llama.attention.head_count_kv", n_heads),
        "num_hidden_layers": _value(values, "llama.block_count"), "intermediate_size": _value(values, "llama.feed_forward_length"),
        "vocab_size": len(values["tokenizer.ggml.tokens"].data), "max_position_embeddings": _value(values, "llama.context_length"),
        "rms_norm_eps": _value(values, "llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": _value(values, "llama.rope.freq_base", 10000.0),
    }


def _their_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    head, _, kind = name.rpartition(".")
    block, number, part = (head.split(".") + ["", "", ""])[:3]
    if block != "blk" or part not in NAMES:
        raise ValueError(f"the GGUF file holds {name!r}, which a llama model has no use for")
    return f"model.layers.{number}.{NAMES[part]}.{kind}"


def _tensor(tensor: Any, config: Mapping[str, Any]) -> Tensor:
    from gguf.quants import dequantize

    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError:
        raise ValueError(f"{tensor.name} is quantised as {tensor.tensor_type.name}, which cannot be undone here") from None
    weight = torch.from_numpy(values.reshape(tuple(reversed(tensor.shape.tolist()))).copy())
    for part, heads in ((".attn_q.", "num_attention_heads"), (".attn_k.", "num_key_value_heads")):
        if part in tensor.name:
            weight = _halves(weight, config[heads])
    return weight


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """llama.cpp keeps the rows of q and k as adjacent rotation pairs; back to the two halves that the checkpoint had."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2)


def _tokenizer(values: Mapping[str, Any]) -> Tokenizer | None:
    """The byte-level BPE in the metadata; None for other kinds, which need files of their own."""
    kind, splitting = _value(values, "tokenizer.ggml.model", ""), _value(values, "tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or splitting not in SPLITTING:
        return None
    tokens = values["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ", 1)) for merge in values["tokenizer.ggml.merges"].contents()]
    backend = tokenizers.Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = SPLITTING[splitting]()
    backend.decoder = decoders.ByteLevel()
    types = _value(values, "tokenizer.ggml.token_type", [])
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(tokens, types) if kind == SPECIAL])
    backend.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == USER_DEFINED])
    roles = {role: _value(values, f"tokenizer.ggml.{name}_token_id", None) for role, name in (("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding"))}
    template = _value(values, "tokenizer.chat_template", None)
    return Tokenizer(backend, **roles, chat_template=template)


def _split(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Split by a pattern, then spell each piece in bytes."""
    return pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SPLITTING = {
    "gpt-2": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "default": lambda: pre_tokenizers.ByteLevel(add_prefix_space=False),
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-bpe": lambda: _split(LLAMA3),
    "qwen2": lambda: _split(QWEN2),
}
"""How the text is cut before merging, by the name that the GGUF metadata give it."""
