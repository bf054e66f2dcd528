"""How sure is a mean over examples? Bootstrap percentile intervals (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def bootstrap_mean(
    values: Float[np.ndarray, "... examples"], *, seed: int, confidence: float = 0.95, n_resamples: int = 2000
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of the interval of the mean over the last axis; NaN where there are fewer than two examples.

    All leading entries share their resamples, so that intervals of heads compare.

    >>> low, high = bootstrap_mean(np.arange(100.0), seed=0)
    >>> bool(43 < low < 49.5 < high < 56)
    True
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[-1]
    if n < 2:
        return np.full(values.shape[:-1], np.nan), np.full(values.shape[:-1], np.nan)
    return percentiles(values @ resamples(n, seed=seed, n_resamples=n_resamples).T / n, confidence)


def resamples(n: int, *, seed: int, n_resamples: int = 2000) -> Int[np.ndarray, "resamples examples"]:
    """How often each of n examples is drawn in each resample."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)


def percentiles(values: Float[np.ndarray, "... resamples"], confidence: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """The ends between which this share of the last axis lies."""
    tail = (1 - confidence) / 2
    return np.quantile(values, tail, axis=-1), np.quantile(values, 1 - tail, axis=-1)
