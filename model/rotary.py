"""How are queries and keys turned by their position, and how is that stretched to longer contexts?"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from model.config import Rotary, RotaryScaling

Rotation = tuple[Tensor, Tensor]
"""cosine and sine tables, each Float[rows pos dims/2], rows being 1 or batch"""


def rotation(positions: Int[Tensor, "rows pos"], rotary: Rotary, d_head: int, dtype: torch.dtype) -> Rotation:
    """Cosine and sine of position · base^(−2i/dims) (Su et al. 2021, eq. 15).

    Angles are computed in fp32, as the checkpoints were trained, and rounded to `dtype` last.
    """
    frequencies, factor = stretched(rotary, d_head, positions.device)
    angles = positions.unsqueeze(-1).float() * frequencies  # rows pos dims/2
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(x: Float[Tensor, "batch pos head d_head"], tables: Rotation, rotary: Rotary) -> Float[Tensor, "batch pos head d_head"]:
    """Turn each pair of the first `dims` dimensions of every head by its position's angle; the rest stay."""
    cos, sin = (table.unsqueeze(2) for table in tables)  # rows pos 1 dims/2
    dims = 2 * cos.shape[-1]
    turning, rest = x[..., :dims], x[..., dims:]
    first, second = turning.chunk(2, dim=-1) if rotary.pairs == "halves" else (turning[..., 0::2], turning[..., 1::2])
    turned = (first * cos - second * sin, second * cos + first * sin)
    turned = torch.cat(turned, dim=-1) if rotary.pairs == "halves" else torch.stack(turned, dim=-1).flatten(-2)
    return turned if dims == x.shape[-1] else torch.cat((turned, rest), dim=-1)


def stretched(rotary: Rotary, d_head: int, device: torch.device) -> tuple[Float[Tensor, "dims/2"], float]:
    """The angle of one step for each pair, and the factor on cosine and sine (1 but for yarn)."""
    dims, scaling = rotary.dims or d_head, rotary.scaling
    exponents = torch.arange(0, dims, 2, device=device).float() / dims
    if scaling is None:
        return 1.0 / rotary.base**exponents, 1.0
    if scaling.kind == "ntk":
        return 1.0 / (rotary.base * scaling.factor ** (dims / (dims - 2))) ** exponents, 1.0
    plain = 1.0 / rotary.base**exponents
    if scaling.kind == "linear":
        return plain / scaling.factor, 1.0
    if scaling.kind == "llama3":
        return _llama3(plain, scaling), 1.0
    factor = scaling.attention_factor
    return _yarn(plain, rotary.base, dims, scaling), 0.1 * math.log(scaling.factor) + 1.0 if factor is None else factor


def _llama3(plain: Tensor, scaling: RotaryScaling) -> Tensor:
    """Wavelengths beyond original/low are stretched, those below original/high kept, those between blended."""
    wavelengths = 2 * math.pi / plain
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((scaling.original_n_ctx / wavelengths - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / scaling.factor + kept * plain


def _yarn(plain: Tensor, base: float, dims: int, scaling: RotaryScaling) -> Tensor:
    """Pairs that turn more than beta_fast times over the training context are kept, those below beta_slow stretched."""

    def pair_with(turns: float) -> float:
        return dims * math.log(scaling.original_n_ctx / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    ramp = ((torch.arange(dims // 2, device=plain.device).float() - low) / max(high - low, 1e-3)).clamp(0, 1)
    return plain * (1 - ramp) + plain / scaling.factor * ramp
