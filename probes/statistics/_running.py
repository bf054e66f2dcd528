"""How do means and spreads of two halves make those of the whole? Central moments that merge without cancellation."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from probes.statistics._contract import Part, exact, to_numpy
from probes.statistics._sites import divided


def moments_of(values: Float[Tensor, "token *axes"]) -> Part:
    """Number of tokens n, mean, Σ(x − mean)ᵖ for p = 2, 3, 4, and the largest |x|, over the tokens."""
    values = exact(values)
    if not len(values):
        empty = np.zeros(values.shape[1:])
        return {"n": np.zeros(()), "mean": empty, "m2": empty, "m3": empty, "m4": empty, "largest": np.full_like(empty, -np.inf)}
    mean = values.mean(0)
    apart = values - mean
    square = apart.square()
    parts = {
        "mean": mean,
        "m2": square.sum(0),
        "m3": (square * apart).sum(0),
        "m4": square.square().sum(0),
        "largest": values.abs().amax(0),
    }
    return {"n": np.array(float(len(values)))} | {name: to_numpy(part) for name, part in parts.items()}


def join_moments(a: Part, b: Part) -> Part:
    """Chan, Golub & LeVeque (1983) for mean and m2, Pébay (2008, equation 3.1) for m3 and m4."""
    n_a, n_b = a["n"], b["n"]
    n = n_a + n_b
    if n == 0:
        return a
    gap = b["mean"] - a["mean"]
    m2 = a["m2"] + b["m2"] + gap**2 * n_a * n_b / n
    m3 = a["m3"] + b["m3"] + gap**3 * n_a * n_b * (n_a - n_b) / n**2 + 3 * gap * (n_a * b["m2"] - n_b * a["m2"]) / n
    m4 = (
        a["m4"] + b["m4"] + gap**4 * n_a * n_b * (n_a**2 - n_a * n_b + n_b**2) / n**3
        + 6 * gap**2 * (n_a**2 * b["m2"] + n_b**2 * a["m2"]) / n**2 + 4 * gap * (n_a * b["m3"] - n_b * a["m3"]) / n
    )  # fmt: skip
    mean = a["mean"] + gap * (n_b / n) if n_b <= n_a else b["mean"] - gap * (n_a / n)
    return {"n": n, "mean": mean, "m2": m2, "m3": m3, "m4": m4, "largest": np.maximum(a["largest"], b["largest"])}


def described(part: Part) -> dict[str, np.ndarray]:
    """Mean, variance (of the tokens, divided by n), kurtosis (3 for a Gaussian) and the largest magnitude; NaN where undefined."""
    n, some = part["n"], part["n"] > 0
    variance = divided(part["m2"], n)
    with np.errstate(invalid="ignore", divide="ignore"):
        kurtosis = np.where(variance > 0, divided(part["m4"], n) / variance**2, np.nan)
    mean, largest = (np.where(some, part[name], np.nan) for name in ("mean", "largest"))
    return {"mean": mean, "variance": variance, "kurtosis": kurtosis, "largest": largest}
