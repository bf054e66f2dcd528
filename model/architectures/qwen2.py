"""Qwen2 (Yang et al. 2024): Llama with biases on q, k and v, and a sliding window in the upper layers if asked for."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, sliding_spans, unused, weights
from model.architectures._rotary import read_rotary
from model.config import Span, TransformerConfig


def spans(keys: Keys) -> Span | tuple[Span, ...]:
    """The window, from `max_window_layers` on, where `use_sliding_window` says so."""
    window, first = keys.take("sliding_window", None), keys.take("max_window_layers", 28)
    window = window if keys.take("use_sliding_window", False) else None
    return sliding_spans(keys, keys.peek("num_hidden_layers"), window, slides=lambda i: i >= first)


def config(keys: Keys) -> TransformerConfig:
    rotary, span = read_rotary(keys), spans(keys)
    return TransformerConfig(**common(keys) | attention_biases(True) | dict(
        rotary=rotary, span=span, activation=keys.activation("hidden_act", "silu"), attn_out_bias=False,
    ))


ARCHITECTURE = Architecture(
    model_type="qwen2", transformers_class="Qwen2ForCausalLM", headless_class="Qwen2Model", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
             vocab_size=101, max_position_embeddings=40, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
             vocab_size=67, max_position_embeddings=33, tie_word_embeddings=True),
    ),
)
