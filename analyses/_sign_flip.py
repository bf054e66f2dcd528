"""Which of many means differ from 0? Sign-flip permutation of the largest statistic (Nichols & Holmes 2002; Westfall & Young 1993).

If a mean is 0 and its values are symmetric, flipping the signs of examples changes nothing in distribution. All columns share their flips, so
that the largest statistic over columns keeps their dependence: a p below 0.05 is wrong for any column in at most 5 % of experiments.
"""

from __future__ import annotations

import itertools

import numpy as np
from jaxtyping import Float

EXACT = 13
"""up to so many examples, every pattern of signs is taken"""


def family_wise_p(values: Float[np.ndarray, "tests examples"], *, seed: int, n_flips: int = 8192) -> Float[np.ndarray, "tests"]:
    """Two-sided p of each test's mean, corrected for all of them; the least possible is 2 / 2ⁿ for n examples. NaN below two examples.

    The statistic is |Σx| / √Σx², which orders as |t| does; a test whose values are all 0 has p = 1.

    >>> values = np.random.default_rng(0).normal(size=(50, 12)); values[7] += 10
    >>> p = family_wise_p(values, seed=0)
    >>> int((p < 0.05).sum()), bool(p[7] < 0.001)
    (1, True)
    """
    values = np.asarray(values, dtype=float)
    n = values.shape[-1]
    if n < 2:
        return np.full(len(values), np.nan)
    if n <= EXACT:  # a pattern and its opposite give the same: the first sign is fixed
        signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=n - 1)], dtype=float)
    else:
        drawn = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_flips, n))
        signs = np.concatenate([np.ones((1, n)), drawn])  # what was observed is one of them
    length = np.sqrt((values**2).sum(-1))
    scaled = values / np.where(length > 0, length, 1.0)[:, None]
    largest = np.abs(signs @ scaled.T).max(1)  # flips
    observed = np.abs(scaled.sum(-1))
    return (largest[None] >= observed[:, None] - 1e-12).mean(1)
