"""What is computed: a hookable Transformer in the shape of the paper, and real checkpoints loaded into it."""

from model.checkpoint import save_model
from model.config import Dropout, EncoderDecoderConfig, Rotary, RotaryScaling, Span, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.generation import Generation, Greedy, Sampling, generate
from model.load import load_model
from model.sites import Site
from model.source import Source
from model.stack import State
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.wrapping import wrap

__all__ = [
    "Dropout", "EncoderDecoder", "EncoderDecoderConfig", "Generation", "Greedy", "Rotary", "RotaryScaling", "Sampling", "Site", "Source",
    "Span", "State", "Tokenizer", "Transformer", "TransformerConfig", "generate", "load_model", "save_model", "wrap",
]
