"""How large is the step at step t? Warm-up, then decay; every schedule is a plain function of the step, counted from 1."""

from __future__ import annotations

import math
from typing import Literal

Decay = Literal["inverse_sqrt", "cosine", "none"]


def inverse_sqrt(step: int, *, peak: float, warmup: int) -> float:
    """peak · min(step / warmup, √(warmup / step)): linear up to `peak` at step `warmup`, then ∝ 1/√step.

    With peak = (d_model · warmup)^(−1/2) this is d_model^(−1/2) · min(step^(−1/2), step · warmup^(−3/2)) (Vaswani et al.
    2017, equation 3). Without warm-up the peak is at step 1. Raises ValueError as `ramp` does.

    >>> [round(inverse_sqrt(step, peak=1.0, warmup=4), 3) for step in (1, 2, 4, 16)]
    [0.25, 0.5, 1.0, 0.5]
    """
    return peak * min(ramp(step, warmup), math.sqrt(max(warmup, 1) / step))


def cosine(step: int, *, peak: float, warmup: int, steps: int, floor: float = 0.0) -> float:
    """Linear up to `peak` at step `warmup`, then half a cosine down to `floor` at step `steps` (Loshchilov & Hutter 2017).

    Behind `steps` it stays at `floor`. Raises ValueError as `ramp` does, and unless warmup < steps.

    >>> [round(cosine(step, peak=1.0, warmup=2, steps=10), 3) for step in (1, 2, 6, 10)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if not warmup < steps:
        raise ValueError(f"the warm-up must end before the last step, got warmup={warmup}, steps={steps}")
    if step <= warmup:
        return peak * ramp(step, warmup)
    done = min((step - warmup) / (steps - warmup), 1.0)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


def ramp(step: int, warmup: int) -> float:
    """The share of the peak that warm-up has reached: min(step / warmup, 1).

    Raises ValueError for a step before the first, and a negative warm-up.

    >>> ramp(1, 4), ramp(9, 4), ramp(1, 0)
    (0.25, 1.0, 1.0)
    """
    if step < 1:
        raise ValueError(f"steps are counted from 1, got step={step}")
    if warmup < 0:
        raise ValueError(f"warmup is a number of steps and at least 0, got warmup={warmup}")
    return 1.0 if step >= warmup else step / warmup


def vaswani_peak(d_model: int, warmup: int) -> float:
    """(d_model · warmup)^(−1/2): the largest learning rate of the paper, reached at the end of its warm-up.

    >>> round(vaswani_peak(512, 4000), 6)
    0.000699
    """
    return (d_model * warmup) ** -0.5
