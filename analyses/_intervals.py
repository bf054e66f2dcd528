"""How sure is a mean over examples? Bootstrap percentile intervals (Efron & Tibshirani 1993, chapter 13)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float


def bootstrap_mean(values: Float[np.ndarray, "... examples"], *, seed: int, confidence: float = 0.95, n_resamples: int = 2000) -> tuple[np.ndarray, np.ndarray]:
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
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_resamples)  # resamples examples
    means = values @ counts.T / n  # ... resamples
    tail = (1 - confidence) / 2
    return np.quantile(means, tail, axis=-1), np.quantile(means, 1 - tail, axis=-1)
