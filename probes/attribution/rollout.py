"""Attention rollout: how much of each token is in each state, if attention alone moved it? (Abnar & Zuidema 2020, section 3.)

Ã_l = ½ (mean over heads of A_l) + ½ I, rolled out from the bottom: Ã_L ⋯ Ã_1. The half stands for the residual connection, whatever its true
share is; values, output matrices, norms and feed-forward networks are left out. A view of the weights, not an attribution: nothing adds up
to the metric.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import SiteError


def attention_rollout(patterns: Sequence[Float[Tensor, "batch head pos pos"]]) -> Float[Tensor, "batch query key"]:
    """Share of every token (key) in every state behind the last of the layers, whose patterns are given from the bottom up.

    Rows sum to 1; those of a query that sees nothing (padding) hold its own token alone. Raises SiteError for no pattern, and for
    patterns that are not of one self-attention.

    >>> pattern = torch.tensor([[[[1.0, 0.0], [0.5, 0.5]]]])
    >>> attention_rollout([pattern, pattern])
    tensor([[[1.0000, 0.0000],
             [0.4375, 0.5625]]])
    """
    shapes = {tuple(pattern.shape[::3]) + tuple(pattern.shape[2:3]) for pattern in patterns}  # batch key query
    if len(shapes) != 1 or any(key != query for _, key, query in shapes):
        raise SiteError(
            f"rollout needs square patterns of one batch, a layer each, got shapes {[tuple(pattern.shape) for pattern in patterns]}"
        )
    eye = torch.eye(patterns[0].shape[-1], dtype=patterns[0].dtype, device=patterns[0].device)
    rolled = eye.expand(len(patterns[0]), -1, -1)
    for pattern in patterns:
        mixed = (pattern.mean(1) + eye) / 2  # batch query key
        rolled = mixed / mixed.sum(-1, keepdim=True) @ rolled
    return rolled
