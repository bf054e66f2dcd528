"""What is attention measured on? Examples of text, random tokens that repeat, and one example to show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from analyses._anatomy import Inputs, Model
from analyses._corpus import Corpus, CorpusError
from analyses._examples import examples, template
from model import EncoderDecoder, Transformer

SHORTEST = 4
"""tokens: a shorter text or period says nothing"""
EXAMPLE_TOKENS = 256
"""the patterns of all heads are shown on at most this many tokens"""


@dataclass(frozen=True)
class Sizes:
    """What fits a model of one stack and the text."""

    length: int
    framed: int
    """tokens of the length that the tokenizer's template adds"""
    n_chunks: int
    period: int

    @property
    def enough(self) -> bool:
        return self.length - self.framed >= SHORTEST


def repeats(model: Model) -> bool:
    """Can the model be asked what it does with repeated tokens? A causal language model can."""
    return isinstance(model, Transformer) and model.config.causal and model.config.head == "lm"


def sizes(model: Transformer, corpus: Corpus, *, n_chunks: int, length: int, period: int) -> Sizes:
    """What is asked for, shortened to the context, the text and the vocabulary."""
    framed = 0 if model.config.causal else sum(map(len, template(model.tokenizer)))
    length = min(length, model.config.n_ctx, len(corpus.tokens) + framed)
    n_chunks = min(n_chunks, len(corpus.tokens) // max(length - framed, 1))
    return Sizes(length, framed, n_chunks, min(period, model.config.n_ctx // 2, len(drawable(model))))


def text(model: Model, corpus: Corpus, *, n: int, length: int) -> Inputs | None:
    """What the model is called with, None where the text has too few tokens."""
    if isinstance(model, Transformer):
        fitting = sizes(model, corpus, n_chunks=n, length=length, period=0)
        return examples(model, corpus, n, fitting.length) if fitting.enough else None
    try:
        return examples(model, corpus, n, length)
    except CorpusError:
        return None


def repeated_tokens(drawable: Sequence[int], n_sequences: int, period: int, *, seed: int) -> Int[Tensor, "batch pos"]:
    """`period` different tokens at random, twice, in every sequence (Olsson et al. 2022).

    >>> repeated_tokens(range(10, 20), 2, 3, seed=0).shape
    torch.Size([2, 6])
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.as_tensor(list(drawable))
    once = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:period]] for _ in range(n_sequences)])
    return torch.cat([once, once], dim=1)


def drawable(model: Transformer) -> list[int]:
    """The vocabulary without special tokens, and without rows of the embedding that no token has."""
    if model.tokenizer is None:
        return list(range(model.config.d_vocab))
    tokenizer = model.tokenizer
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} | set(tokenizer.backend.get_added_tokens_decoder())
    return [i for i in range(min(model.config.d_vocab, tokenizer.backend.get_vocab_size())) if i not in special]


def example(model: Model, corpus: Corpus, read: Inputs | None) -> Inputs:
    """One example without padding: the beginning of the text, or else the first prompt; of two stacks the first pair that was
    `read`. One token with the id 0 where there is nothing.
    """
    if isinstance(model, EncoderDecoder):
        return _pair(read) if read is not None else tuple(torch.zeros(1, 1, dtype=torch.long, device=model.device) for _ in range(2))
    most = min(EXAMPLE_TOKENS, model.config.n_ctx)
    beginning = text(model, corpus, n=1, length=most)
    if beginning is not None:
        return beginning
    if model.tokenizer is not None and corpus.prompts:
        return (model.tokenize([corpus.prompts[0].prompt])[0][:, :most],)
    return (
        corpus.tokens[None, :most].to(model.device) if len(corpus.tokens) else torch.zeros(1, 1, dtype=torch.long, device=model.device),
    )


def example_tokens(model: Model, shown: Inputs) -> list[tuple[str, list[str]]]:
    """The texts of the example's tokens, sequence by sequence: "text", or "source" and "target"."""
    if isinstance(model, Transformer):
        return [("text", _texts(model.tokenizer, shown[0]))]
    writer = model.target_tokenizer or model.tokenizer
    return [("source", _texts(model.tokenizer, shown[0])), ("target", _texts(writer, shown[1]))]


def _pair(read: Inputs) -> Inputs:
    """The first pair that can be shown whole, or else the first, cut."""
    masks = [
        torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
        for tokens, mask in zip(read[:2], (*read, None, None)[2:4], strict=True)
    ]
    fits = torch.stack([mask.sum(1) <= EXAMPLE_TOKENS for mask in masks]).all(0)
    row = int(fits.int().argmax())
    return tuple(tokens[row : row + 1, mask[row]][:, :EXAMPLE_TOKENS] for tokens, mask in zip(read[:2], masks, strict=True))


def _texts(tokenizer, tokens: Int[Tensor, "1 pos"]) -> list[str]:
    return [str(int(i)) for i in tokens[0]] if tokenizer is None else tokenizer.to_str_tokens(tokens[0])
