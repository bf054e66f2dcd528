"""What do BART and Marian have in common? Encoder and decoder of the paper, norms after each sum, and the names of everything."""

from __future__ import annotations

from typing import Any

from model.architectures._keys import Keys
from model.architectures._weights import Pairs, Weights, renamed
from model.config import EncoderDecoderConfig, TransformerConfig

ATTENTION = {"W_Q": "q_proj", "W_K": "k_proj", "W_V": "v_proj", "W_O": "out_proj"}
BLOCK = {"ln1": "self_attn_layer_norm", "mlp.W_in": "fc1", "mlp.W_out": "fc2", "ln2": "final_layer_norm"}


def common(keys: Keys, choices: dict[str, Any], *, d_vocab: int, shared: bool) -> EncoderDecoderConfig:
    """Both stacks, with the family's own `choices`; `d_vocab` is the decoder's, `shared` says that the encoder has the same table."""
    keys.expect("tie_word_embeddings", True)
    keys.expect("normalize_before", False)
    keys.expect("add_final_layer_norm", False)
    keys.ignore("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "classif_dropout")
    keys.ignore("encoder_layerdrop", "decoder_layerdrop", "init_std", "num_hidden_layers", "_num_labels")
    keys.ignore("add_bias_logits", "extra_pos_embeddings")
    d_model, scaled = keys.take("d_model"), keys.take("scale_embedding", False)
    shape = choices | dict(
        family=keys.family, d_model=d_model, n_ctx=keys.take("max_position_embeddings"), norm="layer", norm_place="post", final_norm=False,
        activation=keys.activation("activation_function", "gelu"), embed_scale=d_model**0.5 if scaled else 1.0,
    )

    def stack(side: str) -> dict[str, Any]:
        n_layers, n_heads, d_mlp = (keys.take(f"{side}_{what}") for what in ("layers", "attention_heads", "ffn_dim"))
        return shape | dict(n_layers=n_layers, n_heads=n_heads, d_head=keys.split(d_model, n_heads), d_mlp=d_mlp)

    head = keys.head("lm")
    biased = head == "lm" and keys.holds("final_logits_bias")
    return EncoderDecoderConfig(
        encoder=TransformerConfig(**stack("encoder"), d_vocab=keys.take("vocab_size"), causal=False, head="none"),
        decoder=TransformerConfig(**stack("decoder"), d_vocab=d_vocab, head=head, unembed_bias=biased),
        shared_embeddings=shared,
    )


def weights(config: EncoderDecoderConfig, foreign: Weights, root: str) -> Pairs:
    """Everything but tables of positions and norms of embeddings."""
    tables = {side: f"{root}{side}.embed_tokens.weight" for side in ("encoder", "decoder")}
    if config.shared_embeddings:
        yield "encoder.embedding.weight", foreign.shared(f"{root}shared.weight", *tables.values(), "lm_head.weight")
    else:
        yield "encoder.embedding.weight", foreign.take(tables["encoder"])
        yield "decoder.embedding.weight", foreign.shared(tables["decoder"], "lm_head.weight")
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        for i in range(stack.n_layers):
            ours, theirs = f"{side}.blocks.{i}.", f"{root}{side}.layers.{i}."
            yield from renamed(stack, foreign, ours, theirs, BLOCK)
            yield from renamed(stack, foreign, f"{ours}attn.", f"{theirs}self_attn.", ATTENTION)
            if side == "decoder":
                yield from renamed(stack, foreign, ours, theirs, {"ln_cross": "encoder_attn_layer_norm"})
                yield from renamed(stack, foreign, f"{ours}cross_attn.", f"{theirs}encoder_attn.", ATTENTION)
    if config.decoder.unembed_bias:
        yield "unembed.unembedding.bias", foreign.take("final_logits_bias", (1, config.decoder.d_vocab))[0]
