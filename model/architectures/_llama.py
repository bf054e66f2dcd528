"""What do the descendants of Llama have in common? RMS norms, gated feed-forward networks, and the names of everything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from model.architectures._keys import Keys
from model.architectures._weights import Pairs, Weights, renamed, unembedding
from model.config import Span, TransformerConfig

Projections = Callable[[TransformerConfig, Weights, str, str], Pairs]
"""The query, key and value matrices and those of the feed-forward network, behind our prefix and theirs."""

QKV = {"attn.W_Q": "self_attn.q_proj", "attn.W_K": "self_attn.k_proj", "attn.W_V": "self_attn.v_proj"}
MLP = {"mlp.W_gate": "mlp.gate_proj", "mlp.W_in": "mlp.up_proj"}
OUT = {"attn.W_O": "self_attn.o_proj", "mlp.W_out": "mlp.down_proj"}
QK_NORMS = {"attn.ln_q": "self_attn.q_norm", "attn.ln_k": "self_attn.k_norm"}
NORMS = {
    "pre": {"ln1": "input_layernorm", "ln2": "post_attention_layernorm"},
    "sandwich": {
        "ln1": "input_layernorm", "ln1_post": "post_attention_layernorm",
        "ln2": "pre_feedforward_layernorm", "ln2_post": "post_feedforward_layernorm",
    },
    "output": {"ln1_post": "post_attention_layernorm", "ln2_post": "post_feedforward_layernorm"},
}
"""Where the norms stand → our norms and theirs."""


def common(keys: Keys, *, tied: bool = False) -> dict[str, Any]:
    """The choices that all of them write down alike, as arguments of a config; `tied` is the family's default.

    The caller adds its own, and replaces what it does otherwise.
    """
    n_heads, d_model = keys.take("num_attention_heads"), keys.take("hidden_size")
    keys.ignore("attention_dropout", "pretraining_tp", "cache_implementation")
    return dict(
        family=keys.family, n_layers=keys.take("num_hidden_layers"), d_model=d_model, n_heads=n_heads,
        n_kv_heads=keys.take("num_key_value_heads", None) or n_heads, d_head=keys.take("head_dim", None) or keys.split(d_model, n_heads),
        d_mlp=keys.take("intermediate_size"), d_vocab=keys.take("vocab_size"), n_ctx=keys.take("max_position_embeddings"),
        head=keys.head("lm"),
        positions="rotary", norm="rms", norm_eps=keys.take("rms_norm_eps", 1e-6), gated=True, mlp_bias=False,
        tied_embeddings=keys.take("tie_word_embeddings", tied),
    )


def attention_biases(biased: bool) -> dict[str, bool]:
    """All four matrices of attention with a bias, or none."""
    return dict.fromkeys(("q_bias", "k_bias", "v_bias", "attn_out_bias"), biased)


def sliding_spans(keys: Keys, n_layers: int, window: int | None, slides: Callable[[int], bool]) -> Span | tuple[Span, ...]:
    """How far each layer reaches: its entry in `layer_types` where the config has them, else what `slides` says of its number."""
    types = keys.take("layer_types", None) or ["sliding_attention" if window and slides(i) else "full_attention" for i in range(n_layers)]
    if wrong := [kind for kind in types if kind not in ("sliding_attention", "full_attention")]:
        raise ValueError(f"{keys.family} config has a layer type {wrong[0]!r}, known are sliding_attention and full_attention")
    spans = tuple(Span(kind="window", size=window) if kind == "sliding_attention" else Span() for kind in types)
    return spans[0] if len(set(spans)) == 1 and len(spans) == n_layers else spans


def weights(config: TransformerConfig, foreign: Weights, projections: Projections | None = None) -> Pairs:
    """Every parameter of such a model."""
    root = foreign.prefix("model.", "", probe="embed_tokens.weight")
    yield "embedding.weight", foreign.take(f"{root}embed_tokens.weight")
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"{root}layers.{i}."
        yield from (projections or separate)(config, foreign, ours, theirs)
        yield from renamed(config, foreign, ours, theirs, OUT | NORMS[config.norm_place])
        if config.qk_norm != "none":
            yield from renamed(config, foreign, ours, theirs, QK_NORMS)
    yield from renamed(config, foreign, "", root, {"ln_final": "norm"})
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}embed_tokens.weight")


def separate(config: TransformerConfig, foreign: Weights, ours: str, theirs: str) -> Pairs:
    """Each matrix on its own."""
    return renamed(config, foreign, ours, theirs, QKV | MLP)


def unused(name: str) -> bool:
    """Rotation tables, which old checkpoints store."""
    return name.endswith("rotary_emb.inv_freq")
