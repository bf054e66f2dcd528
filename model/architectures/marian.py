"""Marian (Junczys-Dowmunt et al. 2018), the translation models OPUS-MT: the paper's Transformer with a bias on the logits."""

from __future__ import annotations

from model.architectures._bart import common
from model.architectures._bart import weights as both_stacks
from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.config import EncoderDecoderConfig


def config(keys: Keys) -> EncoderDecoderConfig:
    keys.expect("normalize_embedding", False)
    keys.expect("static_position_embeddings", True)
    shared = keys.take("share_encoder_decoder_embeddings", True)
    own, source = keys.take("decoder_vocab_size", None), keys.peek("vocab_size")
    return common(keys, dict(positions="sinusoidal"), d_vocab=source if shared else own or source, shared=shared)


def weights(config: EncoderDecoderConfig, foreign: Weights) -> Pairs:
    return both_stacks(config, foreign, foreign.prefix("model.", "", probe="encoder.layers.0.fc1.weight"))


def unused(name: str) -> bool:
    """Tables of sinusoids, which are computed."""
    return name.endswith("embed_positions.weight")


ARCHITECTURE = Architecture(
    model_type="marian", transformers_class="MarianMTModel", headless_class="MarianModel", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(d_model=35, encoder_layers=2, decoder_layers=3, encoder_attention_heads=5, decoder_attention_heads=5, encoder_ffn_dim=53,
             decoder_ffn_dim=41, vocab_size=101, max_position_embeddings=40, scale_embedding=True, activation_function="swish",
             pad_token_id=100,
             decoder_start_token_id=100),
        dict(d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=3, encoder_ffn_dim=41,
             decoder_ffn_dim=37, vocab_size=67, decoder_vocab_size=53, share_encoder_decoder_embeddings=False, max_position_embeddings=33,
             pad_token_id=52, decoder_start_token_id=52),
    ),
)
