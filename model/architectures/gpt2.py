"""GPT-2 (Radford et al. 2019): learned positions, layer norm before each sub-layer, q, k and v in one matrix [in, out]."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import renamed, unembedding
from model.config import TransformerConfig

NORMS = {"ln1": "ln_1", "ln2": "ln_2"}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads = keys.take("n_embd"), keys.take("n_head")
    keys.expect("scale_attn_weights", True)
    keys.expect("scale_attn_by_inverse_layer_idx", False)
    keys.expect("add_cross_attention", False)
    keys.ignore("reorder_and_upcast_attn", "resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx")
    keys.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    return TransformerConfig(
        family="gpt2", n_layers=keys.take("n_layer"), d_model=d_model, n_heads=n_heads, d_head=keys.split(d_model, n_heads),
        d_mlp=keys.take("n_inner", None) or 4 * d_model, d_vocab=keys.take("vocab_size"), n_ctx=keys.take("n_positions"),
        head=keys.head("lm"),
        positions="learned", norm="layer", norm_eps=keys.take("layer_norm_epsilon", 1e-5),
        activation=keys.activation("activation_function", "gelu_new"),
        tied_embeddings=keys.take("tie_word_embeddings", True),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    d_model, d_mlp = config.d_model, config.d_mlp
    matrices = (
        ("attn.W_O", "attn.c_proj", d_model, d_model),
        ("mlp.W_in", "mlp.c_fc", d_model, d_mlp),
        ("mlp.W_out", "mlp.c_proj", d_mlp, d_model),
    )
    root = foreign.prefix("transformer.", "", probe="wte.weight")
    yield "embedding.weight", foreign.take(f"{root}wte.weight")
    yield "position_embedding.weight", foreign.take(f"{root}wpe.weight")
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}.", f"{root}h.{i}."
        fused = foreign.take(f"{theirs}attn.c_attn.weight", (d_model, 3 * d_model)).T.chunk(3)  # each d_model d_model
        bias = foreign.take(f"{theirs}attn.c_attn.bias", (3 * d_model,)).chunk(3)
        for name, w, b in zip("QKV", fused, bias, strict=True):
            yield f"{ours}attn.W_{name}.weight", w
            yield f"{ours}attn.W_{name}.bias", b
        for our_name, their_name, n_in, n_out in matrices:
            yield f"{ours}{our_name}.weight", foreign.take(f"{theirs}{their_name}.weight", (n_in, n_out)).T
            yield f"{ours}{our_name}.bias", foreign.take(f"{theirs}{their_name}.bias")
        yield from renamed(config, foreign, ours, theirs, NORMS)
    yield from renamed(config, foreign, "", root, {"ln_final": "ln_f"})
    yield from unembedding(config, foreign, "lm_head.weight", embedding=f"{root}wte.weight")


def transposed(name: str) -> bool:
    """All matrices of its blocks."""
    return name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))


def unused(name: str) -> bool:
    """The causal mask, which old checkpoints store as buffers."""
    return name.endswith((".attn.bias", ".attn.masked_bias"))


ARCHITECTURE = Architecture(
    model_type="gpt2", transformers_class="GPT2LMHeadModel", headless_class="GPT2Model", config=config, weights=weights, unused=unused,
    transposed=transposed,
    random_configs=(
        dict(n_layer=3, n_embd=30, n_head=5, n_inner=52, vocab_size=101, n_positions=40),
        dict(n_layer=2, n_embd=24, n_head=3, vocab_size=67, n_positions=33, tie_word_embeddings=False, activation_function="gelu"),
    ),
)
