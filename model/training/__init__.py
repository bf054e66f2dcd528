"""How does a model learn? A loop that a person can read: schedules, objectives, checkpoints, tokenizers, several processes.

>>> import torch
>>> from model import Transformer, TransformerConfig
>>> tokenizer = train_characters(["abcabcabcabcabc"])
>>> config = TransformerConfig(n_layers=2, d_model=32, n_heads=2, d_head=16, d_mlp=64, d_vocab=7, n_ctx=16)
>>> model = Transformer(config, generator=torch.Generator().manual_seed(0))
>>> table = train(model, [tokenizer.batch(["abcabcabcabc"])], CausalLM(), Recipe(steps=40, learning_rate=1e-2, warmup=4))
>>> list(table.columns[:4]), bool(table["loss"].iloc[-1] < 0.05)
(['step', 'loss', 'learning_rate', 'gradient_norm'], True)
"""

from model.training.distributed import joined
from model.training.loop import evaluate, train
from model.training.objectives import CausalLM, Exercise, MaskedLM, SequenceToSequence, token_loss
from model.training.recipe import Recipe
from model.training.tokenizers import train_byte_level_bpe, train_characters, train_wordpiece

__all__ = [
    "CausalLM", "Exercise", "MaskedLM", "Recipe", "SequenceToSequence", "evaluate", "joined", "token_loss", "train", "train_byte_level_bpe",
    "train_characters", "train_wordpiece",
]
