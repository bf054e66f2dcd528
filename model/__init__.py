"""What is computed: a hookable Transformer in the shape of the paper, and real checkpoints loaded into it."""

from model.checkpoint import save_model
from model.config import TransformerConfig
from model.load import load_model
from model.sites import Site
from model.source import Source
from model.tokenizer import Tokenizer
from model.transformer import State, Transformer
from model.wrapping import wrap

__all__ = ["Site", "Source", "State", "Tokenizer", "Transformer", "TransformerConfig", "load_model", "save_model", "wrap"]
