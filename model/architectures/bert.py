"""BERT (Devlin et al. 2019): an encoder with segments, and a head that fills in masked tokens."""

from __future__ import annotations

from model.architectures._bert import common, masked_head, spelling, unused
from model.architectures._bert import weights as encoder_weights
from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.config import TransformerConfig

HEAD = {
    "dense": "cls.predictions.transform.dense", "ln": "cls.predictions.transform.LayerNorm",
    "decoder": "cls.predictions.decoder", "bias": "cls.predictions.bias",
}


def config(keys: Keys) -> TransformerConfig:
    return TransformerConfig(**common(keys) | dict(
        n_ctx=keys.take("max_position_embeddings"), activation=keys.activation("hidden_act", "gelu"),
    ))


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("bert.", "", probe="embeddings.word_embeddings.weight")
    yield from encoder_weights(config, foreign, root)
    yield from masked_head(config, foreign, HEAD, embedding=f"{root}embeddings.word_embeddings.weight")


ARCHITECTURE = Architecture(
    model_type="bert", transformers_class="BertForMaskedLM", headless_class="BertModel", config=config, weights=weights, unused=unused,
    spelling=spelling,
    random_configs=(
        dict(hidden_size=35, intermediate_size=53, num_hidden_layers=3, num_attention_heads=5, vocab_size=101, max_position_embeddings=40,
             type_vocab_size=3),
        dict(hidden_size=24, intermediate_size=41, num_hidden_layers=2, num_attention_heads=4, vocab_size=67, max_position_embeddings=33,
             hidden_act="relu", layer_norm_eps=1e-5),
    ),
)
