"""Chars: a small decoder that writes prose letter by letter, trained as its recurrent twin `lstm` is."""

from __future__ import annotations

import torch

from model.choices import Dropout
from model.config import TransformerConfig
from model.transformer import Transformer
from model.zoo import _characters
from model.zoo._contract import ZooModel, read_shipped


def build(seed: int) -> Transformer:
    """The untrained model, in the shape of GPT-2: 3 · 12 · 128² weights in its blocks, the 2 · 8 · 192² of the twin's layers."""
    tokenizer = _characters.characters()
    dropout = _characters.DROPOUT
    config = TransformerConfig(
        family="chars",
        n_layers=3,
        d_model=128,
        n_heads=4,
        d_head=32,
        d_mlp=512,
        d_vocab=tokenizer.backend.get_vocab_size(),
        n_ctx=_characters.LENGTH,
        dropout=Dropout(embed=dropout, sublayer=dropout),
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer = tokenizer
    return model


MODEL = ZooModel(
    name="chars",
    title="Chars (decoder of 3 layers × 4 heads, 0.62 M parameters, prose letter by letter)",
    licence="Apache-2.0",
    read=read_shipped,
    prompts=None,
    course=_characters.course(build),
)
