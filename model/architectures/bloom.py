"""BLOOM (Le Scao et al. 2022): ALiBi, a norm after the embedding, q, k and v of each head fused."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import fused_by_head, renamed, unembedding
from model.config import TransformerConfig

NAMES = {
    "ln1": "input_layernorm", "ln2": "post_attention_layernorm", "attn.W_O": "self_attention.dense",
    "mlp.W_in": "mlp.dense_h_to_4h", "mlp.W_out": "mlp.dense_4h_to_h",
}


def _one(keys: Keys, *names: str) -> int:
    """The first of several spellings of one key; the others may repeat it."""
    values = [value for name in names if (value := keys.take(name, None)) is not None]
    return values[0] if values else keys.take(names[0])


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads = _one(keys, "hidden_size", "n_embed"), _one(keys, "n_head", "num_attention_heads")
    keys.expect("apply_residual_connection_post_layernorm", False)
    keys.expect("skip_bias_add_qkv", False)
    keys.expect("n_inner", None, 4 * d_model)
    keys.ignore("hidden_dropout", "attention_dropout", "pretraining_tp", "slow_but_exact", "offset_alibi", "skip_bias_add")
    keys.ignore("attention_softmax_in_fp32", "masked_softmax_fusion", "bias_dropout_fusion")
    return TransformerConfig(
        family="bloom", n_layers=_one(keys, "n_layer", "num_hidden_layers"), d_model=d_model, n_heads=n_heads,
        d_head=keys.split(d_model, n_heads),
        d_mlp=4 * d_model, d_vocab=keys.take("vocab_size"), n_ctx=keys.take("seq_length", 2048), head=keys.head("lm"),
        positions="alibi", norm="layer", norm_eps=keys.take("layer_norm_epsilon", 1e-5), embed_norm=True, activation="gelu_tanh",
        tied_embeddings=keys.take("tie_word_embeddings", True),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("transformer.", "", probe="word_embeddings.weight")
    yield "embedding.weight", foreign.take(f"{root}word_embeddings.weight")
    yield from renamed(config, foreign, "", root, {"ln_embed": "word_embeddings_layernorm", "ln_final": "ln_f"})
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"{root}h.{i}."
        yield from fused_by_head(config, foreign, f"{ours}attn.", f"{theirs}self_attention.query_key_value")
        yield from renamed(config, foreign, ours, theirs, NAMES)
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}word_embeddings.weight")


ARCHITECTURE = Architecture(
    model_type="bloom", transformers_class="BloomForCausalLM", headless_class="BloomModel", config=config, weights=weights,
    random_configs=(
        dict(hidden_size=40, n_layer=3, n_head=5, vocab_size=101),
        dict(hidden_size=24, n_layer=2, n_head=4, vocab_size=67, tie_word_embeddings=False),
    ),
)
