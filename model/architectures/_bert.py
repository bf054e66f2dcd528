"""What do the descendants of BERT have in common? Norms after each sum, learned positions, and a head that fills in masked tokens."""

from __future__ import annotations

from typing import Any

from model.architectures._keys import Keys
from model.architectures._weights import Pairs, Weights, renamed, unembedding
from model.config import TransformerConfig

EMBEDDINGS = {
    "embedding": "word_embeddings", "position_embedding": "position_embeddings", "segment_embedding": "token_type_embeddings",
    "ln_embed": "LayerNorm",
}
BLOCK = {
    "attn.W_Q": "attention.self.query", "attn.W_K": "attention.self.key", "attn.W_V": "attention.self.value",
    "attn.W_O": "attention.output.dense", "ln1": "attention.output.LayerNorm",
    "mlp.W_in": "intermediate.dense", "mlp.W_out": "output.dense", "ln2": "output.LayerNorm",
}


def encoder_choices() -> dict[str, Any]:
    """What no config of theirs can change."""
    return dict(causal=False, positions="learned", norm="layer", norm_place="post", embed_norm=True, final_norm=False, unembed_bias=True)


def common(keys: Keys) -> dict[str, Any]:
    """The choices of BERT and RoBERTa, as arguments of a config."""
    d_model, n_heads = keys.take("hidden_size"), keys.take("num_attention_heads")
    keys.expect("is_decoder", False)
    keys.expect("add_cross_attention", False)
    keys.expect("position_embedding_type", "absolute")
    keys.ignore("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout", "directionality", "pooler_fc_size")
    keys.ignore("pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type")
    return encoder_choices() | dict(
        family=keys.family, n_layers=keys.take("num_hidden_layers"), d_model=d_model, n_heads=n_heads, d_head=keys.split(d_model, n_heads),
        d_mlp=keys.take("intermediate_size"), d_vocab=keys.take("vocab_size"), head=keys.head("mlm"),
        n_segments=keys.take("type_vocab_size", 2),
        norm_eps=keys.take("layer_norm_eps", 1e-12), tied_embeddings=keys.take("tie_word_embeddings", True),
    )


def weights(config: TransformerConfig, foreign: Weights, root: str) -> Pairs:
    """Embeddings and blocks."""
    yield from renamed(config, foreign, "", f"{root}embeddings.", EMBEDDINGS)
    for i in range(config.n_layers):
        yield from renamed(config, foreign, f"blocks.{i}.", f"{root}encoder.layer.{i}.", BLOCK)


def masked_head(config: TransformerConfig, foreign: Weights, names: dict[str, str], embedding: str) -> Pairs:
    """The head, whose parts are called `dense`, `ln` and `decoder` in `names`; the last one's bias may have a second name `bias`."""
    if config.head == "none":
        return
    yield from renamed(config, foreign, "unembed.transform.", "", {"dense": names["dense"], "ln": names["ln"]})
    decoder, second = names["decoder"], names.get("bias")
    if second is not None and not foreign.has(f"{decoder}.bias"):
        yield "unembed.unembedding.bias", foreign.take(second)
    else:  # where both are there and differ, this is the one that is added
        yield "unembed.unembedding.bias", foreign.take(f"{decoder}.bias")
    yield from unembedding(config, foreign, f"{decoder}.weight", embedding)


def spelling(name: str) -> str:
    """The first checkpoints called a norm's weight and bias gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def unused(name: str) -> bool:
    """What no final state depends on: the pooler and what reads it, positions counted in advance, the second name of a bias."""
    ends = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids", "cls.predictions.bias", "lm_head.bias")
    return name.endswith(ends) or name.startswith("cls.seq_relationship.")
