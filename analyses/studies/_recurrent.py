"""Which recurrent network is a fair rival? An LSTM, or one of plain tanh cells, with as many weights as the Transformer, taught the same.

Every kind learns prose at the rate at which it ended lowest on seeds that no study measures (100 and 101, 400 updates). On these an LSTM
with a wide embedding and unembedding, and a Transformer from Glorot's matrices, were ahead of themselves from a smaller start.
"""

from __future__ import annotations

import dataclasses

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._training import recipe_of
from model import LSTMConfig, LSTMLanguageModel, Transformer, TransformerConfig
from model.lstm import Cell
from model.training import Recipe
from model.training.objectives import Batch, Objective

LSTM, RNN = "LSTM", "RNN"
CELLS: dict[str, Cell] = {LSTM: "lstm", RNN: "rnn"}
N_MATRICES: dict[Cell, int] = {"lstm": 8, "rnn": 2}
"""of d_model · d_model in a layer, with as many biases"""
N_LAYERS = 2
"""of every recurrent network here"""
RATES = {LSTM: 2e-2, RNN: 3e-3}
TRANSFORMER_RATE = 1e-2
STARTS = (
    "Transformers start as the first one did (Glorot's matrices), recurrent networks with an embedding and an unembedding of variance 1, "
    "from which they learn sooner than from smaller ones."
)
AT_RATES = (
    f"Transformers at a learning rate of {TRANSFORMER_RATE:g}, LSTMs at {RATES[LSTM]:g}, RNNs at {RATES[RNN]:g}, of 0.003, 0.01 and 0.02 those at which each "
    "ended lowest with two other seeds"
)
"""what the methods of studies say of it"""


def rival(arm: str, config: TransformerConfig, seed: int) -> nn.Module:
    """The untrained network of an arm: "LSTM", "RNN", or the Transformer of `config` with such positions, which starts as in the paper.

    >>> from analyses.studies._starts import PAPER
    >>> sizes = [sum(p.numel() for p in rival(arm, PAPER, 0).parameters()) for arm in ("rotary", LSTM, RNN)]
    >>> 0.97 < sizes[1] / sizes[0] < 1.03, 0.97 < sizes[2] / sizes[0] < 1.03
    (True, True)
    """
    if arm in CELLS:
        return recurrent_twin(config, seed, CELLS[arm])
    return started_as_in_the_paper(dataclasses.replace(config, positions=arm), seed)


def recipe_for(arm: str, steps: int) -> Recipe:
    """The studies' recipe at the learning rate of the arm's kind.

    >>> recipe_for(LSTM, 100).learning_rate, recipe_for("rotary", 100).learning_rate
    (0.02, 0.01)
    """
    return recipe_of(steps, learning_rate=RATES.get(arm, TRANSFORMER_RATE))


def recurrent_twin(config: TransformerConfig, seed: int, cell: Cell = "lstm") -> LSTMLanguageModel:
    """The recurrent network of two layers whose number of weights is nearest to that of the Transformer of `config`."""
    with torch.device("meta"):
        n_weights = sum(p.numel() for p in Transformer(config).parameters())
    width = min(range(1, 4 * config.d_model), key=lambda width: abs(_n_weights(width, config.d_vocab, cell) - n_weights))
    twin = LSTMConfig(n_layers=N_LAYERS, d_model=width, d_vocab=config.d_vocab, cell=cell)
    return LSTMLanguageModel(twin, generator=torch.Generator().manual_seed(seed))


def operations_per_token(config: TransformerConfig | LSTMConfig, n: int) -> float:
    """Operations of matrix products in a forward pass of n tokens, the logits of all of them included, over n: 2 per weight and token, and
    for a Transformer 4 · n_heads · d_head per layer, query and key.

    >>> operations_per_token(LSTMConfig(n_layers=1, d_model=4, d_vocab=3), n=7) == 2 * (8 * 4**2 + 4 * 3)
    True
    """
    if isinstance(config, LSTMConfig):
        per_layer = N_MATRICES[config.cell] * config.d_model**2
        return 2 * (per_layer * config.n_layers + config.d_model * config.d_vocab)
    heads, kv_heads = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    block = 2 * config.d_model * (2 * heads + 2 * kv_heads) + 2 * config.d_model * config.d_mlp * (3 if config.gated else 2) + 4 * heads * n
    return block * config.n_layers + 2 * config.d_model * config.d_vocab


@torch.no_grad()
def right(model: nn.Module, batch: Batch, objective: Objective) -> tuple[Bool[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Where the likeliest token is the answer, and which places are asked."""
    model.eval()
    exercise = objective(batch, torch.Generator())
    return model(*exercise.inputs).argmax(-1) == exercise.answers, exercise.counted


def _n_weights(width: int, d_vocab: int, cell: Cell) -> int:
    return N_LAYERS * N_MATRICES[cell] * (width**2 + width) + 2 * d_vocab * width + d_vocab
