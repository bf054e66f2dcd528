"""Llama (Touvron et al. 2023): rotary positions, RMS norm before each sub-layer, gated SiLU, grouped keys and values."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.config import TransformerConfig


def config(keys: Keys) -> TransformerConfig:
    n_heads, d_model = keys.take("num_attention_heads"), keys.take("hidden_size")
    biased, mlp_biased = keys.take("attention_bias", False), keys.take("mlp_bias", False)
    keys.expect("hidden_act", "silu")
    keys.ignore("pretraining_tp", "attention_dropout", "rope_interleaved", "is_llama_config")
    return TransformerConfig(
        family="llama", n_layers=keys.take("num_hidden_layers"), d_model=d_model, n_heads=n_heads,
        n_kv_heads=keys.take("num_key_value_heads", None) or n_heads, d_head=keys.take("head_dim", None) or d_model // n_heads,
        d_mlp=keys.take("intermediate_size"), d_vocab=keys.take("vocab_size"), n_ctx=keys.take("max_position_embeddings"),
        positions="rotary", rotary_base=rotary_base(keys), norm="rms", norm_eps=keys.take("rms_norm_eps", 1e-6),
        activation="silu", gated=True, qkv_bias=biased, attn_out_bias=biased, mlp_bias=mlp_biased,
        tied_embeddings=keys.take("tie_word_embeddings", False),
    )


def rotary_base(keys: Keys) -> float:
    """The base, wherever this version of the config keeps it. Raises ValueError for a scaled rotation."""
    scaling = keys.take("rope_parameters", None) or {}
    scaling = {**(keys.take("rope_scaling", None) or {}), **scaling}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ("default", None):
        raise ValueError(f"rotary scaling {kind!r} is not supported, only 'default'")
    return float(keys.take("rope_theta", None) or scaling.get("rope_theta", 10000.0))


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("model.", "", probe="embed_tokens.weight")
    yield "W_E.weight", foreign.take(f"{root}embed_tokens.weight")
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}", f"{root}layers.{i}"
        for name, biased in (("q", config.qkv_bias), ("k", config.qkv_bias), ("v", config.qkv_bias), ("o", config.attn_out_bias)):
            yield f"{ours}.attn.W_{name.upper()}.weight", foreign.take(f"{theirs}.self_attn.{name}_proj.weight")
            if biased:
                yield f"{ours}.attn.W_{name.upper()}.bias", foreign.take(f"{theirs}.self_attn.{name}_proj.bias")
        for our_name, their_name in (("W_gate", "gate_proj"), ("W_in", "up_proj"), ("W_out", "down_proj")):
            yield f"{ours}.mlp.{our_name}.weight", foreign.take(f"{theirs}.mlp.{their_name}.weight")
            if config.mlp_bias:
                yield f"{ours}.mlp.{our_name}.bias", foreign.take(f"{theirs}.mlp.{their_name}.bias")
        yield f"{ours}.ln1.gain", foreign.take(f"{theirs}.input_layernorm.weight")
        yield f"{ours}.ln2.gain", foreign.take(f"{theirs}.post_attention_layernorm.weight")
    yield "ln_final.gain", foreign.take(f"{root}norm.weight")
    if not config.tied_embeddings:
        yield "W_U.weight", foreign.take("lm_head.weight")


def unused(name: str) -> bool:
    """Rotation tables, which old checkpoints store, and the second name of a tied embedding."""
    return name.endswith("rotary_emb.inv_freq") or name == "lm_head.weight"


ARCHITECTURE = Architecture(
    model_type="llama", transformers_class="LlamaForCausalLM", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(hidden_size=36, intermediate_size=53, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2, head_dim=10,
             vocab_size=101, max_position_embeddings=40, tie_word_embeddings=True),
        dict(hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1, head_dim=8,
             vocab_size=67, max_position_embeddings=33, tie_word_embeddings=False, attention_bias=True, mlp_bias=True),
    ),
)
