"""How does a cost grow with length? cost(n) = c + a·n + b·n² with no negative part, by least squares of the relative error.

One exponent over all lengths hides the sum of a linear and a quadratic part: it says "sub-quadratic" for a function that is exactly both.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Fit:
    """Constant, linear and quadratic coefficient, none negative."""

    c: float
    a: float
    b: float

    @property
    def crossover(self) -> float:
        """The length from which on the quadratic part is the larger of the two: a / b; infinite without a quadratic part."""
        return self.a / self.b if self.b > 0 else float("inf")

    def parts(self, n: Float[np.ndarray, "lengths"]) -> Float[np.ndarray, "3 lengths"]:
        """Constant, linear and quadratic part at every length."""
        n = np.asarray(n, dtype=float)
        return np.stack([np.full_like(n, self.c), self.a * n, self.b * n**2])


def fit_quadratic(n: Float[np.ndarray, "lengths"], cost: Float[np.ndarray, "lengths"]) -> Fit:
    """The non-negative least-squares fit with weights 1 / cost². Exact: every set of coefficients that may be above 0 is tried.

    Raises ValueError for fewer than three lengths or a cost that is not positive.

    >>> n = np.array([32.0, 64.0, 128.0, 256.0])
    >>> fit = fit_quadratic(n, 5 + 2 * n + 0.01 * n**2)
    >>> round(fit.c, 6), round(fit.a, 6), round(fit.b, 6), round(fit.crossover)
    (5.0, 2.0, 0.01, 200)
    """
    n, cost = np.asarray(n, dtype=float), np.asarray(cost, dtype=float)
    if len(np.unique(n)) < 3:
        raise ValueError(f"a fit of three coefficients needs at least 3 different lengths, got {len(np.unique(n))}")
    if not (cost > 0).all():
        raise ValueError(f"the relative error needs costs above 0, got {cost.min()}")
    unit = n.max()
    columns = np.stack([np.ones_like(n), n / unit, (n / unit) ** 2], axis=1) / cost[:, None]  # lengths 3, well scaled
    best, least = np.zeros(3), np.inf
    for size in (1, 2, 3):
        for active in itertools.combinations(range(3), size):
            found = np.linalg.lstsq(columns[:, active], np.ones(len(n)), rcond=None)[0]
            error = float(np.sum((columns[:, active] @ found - 1) ** 2))
            if (found >= 0).all() and error < least * (1 - 1e-12):
                best, least = np.zeros(3), error
                best[list(active)] = found
    return Fit(float(best[0]), float(best[1] / unit), float(best[2] / unit**2))


def bootstrap_fits(
    n: Float[np.ndarray, "lengths"], costs: Float[np.ndarray, "lengths repeats"], *, seed: int, n_resamples: int = 500
) -> list[Fit]:
    """Fits to the medians of resampled repeats, each length on its own (Efron & Tibshirani 1993)."""
    generator = np.random.default_rng(seed)
    drawn = generator.integers(costs.shape[1], size=(n_resamples, *costs.shape))
    medians = np.median(np.take_along_axis(np.broadcast_to(costs, drawn.shape), drawn, axis=2), axis=2)
    return [fit_quadratic(n, one) for one in medians]


def percentile_interval(values: list[float], confidence: float = 0.95) -> tuple[float, float]:
    """Ends of the percentile interval; they are among the values, so that infinite ones are kept as such."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(values, dtype=float), [tail, 1 - tail], method="inverted_cdf")
    return float(low), float(high)
