"""How large is the residual stream, and who is large in it? Sink positions, massive activations, shares, and a growth rate.

A stack of residual streams is Float[state batch pos d_model]: `state` l is the stream after l blocks, l = 0 … n_layers.
A mask is True at real tokens (None: all are).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

States = Float[Tensor, "state batch pos d_model"]
Mask = Bool[Tensor, "batch pos"] | None


def sink_positions(norms: Float[Tensor, "state batch pos"], mask: Mask = None, *, factor: float = 10.0) -> Bool[Tensor, "batch pos"]:
    """The first real token, and every one whose norm exceeds `factor` times the median norm of its sequence in any state.

    >>> sink_positions(torch.tensor([[[1.0, 1.0, 30.0, 1.0, 2.0]]]))
    tensor([[ True, False,  True, False, False]])
    """
    real = _real(norms[0], mask)
    median = norms.masked_fill(~real, torch.nan).nanmedian(-1, keepdim=True).values
    first = real & (real.long().cumsum(1) == 1)
    return first | ((norms > factor * median).any(0) & real)


@dataclass(frozen=True)
class MassiveActivation:
    """One scalar of a residual stream that is far larger than the others of its hidden state."""

    state: int
    example: int
    position: int
    """index in the padded sequence"""
    dimension: int
    value: float
    ratio: float
    """magnitude over the median magnitude of the hidden state"""


def massive_activations(states: States, mask: Mask = None, *, least: float = 100.0, ratio: float = 1000.0) -> list[MassiveActivation]:
    """Scalars with |x| > `least` and |x| ≥ `ratio` × the median magnitude of their hidden state (Sun et al. 2024, section 2).

    The hidden state of a sequence is all of T × d_model after one block: with the median of the token's own vector
    instead, a token that holds nothing but large values would hide its own.
    """
    found = []
    for state, stream in enumerate(states):
        magnitude = stream.abs().to(torch.promote_types(stream.dtype, torch.float32))
        for example, (values, signed) in enumerate(zip(magnitude, stream, strict=True)):
            real = torch.ones(len(values), dtype=torch.bool, device=values.device) if mask is None else mask[example]
            median = float(values[real].median())
            large = (values > least) & (values >= ratio * median) & real[:, None]
            for position, dimension in large.nonzero().tolist():
                value = float(signed[position, dimension])
                found.append(MassiveActivation(state, example, position, dimension, value, abs(value) / median if median else float("inf")))
    return found


def largest_share(stream: Float[Tensor, "... d_model"], k: int) -> Float[Tensor, "..."]:
    """The share of ‖x‖² that the k largest coordinates of x hold: k/d where all are equal, 1 where the others are 0.

    >>> largest_share(torch.tensor([3.0, 4.0, 0.0]), 1)
    tensor(0.6400)
    """
    squares = stream.to(torch.promote_types(stream.dtype, torch.float32)).square()
    return squares.topk(min(k, stream.shape[-1]), dim=-1).values.sum(-1) / squares.sum(-1)


@dataclass(frozen=True)
class Growth:
    """How the norm grows with the number of blocks l. R² of each curve is on the same points, l ≥ 1, in log norm."""

    rate: float
    """g of ‖x_l‖ ~ g^l (Heimersheim & Turner 2023: 1.045 in GPT-2 XL)"""
    r2_exponential: float
    power: float
    """p of ‖x_l‖ ~ l^p"""
    r2_power: float
    r2_square_root: float
    """of ‖x_l‖ ~ √l, what independent additions of equal size give"""
    n_states: int


def fit_growth(mean_log_norm: Float[np.ndarray, "state"]) -> Growth:
    """Least squares on the mean of ln ‖x_l[t]‖ over positions t, for l = 1 … n_layers; NaN with fewer than three states.

    >>> round(fit_growth(np.log(2.0) * np.arange(6)).rate, 6)
    2.0
    """
    y = np.asarray(mean_log_norm, dtype=float)[1:]
    if len(y) < 3 or not np.isfinite(y).all():
        return Growth(np.nan, np.nan, np.nan, np.nan, np.nan, len(y))
    depth = np.arange(1, len(y) + 1, dtype=float)
    slope, r2_exponential = _line(depth, y)
    power, r2_power = _line(np.log(depth), y)
    half = np.log(depth) / 2
    r2_square_root = _r2(y, half - half.mean() + y.mean())
    return Growth(float(np.exp(slope)), r2_exponential, power, r2_power, r2_square_root, len(y))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    slope, intercept = np.polyfit(x, y, 1)
    return float(slope), _r2(y, slope * x + intercept)


def _r2(y: np.ndarray, fitted: np.ndarray) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread else float("nan")


def _real(like: Float[Tensor, "batch pos"], mask: Mask) -> Bool[Tensor, "batch pos"]:
    return torch.ones_like(like, dtype=torch.bool) if mask is None else mask
