"""Gemma 2 (Gemma Team 2024): soft-capped scores and logits, norms around each sub-layer, a sliding window in every other layer."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._gemma import gemma
from model.architectures._llama import sliding_spans, unused, weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    rotary, window = read_rotary(keys), keys.take("sliding_window", 4096)
    span = sliding_spans(keys, keys.peek("num_hidden_layers"), window, slides=lambda i: i % 2 == 0)
    return TransformerConfig(**gemma(keys) | dict(rotary=rotary, span=span))


ARCHITECTURE = Architecture(
    model_type="gemma2", transformers_class="Gemma2ForCausalLM", headless_class="Gemma2Model", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101,
             max_position_embeddings=40, sliding_window=5, query_pre_attn_scalar=17, attn_logit_softcapping=2.0,
             final_logit_softcapping=9.0),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
             vocab_size=67,
             max_position_embeddings=33, query_pre_attn_scalar=5, attn_logit_softcapping=None, final_logit_softcapping=None,
             attention_bias=True, tie_word_embeddings=False),
    ),
)
