"""OPT (Zhang et al. 2022): GPT-3's shape with ReLU and learned positions whose table starts two rows late."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import renamed, unembedding
from model.config import TransformerConfig

OFFSET = 2
"""rows of the table of positions that no token has"""

NAMES = {
    "ln1": "self_attn_layer_norm", "ln2": "final_layer_norm",
    "attn.W_Q": "self_attn.q_proj", "attn.W_K": "self_attn.k_proj", "attn.W_V": "self_attn.v_proj", "attn.W_O": "self_attn.out_proj",
    "mlp.W_in": "fc1", "mlp.W_out": "fc2",
}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads, before = keys.take("hidden_size"), keys.take("num_attention_heads"), keys.take("do_layer_norm_before", True)
    biased, removed = keys.take("enable_bias", True), keys.take("_remove_final_layer_norm", False)
    keys.expect("word_embed_proj_dim", d_model, None)
    keys.expect("layer_norm_elementwise_affine", True)
    keys.ignore("dropout", "attention_dropout", "activation_dropout", "layerdrop", "init_std")
    return TransformerConfig(
        family="opt", n_layers=keys.take("num_hidden_layers"), d_model=d_model, n_heads=n_heads, d_head=keys.split(d_model, n_heads),
        d_mlp=keys.take("ffn_dim"), d_vocab=keys.take("vocab_size"), n_ctx=keys.take("max_position_embeddings"), head=keys.head("lm"),
        positions="learned", position_offset=OFFSET, norm="layer", norm_place="pre" if before else "post",
        final_norm=before and not removed,
        activation=keys.activation("activation_function", "relu"), q_bias=biased, k_bias=biased, v_bias=biased, attn_out_bias=biased,
        mlp_bias=biased, tied_embeddings=keys.take("tie_word_embeddings", True),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("model.decoder.", "decoder.", "", probe="embed_tokens.weight")
    yield "embedding.weight", foreign.take(f"{root}embed_tokens.weight")
    yield "position_embedding.weight", foreign.take(f"{root}embed_positions.weight")
    for i in range(config.n_layers):
        yield from renamed(config, foreign, f"blocks.{i}.", f"{root}layers.{i}.", NAMES)
    if config.final_norm:
        yield from renamed(config, foreign, "", root, {"ln_final": "final_layer_norm"})
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}embed_tokens.weight")


ARCHITECTURE = Architecture(
    model_type="opt", transformers_class="OPTForCausalLM", headless_class="OPTModel", config=config, weights=weights,
    random_configs=(
        dict(hidden_size=35, ffn_dim=53, num_hidden_layers=3, num_attention_heads=5, vocab_size=101, max_position_embeddings=40),
        dict(hidden_size=24, ffn_dim=41, num_hidden_layers=2, num_attention_heads=3, vocab_size=67, max_position_embeddings=33,
             do_layer_norm_before=False, tie_word_embeddings=False),
        dict(hidden_size=24, ffn_dim=41, num_hidden_layers=2, num_attention_heads=4, vocab_size=67, max_position_embeddings=33,
             enable_bias=False, _remove_final_layer_norm=True, activation_function="gelu"),
    ),
)
