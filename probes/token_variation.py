"""How different are the tokens of a sequence still? The share of the stream that is not common to all of them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def token_variation(stream: Float[Tensor, "batch pos d_model"], mask: Bool[Tensor, "batch pos"] | None = None) -> Float[Tensor, "batch"]:
    """ρ = ‖X − 1x̄ᵀ‖_F / ‖X‖_F of each example, x̄ the mean of its real tokens: 0 where all are one vector, which is rank collapse.

    X − 1x̄ᵀ is the residual of Dong et al. (2021, section 2.1) with the mean in place of their best common vector; in the Frobenius
    norm the mean is the best. NaN for an example of zeros. It is computed in fp64; but where a norm magnifies what is left of the
    differences it magnifies rounding, too, so that a value below about 1e-6 of a model in fp32 means nothing.

    Raises ValueError for a mask of another shape than the stream's, and for an example without a real token.

    >>> token_variation(torch.tensor([[[3.0, 4.0], [3.0, 4.0]], [[3.0, 4.0], [-3.0, -4.0]]])).tolist()
    [0.0, 1.0]
    """
    mask = torch.ones(stream.shape[:2], dtype=torch.bool, device=stream.device) if mask is None else mask
    if mask.shape != stream.shape[:2]:
        raise ValueError(f"mask must have the shape of the stream's tokens {tuple(stream.shape[:2])}, got {tuple(mask.shape)}")
    if not bool((n := mask.sum(1)).all()):
        raise ValueError(f"every example needs a real token, got none in example {int(n.argmin())}")
    x = stream.double().masked_fill(~mask[..., None], 0.0)  # batch pos d_model
    mean = x.sum(1, keepdim=True) / n[:, None, None]
    apart = (x - mean).masked_fill(~mask[..., None], 0.0)
    return apart.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
