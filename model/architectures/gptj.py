"""GPT-J (Wang & Komatsuzaki 2021): adjacent pairs are turned, attention and feed-forward network share one norm, the head has a bias."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import renamed, unembedding
from model.config import Rotary, TransformerConfig

NAMES = {
    "ln1": "ln_1", "attn.W_Q": "attn.q_proj", "attn.W_K": "attn.k_proj", "attn.W_V": "attn.v_proj", "attn.W_O": "attn.out_proj",
    "mlp.W_in": "mlp.fc_in", "mlp.W_out": "mlp.fc_out",
}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads, dims = keys.take("n_embd"), keys.take("n_head"), keys.take("rotary_dim", 64)
    keys.expect("rotary", True)
    keys.expect("scale_attn_weights", True)
    keys.ignore("resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx")
    keys.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    if dims is None:
        raise ValueError("gptj config rotary_dim=None is not supported, only a number of dimensions")
    return TransformerConfig(
        family="gptj", n_layers=keys.take("n_layer"), d_model=d_model, n_heads=n_heads, d_head=keys.split(d_model, n_heads),
        d_mlp=keys.take("n_inner", None) or 4 * d_model, d_vocab=keys.take("vocab_size"), n_ctx=keys.take("n_positions"),
        head=keys.head("lm"),
        positions="rotary", rotary=Rotary(dims=dims, pairs="adjacent"), norm="layer", norm_eps=keys.take("layer_norm_epsilon", 1e-5),
        parallel=True, parallel_shared_norm=True, activation=keys.activation("activation_function", "gelu_new"),
        q_bias=False, k_bias=False, v_bias=False, attn_out_bias=False, unembed_bias=True,
        tied_embeddings=keys.take("tie_word_embeddings", False),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("transformer.", "", probe="wte.weight")
    yield "embedding.weight", foreign.take(f"{root}wte.weight")
    for i in range(config.n_layers):
        yield from renamed(config, foreign, f"blocks.{i}.", f"{root}h.{i}.", NAMES)
    yield from renamed(config, foreign, "", root, {"ln_final": "ln_f"})
    if config.head == "lm":
        yield "unembed.unembedding.bias", foreign.take("lm_head.bias")
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}wte.weight")


def unused(name: str) -> bool:
    """The causal mask, which old checkpoints store as buffers."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


ARCHITECTURE = Architecture(
    model_type="gptj", transformers_class="GPTJForCausalLM", headless_class="GPTJModel", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(n_embd=40, n_inner=53, n_layer=3, n_head=5, rotary_dim=6, vocab_size=101, n_positions=40),
        dict(n_embd=36, n_layer=2, n_head=3, rotary_dim=12, vocab_size=67, n_positions=33, tie_word_embeddings=True),
    ),
)
