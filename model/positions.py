"""How does a token know where it stands? Positions counted from the mask, and the rotation of queries and keys."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""cosine and sine tables, each Float[rows pos d_head], rows being 1 or batch"""


def count_positions(tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None) -> Int[Tensor, "rows pos"]:
    """Position of every token among the real ones of its row, from 0, so that padding on either side changes nothing.

    Padding itself gets the position of the real token before it (0 if there is none). Without a mask all rows agree
    and one is returned.

    >>> count_positions(torch.zeros(1, 4, dtype=torch.long), torch.tensor([[False, True, True, False]]))
    tensor([[0, 0, 1, 1]])
    """
    if mask is None:
        return torch.arange(tokens.shape[1], device=tokens.device).unsqueeze(0)
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def rotation(positions: Int[Tensor, "rows pos"], d_head: int, base: float, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of position · base^(−2i/d_head) (Su et al. 2021, eq. 15), laid out in halves as Llama does.

    Angles are computed in fp32, as the checkpoints were trained, and rounded to `dtype` last.
    """
    exponents = torch.arange(0, d_head, 2, device=positions.device).float() / d_head
    angles = positions.unsqueeze(-1).float() * (1.0 / base**exponents)  # rows pos d_head/2
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Float[Tensor, "batch pos head d_head"], tables: Rotation) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each pair (i, i + d_head/2) of every head by its position's angle."""
    cos, sin = (table.unsqueeze(2) for table in tables)  # rows pos 1 d_head
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
