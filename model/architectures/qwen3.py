"""Qwen3 (Yang et al. 2025): Llama with an RMS norm on each head's query and key."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, unused, weights
from model.architectures._rotary import read_rotary
from model.architectures.qwen2 import spans
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    rotary, span, biased = read_rotary(keys), spans(keys), keys.take("attention_bias", False)
    return TransformerConfig(**common(keys) | attention_biases(biased) | dict(
        rotary=rotary, span=span, activation=keys.activation("hidden_act", "silu"), qk_norm="head",
    ))


ARCHITECTURE = Architecture(
    model_type="qwen3", transformers_class="Qwen3ForCausalLM", headless_class="Qwen3Model", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101, max_position_embeddings=40, attention_bias=True),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
             vocab_size=67,
             max_position_embeddings=33, use_sliding_window=True, sliding_window=6, max_window_layers=1, tie_word_embeddings=True),
    ),
)
