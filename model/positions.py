"""How does a token know where it stands? Positions counted from the mask, and the sinusoids of the paper."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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


def sinusoids(positions: Int[Tensor, "rows pos"], d_model: int) -> Float[Tensor, "rows pos d_model"]:
    """Sine of position / 10000^(2i/d_model) in the first half of the coordinates, cosine in the second, in fp32.

    The paper (Vaswani et al. 2017, section 3.5) alternates them; which coordinate holds which is a matter of naming, and
    the trained checkpoints that use sinusoids (Marian) hold them in halves.
    """
    n_sines = (d_model + 1) // 2
    exponents = 2 * torch.arange(n_sines, device=positions.device).double() / d_model
    angles = positions.unsqueeze(-1).double() / 10000.0**exponents  # rows pos d_model/2
    return torch.cat((angles.sin(), angles[..., : d_model - n_sines].cos()), dim=-1).float()
