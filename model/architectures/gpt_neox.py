"""GPT-NeoX (Black et al. 2022) and Pythia: partial rotations, attention and feed-forward network side by side, fused q, k and v."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._rotary import read_rotary
from model.architectures._weights import fused_by_head, renamed, unembedding
from model.config import TransformerConfig

NAMES = {
    "ln1": "input_layernorm", "ln2": "post_attention_layernorm", "attn.W_O": "attention.dense",
    "mlp.W_in": "mlp.dense_h_to_4h", "mlp.W_out": "mlp.dense_4h_to_h",
}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads, biased = keys.take("hidden_size"), keys.take("num_attention_heads"), keys.take("attention_bias", True)
    d_head = keys.split(d_model, n_heads)
    rotary = read_rotary(keys, d_head=d_head, base="rotary_emb_base", part="rotary_pct")
    keys.ignore("attention_dropout", "hidden_dropout", "classifier_dropout", "rope_theta")
    return TransformerConfig(
        family="gpt_neox", n_layers=keys.take("num_hidden_layers"), d_model=d_model, n_heads=n_heads, d_head=d_head,
        d_mlp=keys.take("intermediate_size"), d_vocab=keys.take("vocab_size"), n_ctx=keys.take("max_position_embeddings"),
        head=keys.head("lm"),
        positions="rotary", rotary=rotary, norm="layer", norm_eps=keys.take("layer_norm_eps", 1e-5),
        parallel=keys.take("use_parallel_residual", True), activation=keys.activation("hidden_act", "gelu"),
        q_bias=biased, k_bias=biased, v_bias=biased, attn_out_bias=biased, tied_embeddings=keys.take("tie_word_embeddings", False),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("gpt_neox.", "", probe="embed_in.weight")
    yield "embedding.weight", foreign.take(f"{root}embed_in.weight")
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"{root}layers.{i}."
        yield from fused_by_head(config, foreign, f"{ours}attn.", f"{theirs}attention.query_key_value")
        yield from renamed(config, foreign, ours, theirs, NAMES)
    yield from renamed(config, foreign, "", root, {"ln_final": "final_layer_norm"})
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}embed_in.weight")


def spelling(name: str) -> str:
    """Checkpoints call the unembedding embed_out, the library's newer versions lm_head."""
    return "lm_head.weight" if name == "embed_out.weight" else name


def unused(name: str) -> bool:
    """The causal mask and rotation tables, which old checkpoints store."""
    return name.endswith((".attention.bias", ".attention.masked_bias", "rotary_emb.inv_freq"))


ARCHITECTURE = Architecture(
    model_type="gpt_neox", transformers_class="GPTNeoXForCausalLM", headless_class="GPTNeoXModel", config=config, weights=weights,
    unused=unused,
    spelling=spelling,
    random_configs=(
        dict(hidden_size=40, intermediate_size=53, num_hidden_layers=3, num_attention_heads=5, vocab_size=101, max_position_embeddings=40,
             rope_parameters={"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.25}),
        dict(hidden_size=36, intermediate_size=41, num_hidden_layers=2, num_attention_heads=3, vocab_size=67, max_position_embeddings=33,
             use_parallel_residual=False, attention_bias=False, tie_word_embeddings=True,
             rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}),
    ),
)
