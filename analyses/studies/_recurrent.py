"""Which recurrent network is a fair rival? An LSTM with as many weights as the Transformer, taught the same."""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from analyses.studies._training import character_model, recipe_of
from model import LSTMConfig, LSTMLanguageModel, TransformerConfig
from model.training import Recipe
from model.training.objectives import Batch, Objective

LSTM = "LSTM"
N_LAYERS = 2
"""of every LSTM here"""
LSTM_RATE = 1e-2
"""of an LSTM that learns prose: there it is ahead of 0.003, at which all else learns, and behind it in recall"""


def rival(arm: str, config: TransformerConfig, seed: int) -> nn.Module:
    """The untrained network of an arm: "LSTM", or the Transformer of `config` with such positions.

    >>> from analyses.studies._training import BASE
    >>> sizes = [sum(p.numel() for p in rival(arm, BASE, 0).parameters()) for arm in ("learned", LSTM)]
    >>> 0.97 < sizes[1] / sizes[0] < 1.03
    True
    """
    if arm == LSTM:
        return recurrent_twin(config, seed)
    return character_model(dataclasses.replace(config, positions=arm), seed)


def prose_recipe(arm: str, steps: int) -> Recipe:
    """The studies' recipe, on prose, at the learning rate of the arm.

    >>> prose_recipe(LSTM, 100).learning_rate, prose_recipe("rotary", 100).learning_rate
    (0.01, 0.003)
    """
    return recipe_of(steps, **({"learning_rate": LSTM_RATE} if arm == LSTM else {}))


def recurrent_twin(config: TransformerConfig, seed: int) -> LSTMLanguageModel:
    """The LSTM of two layers whose number of weights is nearest to that of the Transformer of `config`."""
    with torch.device("meta"):
        n_weights = sum(p.numel() for p in character_model(config, 0).parameters())
    width = min(range(1, 4 * config.d_model), key=lambda width: abs(_n_weights(width, config.d_vocab) - n_weights))
    twin = LSTMConfig(n_layers=N_LAYERS, d_model=width, d_vocab=config.d_vocab)
    return LSTMLanguageModel(twin, generator=torch.Generator().manual_seed(seed))


def operations_per_token(config: TransformerConfig | LSTMConfig, n: int) -> float:
    """Operations of matrix products in a forward pass of n tokens, the logits of all of them included, over n: 2 per weight and token, and
    for a Transformer 4 · n_heads · d_head per layer, query and key.

    >>> operations_per_token(LSTMConfig(n_layers=1, d_model=4, d_vocab=3), n=7) == 2 * (8 * 4**2 + 4 * 3)
    True
    """
    if isinstance(config, LSTMConfig):
        return 2 * (8 * config.d_model**2 * config.n_layers + config.d_model * config.d_vocab)
    heads, kv_heads = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    block = 2 * config.d_model * (2 * heads + 2 * kv_heads) + 2 * config.d_model * config.d_mlp * (3 if config.gated else 2) + 4 * heads * n
    return block * config.n_layers + 2 * config.d_model * config.d_vocab


@torch.no_grad()
def right(model: nn.Module, batch: Batch, objective: Objective) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Where the likeliest token is the answer, and which places are asked."""
    model.eval()
    exercise = objective(batch, torch.Generator())
    return model(*exercise.inputs).argmax(-1) == exercise.answers, exercise.counted


def _n_weights(width: int, d_vocab: int) -> int:
    return N_LAYERS * (8 * width**2 + 8 * width) + 2 * d_vocab * width + d_vocab
