"""Llama (Touvron et al. 2023): rotary positions, RMS norm before each sub-layer, gated SiLU, grouped keys and values."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, unused, weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    keys.ignore("rope_interleaved", "is_llama_config")
    rotary, biased = read_rotary(keys), keys.take("attention_bias", False)
    return TransformerConfig(**common(keys) | attention_biases(biased) | dict(
        rotary=rotary, activation=keys.activation("hidden_act", "silu"), mlp_bias=keys.take("mlp_bias", False),
    ))


ARCHITECTURE = Architecture(
    model_type="llama", transformers_class="LlamaForCausalLM", headless_class="LlamaModel", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101, max_position_embeddings=40, tie_word_embeddings=True),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
             vocab_size=67, max_position_embeddings=33, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    ),
)
