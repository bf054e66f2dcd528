"""GPT-2 (Radford et al. 2019): learned positions, layer norm before each sub-layer, q, k and v in one matrix [in, out]."""

from __future__ import annotations

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.config import TransformerConfig

ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads = keys.take("n_embd"), keys.take("n_head")
    activation = keys.take("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(f"gpt2 config activation_function={activation!r} is not supported, only {', '.join(ACTIVATIONS)}")
    if d_model % n_heads:
        raise ValueError(f"gpt2 splits n_embd evenly, got n_embd={d_model}, n_head={n_heads}")
    keys.expect("scale_attn_weights", True)
    keys.expect("scale_attn_by_inverse_layer_idx", False)
    keys.expect("add_cross_attention", False)
    keys.ignore("reorder_and_upcast_attn", "resid_pdrop", "embd_pdrop", "attn_pdrop", "n_ctx", "gradient_checkpointing")
    keys.ignore("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels", "summary_first_dropout")
    return TransformerConfig(
        family="gpt2", n_layers=keys.take("n_layer"), d_model=d_model, n_heads=n_heads, d_head=d_model // n_heads,
        d_mlp=keys.take("n_inner", None) or 4 * d_model, d_vocab=keys.take("vocab_size"), n_ctx=keys.take("n_positions"),
        positions="learned", norm="layer", norm_eps=keys.take("layer_norm_epsilon", 1e-5), activation=ACTIVATIONS[activation],
        tied_embeddings=keys.take("tie_word_embeddings", True),
    )


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("transformer.", "", probe="wte.weight")
    yield "W_E.weight", foreign.take(f"{root}wte.weight")
    yield "W_pos.weight", foreign.take(f"{root}wpe.weight")
    for i in range(config.n_layers):
        ours, theirs = f"blocks.{i}", f"{root}h.{i}"
        fused = foreign.take(f"{theirs}.attn.c_attn.weight").T.chunk(3)  # each d_model d_model
        bias = foreign.take(f"{theirs}.attn.c_attn.bias").chunk(3)
        for name, w, b in zip("QKV", fused, bias, strict=True):
            yield f"{ours}.attn.W_{name}.weight", w
            yield f"{ours}.attn.W_{name}.bias", b
        for our_name, their_name in (("attn.W_O", "attn.c_proj"), ("mlp.W_in", "mlp.c_fc"), ("mlp.W_out", "mlp.c_proj")):
            yield f"{ours}.{our_name}.weight", foreign.take(f"{theirs}.{their_name}.weight").T
            yield f"{ours}.{our_name}.bias", foreign.take(f"{theirs}.{their_name}.bias")
        for our_name, their_name in (("ln1", "ln_1"), ("ln2", "ln_2")):
            yield f"{ours}.{our_name}.gain", foreign.take(f"{theirs}.{their_name}.weight")
            yield f"{ours}.{our_name}.bias", foreign.take(f"{theirs}.{their_name}.bias")
    yield "ln_final.gain", foreign.take(f"{root}ln_f.weight")
    yield "ln_final.bias", foreign.take(f"{root}ln_f.bias")
    if not config.tied_embeddings:
        yield "W_U.weight", foreign.take("lm_head.weight")


def unused(name: str) -> bool:
    """The causal mask, which old checkpoints store as buffers, and the second name of a tied embedding."""
    return name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight"


ARCHITECTURE = Architecture(
    model_type="gpt2", transformers_class="GPT2LMHeadModel", config=config, weights=weights, unused=unused,
    random_configs=(
        dict(n_layer=3, n_embd=30, n_head=5, n_inner=52, vocab_size=101, n_positions=40),
        dict(n_layer=2, n_embd=24, n_head=3, vocab_size=67, n_positions=33, tie_word_embeddings=False, activation_function="gelu"),
    ),
)
