"""Annalog: a small trained encoder-decoder. It reads a molecule as SMILES and writes similar ones, the most likely being itself."""

from __future__ import annotations

import pickle
import pickletools
from pathlib import Path

import tokenizers
import torch
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors
from torch import Tensor

from model.checkpoint import assemble
from model.config import EncoderDecoderConfig, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.tokenizer import Tokenizer
from model.zoo._contract import ZooModel

VOCABULARY = "stereo_experiment_vocab_ttf.pkl"
SPECIALS = ("<unk>", "<pad>", "<sos>", "<eos>")
ATOM = r"\[[^\]]*\]|%\d{2}|Br|Cl|[\s\S]"
"""A bracketed atom, a ring number of two digits, an element of two letters, or one character."""

BLOCK = {
    "self_attention.fc_q": "attn.W_Q", "self_attention.fc_k": "attn.W_K", "self_attention.fc_v": "attn.W_V",
    "self_attention.fc_o": "attn.W_O",
    "encoder_attention.fc_q": "cross_attn.W_Q", "encoder_attention.fc_k": "cross_attn.W_K", "encoder_attention.fc_v": "cross_attn.W_V",
    "encoder_attention.fc_o": "cross_attn.W_O", "self_attn_layer_norm": "ln1", "enc_attn_layer_norm": "ln_cross", "ff_layer_norm": "ln2",
    "positionwise_feedforward.fc_1": "mlp.W_in", "positionwise_feedforward.fc_2": "mlp.W_out",
}


def read(path: Path, device: str | torch.device, dtype: torch.dtype) -> EncoderDecoder:
    """The model in the package's checkpoint, with the vocabulary beside it. Neither file is allowed to run code."""
    try:
        theirs = torch.load(path, map_location=device, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of tensors: {error}") from None
    weights = {_ours(name): tensor.to(dtype) for name, tensor in theirs.items()}
    model = assemble(_config(weights), weights)
    tokens = read_vocabulary(path.with_name(VOCABULARY))
    if len(tokens) != (n := model.config.encoder.d_vocab):
        raise ValueError(f"the vocabulary must have {n} tokens, one for each row of the embedding, got {len(tokens)}")
    model.tokenizer = tokenizer(tokens, "<sos> $A <eos>")
    model.target_tokenizer = tokenizer(tokens, "$A <eos>")  # the start token comes from decoder_start_id
    return model


def read_vocabulary(path: Path) -> list[str]:
    """The tokens in order: the strings between `itos` and `stoi` in the package's pickle, whose opcodes are listed, never run.

    Raises ValueError if it is missing or holds something else.
    """
    try:
        operations = list(pickletools.genops(path.read_bytes()))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a vocabulary: {error}") from None
    strings = [value for operation, value, _ in operations if "UNICODE" in operation.name]
    if "itos" not in strings or "stoi" not in strings:
        raise ValueError(f"{path} must hold the strings 'itos' and 'stoi' around its tokens, got {strings[:3]}")
    tokens = strings[strings.index("itos") + 1 : strings.index("stoi")]
    if tuple(tokens[:4]) != SPECIALS or len(set(tokens)) != len(tokens):
        raise ValueError(f"{path} must list distinct tokens that begin with {', '.join(SPECIALS)}, got {tokens[:4]}")
    return tokens


def tokenizer(tokens: list[str], template: str) -> Tokenizer:
    """SMILES, one token an atom, bond, bracket or ring number; `template` is that of the `tokenizers` library."""
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIALS])
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(ATOM), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(token, vocab[token]) for token in SPECIALS])
    return Tokenizer(backend, bos_id=vocab["<sos>"], eos_id=vocab["<eos>"], pad_id=vocab["<pad>"], decoder_start_id=vocab["<sos>"])


def _ours(name: str) -> str:
    """Our name of one of their parameters."""
    outside = {"tok_embedding.weight": "embedding.weight", "pos_embedding.weight": "position_embedding.weight"}
    side, _, rest = name.partition(".")
    if rest.startswith("fc_out."):
        return f"unembed.unembedding.{rest.removeprefix('fc_out.')}"
    if rest in outside:
        return f"{side}.{outside[rest]}"
    _, i, part = rest.split(".", 2)
    module, _, kind = part.rpartition(".")
    ours = BLOCK[module]
    return f"{side}.blocks.{i}.{ours}.{'gain' if ours.startswith('ln') and kind == 'weight' else kind}"


def _config(weights: dict[str, Tensor]) -> EncoderDecoderConfig:
    def stack(side: str, **choices: object) -> TransformerConfig:
        (d_vocab, d_model), n_ctx = weights[f"{side}.embedding.weight"].shape, len(weights[f"{side}.position_embedding.weight"])
        n_layers = sum(name.startswith(f"{side}.") and name.endswith(".ln1.gain") for name in weights)
        return TransformerConfig(
            family="annalog", n_layers=n_layers, d_model=d_model, n_heads=8, d_head=d_model // 8,
            d_mlp=len(weights[f"{side}.blocks.0.mlp.W_in.weight"]), d_vocab=d_vocab, n_ctx=n_ctx, norm_place="post", final_norm=False,
            activation="relu", embed_scale=d_model**0.5, tied_embeddings=False, **choices,
        )

    return EncoderDecoderConfig(
        encoder=stack("encoder", causal=False, head="none"), decoder=stack("decoder", unembed_bias=True), shared_embeddings=False,
    )


MODEL = ZooModel(
    name="annalog", title="Annalog (encoder and decoder of 3 layers × 8 heads, 4 M parameters, SMILES)", package="annalog==1.0.6",
    file="ckpt_and_vocab/Lev_extended.pt", licence="MIT", read=read, text="molecules.txt", prompts=None,
)
