"""Planted induction: two attention layers set by hand, in which L0H1 and L1H2 do all the work. What must an analysis find?

The residual stream has four parts that do not overlap: `token` and `position`, one-hot; `previous`, where L0H1 writes the
token before; `answer`, where L1H2 writes and from which alone the unembedding reads.

    L0H1  previous-token head   query i asks for position i − 1; token there → `previous`
    L1H2  induction head        query token t asks for a key with `previous` = t; the key's token → `answer`  (Elhage et al. 2021)

Position 0 has nothing before it, so L0H1 reads position 0 itself there, and `previous` = `token`. Key and value of L1H2 are
made of previous − token and token − previous: 0 at position 0, which makes it a place to rest on that says nothing. A head
rests there while no token has come before; the model then knows nothing, and its loss is ln(d_vocab).
"""

from __future__ import annotations

from pathlib import Path

import torch

from model.config import TransformerConfig
from model.source import Source
from model.transformer import Transformer
from model.zoo._contract import ZooModel

D_VOCAB, N_CTX, N_HEADS = 48, 64, 4
D_HEAD = N_CTX
PREVIOUS_TOKEN_HEAD, INDUCTION_HEAD = (0, 1), (1, 2)
TOKEN, POSITION = slice(0, D_VOCAB), slice(D_VOCAB, D_VOCAB + N_CTX)
PREVIOUS, ANSWER = (slice(start, start + D_VOCAB) for start in (D_VOCAB + N_CTX, 2 * D_VOCAB + N_CTX))


@torch.no_grad()
def planted_induction(*, sharpness: float = 20.0, noise: float = 0.01, generator: torch.Generator | None = None) -> Transformer:
    """The model, in evaluation mode, its parameters not asking for gradients.

    `sharpness` is the score of a match before the softmax, half of it that of the resting place, and the logit of a copied
    token. The other six heads have normal weights of standard deviation `noise`, drawn from the generator (None: seed 0).
    Exact on sequences in which no token occurs twice before the repeat.

    Raises ValueError for a sharpness that is not positive or a negative noise.

    >>> model = planted_induction()
    >>> model(torch.tensor([[7, 3, 9, 7, 3]])).argmax(-1)[0, -2:]
    tensor([3, 9])
    """
    if not sharpness > 0:
        raise ValueError(f"sharpness must be positive, got sharpness={sharpness}")
    if not noise >= 0:
        raise ValueError(f"noise is a standard deviation and at least 0, got noise={noise}")
    config = TransformerConfig(
        family="planted-induction", n_layers=2, d_model=3 * D_VOCAB + N_CTX, n_heads=N_HEADS, d_head=D_HEAD, d_mlp=0, d_vocab=D_VOCAB,
        n_ctx=N_CTX, norm="none", final_norm=False, score_scale=1.0, tied_embeddings=False, k_bias=False, v_bias=False, attn_out_bias=False,
    )
    generator = generator or torch.Generator().manual_seed(0)
    model = Transformer(config, generator=generator).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    model.embedding.weight[:, TOKEN] = torch.eye(D_VOCAB)
    model.position_embedding.weight[:, POSITION] = torch.eye(N_CTX)
    model.unembed.unembedding.weight[:, ANSWER] = torch.eye(D_VOCAB)
    for block in model.blocks:
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            getattr(block.attn, name).weight.normal_(std=noise, generator=generator)
    _plant_previous_token(model, sharpness)
    _plant_induction(model, sharpness)
    model.source = Source(name="planted-induction", kind="initialised", licence="Apache-2.0")
    return model


def _plant_previous_token(model: Transformer, sharpness: float) -> None:
    query, key, value, out = _head(model, *PREVIOUS_TOKEN_HEAD)
    query[: N_CTX - 1, POSITION] = sharpness * torch.eye(N_CTX)[1:]  # position i asks for dimension i − 1
    key[:, POSITION] = torch.eye(N_CTX)
    value[:D_VOCAB, TOKEN] = torch.eye(D_VOCAB)
    out[PREVIOUS, :D_VOCAB] = torch.eye(D_VOCAB)


def _plant_induction(model: Transformer, sharpness: float) -> None:
    layer, head = INDUCTION_HEAD
    query, key, value, out = _head(model, layer, head)
    query[:D_VOCAB, TOKEN] = sharpness * torch.eye(D_VOCAB)
    key[:D_VOCAB, PREVIOUS], key[:D_VOCAB, TOKEN] = torch.eye(D_VOCAB), -torch.eye(D_VOCAB)
    model.blocks[layer].attn.W_Q.bias[head * D_HEAD + D_VOCAB] = sharpness / 2  # every query asks for the resting place too
    key[D_VOCAB, POSITION.start] = 1.0
    value[:D_VOCAB, TOKEN], value[:D_VOCAB, PREVIOUS] = torch.eye(D_VOCAB), -torch.eye(D_VOCAB)
    out[ANSWER, :D_VOCAB] = sharpness * torch.eye(D_VOCAB)


def _head(model: Transformer, layer: int, head: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views of one head's weights, set to 0: query, key and value [d_head, d_model], output [d_model, d_head]."""
    attn, rows = model.blocks[layer].attn, slice(head * D_HEAD, (head + 1) * D_HEAD)
    views = (attn.W_Q.weight[rows], attn.W_K.weight[rows], attn.W_V.weight[rows], attn.W_O.weight[:, rows])
    for view in views:
        view.zero_()
    return views


def read(path: Path | None, device: str | torch.device, dtype: torch.dtype) -> Transformer:
    """The model with its usual numbers; there is no file."""
    return planted_induction().to(device, dtype)


MODEL = ZooModel(
    name="planted-induction", title="Planted induction (2 layers × 4 heads, attention only, set by hand)", licence="Apache-2.0", read=read,
    text=None, prompts=None,
)
