"""Gemma 3 (Gemma Team 2025), text only: five layers with a window and a local rotation to one that sees all, QK-norms."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys
from model.architectures._gemma import gemma
from model.architectures._llama import sliding_spans, unused, weights
from model.architectures._rotary import rotary_of
from model.config import Rotary, TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    n_layers, window = keys.peek("num_hidden_layers"), keys.take("sliding_window", 4096)
    period = keys.take("_sliding_window_pattern", keys.take("sliding_window_pattern", 6))
    span = sliding_spans(keys, n_layers, window, slides=lambda i: (i + 1) % period != 0)
    local, everywhere = _rotations(keys)
    spans = span if isinstance(span, tuple) else (span,) * n_layers
    rotary = tuple(everywhere if one.kind == "all" else local for one in spans)
    return TransformerConfig(**gemma(keys) | dict(rotary=rotary, span=span, qk_norm="head"))


def _rotations(keys: Keys) -> tuple[Rotary, Rotary]:
    """How layers with a window turn, and those without: one entry for each, or in older files keys of their own."""
    by_kind = keys.take("rope_parameters", None) or {}
    if unknown := sorted(set(by_kind) - {"sliding_attention", "full_attention"}):
        raise ValueError(
            f"{keys.family} config key 'rope_parameters' has an entry {unknown[0]!r}, known are sliding_attention and full_attention"
        )
    local = {"rope_theta": keys.take("rope_local_base_freq", 10_000.0), **(by_kind.get("sliding_attention") or {})}
    scaling = keys.take("rope_scaling", None) or {}
    everywhere = {"rope_theta": keys.take("rope_theta", 1_000_000.0), **(by_kind.get("full_attention") or {}), **scaling}
    n_ctx = keys.peek("max_position_embeddings", 0)
    return rotary_of(local, keys.family, n_ctx=n_ctx), rotary_of(everywhere, keys.family, n_ctx=n_ctx)


ARCHITECTURE = Architecture(
    model_type="gemma3_text", transformers_class="Gemma3ForCausalLM", headless_class="Gemma3TextModel", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101,
             max_position_embeddings=40, sliding_window=5, sliding_window_pattern=2, query_pre_attn_scalar=17, final_logit_softcapping=9.0),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
             vocab_size=67,
             max_position_embeddings=33, sliding_window=9, layer_types=["full_attention", "sliding_attention"], query_pre_attn_scalar=5,
             rope_parameters={"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
                              "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}),
    ),
)
