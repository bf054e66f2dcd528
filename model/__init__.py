"""What is computed: a hookable Transformer in the shape of the paper, and real checkpoints loaded into it."""

from model.checkpoint import save_model
from model.config import Dropout, EncoderDecoderConfig, Rotary, RotaryScaling, Span, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.folding import fold_norms
from model.generation import Generation, Greedy, Sampling, generate
from model.load import load_model
from model.lstm import LSTMConfig, LSTMLanguageModel
from model.sites import Site
from model.source import Source
from model.stack import State
from model.tokenizer import Tokenizer
from model.transformer import Transformer
from model.weights import LayerWeights, StackWeights
from model.wrapping import wrap

__all__ = [
    "Dropout", "EncoderDecoder", "EncoderDecoderConfig", "Generation", "Greedy", "LSTMConfig", "LSTMLanguageModel", "LayerWeights",
    "Rotary", "RotaryScaling", "Sampling", "Site", "Source", "Span", "StackWeights", "State", "Tokenizer", "Transformer",
    "TransformerConfig", "fold_norms", "generate", "load_model", "save_model", "wrap",
]
