"""Phi-3 (Abdin et al. 2024): Llama with q, k and v in one matrix, gate and input in another, and rotations that may be partial."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._llama import attention_biases, common, sliding_spans, unused
from model.architectures._llama import weights as llama_weights
from model.architectures._rotary import read_rotary
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    keys.expect("attention_bias", False)
    keys.ignore("resid_pdrop", "embd_pdrop", "original_max_position_embeddings")
    n_heads, d_model, window = keys.peek("num_attention_heads"), keys.peek("hidden_size"), keys.take("sliding_window", None)
    rotary = read_rotary(keys, d_head=keys.split(d_model, n_heads))
    span = sliding_spans(keys, keys.peek("num_hidden_layers"), window, slides=lambda i: True)
    return TransformerConfig(**common(keys) | attention_biases(False) | dict(
        rotary=rotary, span=span, activation=keys.activation("hidden_act", "silu"),
    ))


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    return llama_weights(config, foreign, fused)


def fused(config: TransformerConfig, foreign: Weights, ours: str, theirs: str) -> Pairs:
    """Rows of one matrix, one after another."""
    sizes = [config.n_heads * config.d_head, *[config.n_kv_heads * config.d_head] * 2]
    qkv = foreign.take(f"{theirs}self_attn.qkv_proj.weight", (sum(sizes), config.d_model)).split(sizes)
    gate_in = foreign.take(f"{theirs}mlp.gate_up_proj.weight", (2 * config.d_mlp, config.d_model)).chunk(2)
    for name, part in zip(("attn.W_Q", "attn.W_K", "attn.W_V", "mlp.W_gate", "mlp.W_in"), (*qkv, *gate_in), strict=True):
        yield f"{ours}{name}.weight", part


ARCHITECTURE = Architecture(
    model_type="phi3", transformers_class="Phi3ForCausalLM", headless_class="Phi3Model", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, vocab_size=101,
             max_position_embeddings=40, sliding_window=7, pad_token_id=0),
        dict(hidden_size=40, intermediate_size=41, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, vocab_size=67,
             max_position_embeddings=33, pad_token_id=0, tie_word_embeddings=True,
             rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.6}),
    ),
)
