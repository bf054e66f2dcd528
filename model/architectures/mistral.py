"""Mistral (Jiang et al. 2023): Llama with a sliding window."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, sliding_spans, unused, weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    rotary, window = read_rotary(keys), keys.take("sliding_window", None)
    span = sliding_spans(keys, keys.peek("num_hidden_layers"), window, slides=lambda i: True)
    return TransformerConfig(**common(keys) | attention_biases(False) | dict(
        rotary=rotary, span=span, activation=keys.activation("hidden_act", "silu"),
    ))


ARCHITECTURE = Architecture(
    model_type="mistral", transformers_class="MistralForCausalLM", headless_class="MistralModel", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101, max_position_embeddings=40, sliding_window=7, tie_word_embeddings=False),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
             vocab_size=67, max_position_embeddings=33, sliding_window=None, tie_word_embeddings=True),
    ),
)
