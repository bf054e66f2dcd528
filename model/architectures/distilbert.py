"""DistilBERT (Sanh et al. 2019): BERT with half of the layers and no segments."""

from __future__ import annotations

from model.architectures._bert import encoder_choices, masked_head, unused
from model.architectures._contract import Architecture, Keys, Pairs, Weights
from model.architectures._weights import renamed
from model.config import TransformerConfig

EMBEDDINGS = {"embedding": "word_embeddings", "position_embedding": "position_embeddings", "ln_embed": "LayerNorm"}
BLOCK = {
    "attn.W_Q": "attention.q_lin", "attn.W_K": "attention.k_lin", "attn.W_V": "attention.v_lin", "attn.W_O": "attention.out_lin",
    "ln1": "sa_layer_norm", "mlp.W_in": "ffn.lin1", "mlp.W_out": "ffn.lin2", "ln2": "output_layer_norm",
}
HEAD = {"dense": "vocab_transform", "ln": "vocab_layer_norm", "decoder": "vocab_projector"}


def config(keys: Keys) -> TransformerConfig:
    d_model, n_heads = keys.take("dim"), keys.take("n_heads")
    keys.ignore("dropout", "attention_dropout", "qa_dropout", "seq_classif_dropout", "tie_weights_")
    keys.ignore("sinusoidal_pos_embds")  # how the table of positions was filled at first; it is stored all the same
    return TransformerConfig(**encoder_choices() | dict(
        family="distilbert", n_layers=keys.take("n_layers"), d_model=d_model, n_heads=n_heads, d_head=keys.split(d_model, n_heads),
        d_mlp=keys.take("hidden_dim"), d_vocab=keys.take("vocab_size"), n_ctx=keys.take("max_position_embeddings"), head=keys.head("mlm"),
        norm_eps=1e-12, activation=keys.activation("activation", "gelu"), tied_embeddings=keys.take("tie_word_embeddings", True),
    ))


def weights(config: TransformerConfig, foreign: Weights) -> Pairs:
    root = foreign.prefix("distilbert.", "", probe="embeddings.word_embeddings.weight")
    yield from renamed(config, foreign, "", f"{root}embeddings.", EMBEDDINGS)
    for i in range(config.n_layers):
        yield from renamed(config, foreign, f"blocks.{i}.", f"{root}transformer.layer.{i}.", BLOCK)
    yield from masked_head(config, foreign, HEAD, embedding=f"{root}embeddings.word_embeddings.weight")


ARCHITECTURE = Architecture(
    model_type="distilbert", transformers_class="DistilBertForMaskedLM", headless_class="DistilBertModel", config=config, weights=weights,
    unused=unused,
    random_configs=(
        dict(dim=35, hidden_dim=53, n_layers=3, n_heads=5, vocab_size=101, max_position_embeddings=40),
        dict(dim=24, hidden_dim=41, n_layers=2, n_heads=4, vocab_size=67, max_position_embeddings=33, activation="relu",
             tie_word_embeddings=False),
    ),
)
