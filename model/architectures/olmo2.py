"""OLMo 2 (OLMo Team 2024): norms on what each sub-layer adds instead of on what it reads, and on all queries and keys at once."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._llama import attention_biases, common, unused, weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    rotary, biased = read_rotary(keys), keys.take("attention_bias", False)
    return TransformerConfig(**common(keys) | attention_biases(biased) | dict(
        rotary=rotary, activation=keys.activation("hidden_act", "silu"), norm_place="output", qk_norm="all",
    ))


ARCHITECTURE = Architecture(
    model_type="olmo2", transformers_class="Olmo2ForCausalLM", headless_class="Olmo2Model", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, vocab_size=101,
             max_position_embeddings=40),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, vocab_size=67,
             max_position_embeddings=33, attention_bias=True, tie_word_embeddings=True),
    ),
)
