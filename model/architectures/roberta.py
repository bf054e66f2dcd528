"""RoBERTa (Liu et al. 2019): BERT whose first token has the position behind that of padding."""

from __future__ import annotations

from model.architectures._bert import common, masked_head, unused
from model.architectures._bert import weights as encoder_weights
from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.config import TransformerConfig

HEAD = {"dense": "lm_head.dense", "ln": "lm_head.layer_norm", "decoder": "lm_head.decoder", "bias": "lm_head.bias"}


def config(keys: Keys) -> TransformerConfig:
    keys.expect("hidden_act", "gelu")  # the head has no other, whatever the blocks have
    offset = keys.peek("pad_token_id", 1) + 1
    n_ctx = keys.take("max_position_embeddings") - offset
    return TransformerConfig(**common(keys) | dict(n_ctx=n_ctx, position_offset=offset, activation="gelu"))


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("roberta.", "", probe="embeddings.word_embeddings.weight")
    yield from encoder_weights(config, foreign, root)
    yield from masked_head(config, foreign, HEAD, embedding=f"{root}embeddings.word_embeddings.weight")


ARCHITECTURE = Architecture(
    model_type="roberta", transformers_class="RobertaForMaskedLM", headless_class="RobertaModel", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(hidden_size=35, intermediate_size=53, num_hidden_layers=3, num_attention_heads=5, vocab_size=101, max_position_embeddings=40,
             type_vocab_size=1),
        dict(hidden_size=24, intermediate_size=41, num_hidden_layers=2, num_attention_heads=4, vocab_size=67, max_position_embeddings=38,
             pad_token_id=4, layer_norm_eps=1e-5),
    ),
)
