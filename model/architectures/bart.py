"""BART (Lewis et al. 2020): learned positions whose table starts two rows late, a norm after the embedding, a bias on the logits."""

from __future__ import annotations

from model.architectures._bart import common
from model.architectures._bart import weights as both_stacks
from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import renamed
from model.config import EncoderDecoderConfig

OFFSET = 2
"""rows of the table of positions that no token has"""


def config(keys: Keys) -> EncoderDecoderConfig:
    keys.expect("normalize_embedding", True)
    keys.expect("static_position_embeddings", False)
    return common(keys, dict(positions="learned", position_offset=OFFSET, embed_norm=True), d_vocab=keys.peek("vocab_size"), shared=True)


def weights(config: EncoderDecoderConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("model.", "", probe="encoder.layernorm_embedding.weight")
    yield from both_stacks(config, foreign, root)
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        yield from renamed(stack, foreign, f"{side}.", f"{root}{side}.", {"ln_embed": "layernorm_embedding"})
        yield f"{side}.position_embedding.weight", foreign.take(f"{root}{side}.embed_positions.weight")


ARCHITECTURE = Architecture(
    model_type="bart", transformers_class="BartForConditionalGeneration", headless_class="BartModel", config=config, weights=weights,
    random_configs=(
        dict(d_model=30, encoder_layers=2, decoder_layers=3, encoder_attention_heads=5, decoder_attention_heads=3, encoder_ffn_dim=53,
             decoder_ffn_dim=41, vocab_size=101, max_position_embeddings=40),
        dict(d_model=24, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=41,
             decoder_ffn_dim=41, vocab_size=67, max_position_embeddings=33, scale_embedding=True, activation_function="relu"),
    ),
)
