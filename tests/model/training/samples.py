"""Which small models and batches are trained in the tests?"""

from __future__ import annotations

import torch
from torch import Tensor

from model import Dropout, EncoderDecoder, EncoderDecoderConfig, Transformer, TransformerConfig

SHAPE = {"n_layers": 2, "d_model": 32, "n_heads": 2, "d_head": 16, "d_mlp": 64, "d_vocab": 23, "n_ctx": 16}
NO_DROPOUT = Dropout()
DROPOUT = Dropout(embed=0.1, pattern=0.1, sublayer=0.1, mlp=0.1)


def decoder(dropout: Dropout = NO_DROPOUT, seed: int = 0, **design: object) -> Transformer:
    return Transformer(TransformerConfig(**SHAPE, dropout=dropout, **design), generator=torch.Generator().manual_seed(seed))


def encoder() -> Transformer:
    return decoder(causal=False, head="mlm", norm_place="post")


def encoder_decoder() -> EncoderDecoder:
    stacks = {"encoder": TransformerConfig(**SHAPE, causal=False, head="none"), "decoder": TransformerConfig(**SHAPE)}
    return EncoderDecoder(EncoderDecoderConfig(**stacks), generator=torch.Generator().manual_seed(0))


def ragged(n: int = 4, rows: int = 2, pos: int = 9, seed: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Batches of random tokens, each with more padding than the one before."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for i in range(n):
        mask = torch.ones(rows, pos, dtype=torch.bool)
        mask[:, pos - i % (pos - 2) :] = i == 0
        batches.append((torch.randint(5, SHAPE["d_vocab"], (rows, pos), generator=generator), mask))
    return batches


def joined_rows(batches: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """One batch of all rows."""
    return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
