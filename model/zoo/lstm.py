"""LSTM: a recurrent language model of letters, the baseline of `chars`: same text, tokens, batches, recipe, and size."""

from __future__ import annotations

import torch

from model.lstm import LSTMConfig, LSTMLanguageModel
from model.zoo import _characters
from model.zoo._contract import ZooModel, read_shipped


def build(seed: int) -> LSTMLanguageModel:
    """The untrained model: two layers of width 192."""
    tokenizer = _characters.characters()
    config = LSTMConfig(n_layers=2, d_model=192, d_vocab=tokenizer.backend.get_vocab_size(), dropout=_characters.DROPOUT)
    model = LSTMLanguageModel(config, generator=torch.Generator().manual_seed(seed))
    model.tokenizer = tokenizer
    return model


MODEL = ZooModel(
    name="lstm",
    title="LSTM (2 recurrent layers, 0.62 M parameters, prose letter by letter; no attention: the baseline of chars)",
    licence="Apache-2.0",
    read=read_shipped,
    prompts=None,
    course=_characters.course(build),
)
