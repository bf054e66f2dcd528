"""Granite (IBM Research 2024): Llama with multipliers on embeddings, scores, what sub-layers add, and logits."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, unused, weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    rotary, biased = read_rotary(keys), keys.take("attention_bias", False)
    return TransformerConfig(**common(keys) | attention_biases(biased) | dict(
        rotary=rotary, activation=keys.activation("hidden_act", "silu"), mlp_bias=keys.take("mlp_bias", False),
        embed_scale=float(keys.take("embedding_multiplier", 1.0)), score_scale=float(keys.take("attention_multiplier", 1.0)),
        residual_scale=float(keys.take("residual_multiplier", 1.0)), logit_scale=1 / keys.take("logits_scaling", 1.0),
    ))


ARCHITECTURE = Architecture(
    model_type="granite", transformers_class="GraniteForCausalLM", headless_class="GraniteModel", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, vocab_size=101,
             max_position_embeddings=40, embedding_multiplier=3.0, attention_multiplier=0.3, residual_multiplier=0.4, logits_scaling=7.0,
             tie_word_embeddings=True),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, vocab_size=67,
             max_position_embeddings=33, attention_bias=True, mlp_bias=True, attention_multiplier=0.5),
    ),
)
