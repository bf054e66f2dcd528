"""T5 (Raffel et al. 2020), its version 1.1 and Flan-T5: relative positions, no score scale, RMS norms, no biases."""

from __future__ import annotations

from typing import Any

from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._keys import ACTIVATIONS
from model.architectures._weights import renamed
from model.choices import Activation
from model.config import EncoderDecoderConfig, TransformerConfig

ATTENTION = {"W_Q": "q", "W_K": "k", "W_V": "v", "W_O": "o"}


def config(keys: Keys) -> EncoderDecoderConfig:
    tie, n_layers, d_model = keys.take("tie_word_embeddings", True), keys.take("num_layers"), keys.take("d_model")
    activation, gated = _feed_forward(keys)
    scaled, tied = keys.take("scale_decoder_outputs", tie), not keys.holds_apart("lm_head.weight", "shared.weight")
    keys.ignore("dropout_rate", "classifier_dropout", "initializer_factor", "output_past", "num_hidden_layers")
    keys.ignore("dense_act_fn", "is_gated_act")  # both repeat feed_forward_proj
    n_heads, biases = keys.take("num_heads"), dict.fromkeys(("q_bias", "k_bias", "v_bias", "attn_out_bias", "mlp_bias"), False)
    shape: dict[str, Any] = dict(
        family="t5", d_model=d_model, n_heads=n_heads, d_head=keys.take("d_kv"), d_mlp=keys.take("d_ff"), d_vocab=keys.take("vocab_size"),
        n_ctx=keys.take("n_positions", 512), positions="t5", n_buckets=keys.take("relative_attention_num_buckets", 32),
        max_distance=keys.take("relative_attention_max_distance", 128), score_scale=1.0, norm="rms",
        norm_eps=keys.take("layer_norm_epsilon", 1e-6), activation=activation, gated=gated, **biases,
    )
    return EncoderDecoderConfig(
        encoder=TransformerConfig(n_layers=n_layers, causal=False, head="none", **shape),
        decoder=TransformerConfig(
            n_layers=keys.take("num_decoder_layers", None) or n_layers, head=keys.head("lm"), tied_embeddings=tied,
            logit_scale=d_model**-0.5 if scaled else 1.0, **shape,
        ),
    )


def _feed_forward(keys: Keys) -> tuple[Activation, bool]:
    """Its activation, and whether it is gated. What the files call gated-gelu is the approximation by tanh."""
    kind = keys.take("feed_forward_proj", "relu")
    name = "gelu_new" if kind == "gated-gelu" else kind.removeprefix("gated-")
    if name not in ACTIVATIONS:
        raise ValueError(f"t5 config feed_forward_proj={kind!r} is not supported, only {', '.join(ACTIVATIONS)}, each also behind 'gated-'")
    return ACTIVATIONS[name], kind.startswith("gated-")


def weights(config: EncoderDecoderConfig, foreign: Weights) -> Pairs:
    yield "encoder.embedding.weight", foreign.shared("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    yield from _stack(config.encoder, foreign, "encoder.", cross=False)
    yield from _stack(config.decoder, foreign, "decoder.", cross=True)
    if config.decoder.head == "lm" and not config.decoder.tied_embeddings:
        yield "unembed.unembedding.weight", foreign.take("lm_head.weight")


def _stack(config: TransformerConfig, foreign: Weights, side: str, *, cross: bool) -> Pairs:
    for i in range(config.n_layers):
        ours, theirs = f"{side}blocks.{i}.", f"{side}block.{i}.layer."
        yield from renamed(config, foreign, f"{ours}attn.", f"{theirs}0.SelfAttention.", ATTENTION)
        yield from renamed(config, foreign, ours, theirs, {"ln1": "0.layer_norm"})
        if cross:
            yield from renamed(config, foreign, f"{ours}cross_attn.", f"{theirs}1.EncDecAttention.", ATTENTION)
            yield from renamed(config, foreign, ours, theirs, {"ln_cross": "1.layer_norm"})
        last = f"{theirs}{2 if cross else 1}."
        read = {"mlp.W_gate": "wi_0", "mlp.W_in": "wi_1"} if config.gated else {"mlp.W_in": "wi"}
        yield from renamed(config, foreign, ours, f"{last}DenseReluDense.", read | {"mlp.W_out": "wo"})
        yield from renamed(config, foreign, ours, last, {"ln2": "layer_norm"})
    yield from renamed(config, foreign, side, side, {"ln_final": "final_layer_norm"})
    bias = f"{side}block.0.layer.0.SelfAttention.relative_attention_bias"
    yield from renamed(config, foreign, f"{side}position_bias.", "", {"table": bias})


def unused(name: str) -> bool:
    """A table that the first checkpoints store for cross-attention, which has no positions, and the second name of a tied embedding."""
    return name in ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", "lm_head.weight")


ARCHITECTURE = Architecture(
    model_type="t5", transformers_class="T5ForConditionalGeneration", headless_class="T5Model", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(d_model=30, d_kv=7, d_ff=53, num_layers=2, num_decoder_layers=3, num_heads=5, vocab_size=101, relative_attention_num_buckets=9,
             relative_attention_max_distance=14),
        dict(d_model=24, d_kv=8, d_ff=41, num_layers=2, num_heads=3, vocab_size=67, feed_forward_proj="gated-gelu",
             tie_word_embeddings=False,
             relative_attention_num_buckets=8, relative_attention_max_distance=20),
    ),
)
