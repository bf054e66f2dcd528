"""GlassLM (English): a 0.85 M-parameter Llama-shaped model trained on public-domain novels. Small, trained, fast: for tests."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from torch import Tensor

from model.checkpoint import assemble, read_json
from model.config import Rotary, TransformerConfig
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.zoo._contract import ZooModel

PARTS = {"norm1.gamma": "ln1.gain", "norm2.gamma": "ln2.gain", "attn.W_Q": "attn.W_Q", "attn.W_K": "attn.W_K", "attn.W_V": "attn.W_V",
         "attn.W_O": "attn.W_O", "ffn.W1": "mlp.W_gate", "ffn.W3": "mlp.W_in", "ffn.W2": "mlp.W_out"}
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")


def read(path: Path, device: str | torch.device, dtype: torch.dtype) -> Transformer:
    """The model in an .npz file of the package, with the tokenizer beside it."""
    try:
        with np.load(path) as file:
            arrays = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as .npz: {error}") from None
    config = _config(json.loads(str(arrays.pop("__config__"))), d_mlp=arrays["blocks.0.ffn.W1"].shape[1])
    weights = {"embedding.weight": arrays["E"], "ln_final.gain": arrays["norm_f.gamma"]}
    for i in range(config.n_layers):
        for theirs, ours in PARTS.items():
            array = arrays[f"blocks.{i}.{theirs}"]
            weights[f"blocks.{i}.{ours}" + (".weight" if array.ndim == 2 else "")] = array.T if array.ndim == 2 else array
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in weights.items()}
    for i in range(config.n_layers):
        for name, n_heads in (("W_Q", config.n_heads), ("W_K", config.n_kv_heads)):
            key = f"blocks.{i}.attn.{name}.weight"
            tensors[key] = _halves(tensors[key], n_heads)
    model = assemble(config, {name: tensor.to(device, dtype) for name, tensor in tensors.items()})
    model.tokenizer = _tokenizer(read_json(path.with_suffix("").with_suffix(".tokenizer.json")))
    return model


def _config(values: dict[str, Any], d_mlp: int) -> TransformerConfig:
    return TransformerConfig(
        family="llama", n_layers=values["n_layers"], d_model=values["d_model"], n_heads=values["n_heads"],
        n_kv_heads=values["n_kv_heads"], d_head=values["d_model"] // values["n_heads"], d_mlp=d_mlp,
        d_vocab=values["vocab_size"], n_ctx=values["max_len"], positions="rotary", rotary=Rotary(base=values["rope_base"]),
        norm="rms", norm_eps=values["eps"], activation="silu", gated=True, q_bias=False, k_bias=False, v_bias=False, attn_out_bias=False,
        mlp_bias=False,
    )


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """This model rotates adjacent pairs (2i, 2i+1); put them where the half-split rotation expects them, (i, i + d_head/2)."""
    return weight.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).flatten(0, 2).contiguous()


def _tokenizer(values: dict[str, Any]) -> Tokenizer:
    merges = [tuple(pair) for pair in values["merges"]]
    vocab = {token: i for i, token in enumerate([*SPECIALS, *values["alphabet"], *(a + b for a, b in merges)])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(" ", "▁")])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|▁*[^▁\n]+|▁+"), "isolated")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return Tokenizer(backend, **{f"{role}_id": vocab[f"<{role}>"] for role in ("bos", "eos", "pad")})


MODEL = ZooModel(
    name="glasslm", title="GlassLM English (4 layers × 4 heads, 0.85 M parameters)", package="glassllm==0.1.0", file="weights/en.npz",
    licence="MIT", read=read, prompts="pronouns_glasslm.jsonl",
)
