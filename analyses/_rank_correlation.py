"""Do two rankings agree? Spearman's rank correlation, ties by their mean rank (Spearman 1904)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float


def rank_correlation(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> float:
    """From −1 to 1; NaN where there are fewer than three values, or all values of one side are equal.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 10.0, 100.0]))
    1.0
    """
    ranks = [pd.Series(np.asarray(values, dtype=float)).rank().to_numpy() for values in (first, second)]
    if len(ranks[0]) < 3 or any(np.ptp(r) == 0 for r in ranks):
        return float("nan")
    centred = [r - r.mean() for r in ranks]
    return float(np.clip(centred[0] @ centred[1] / np.sqrt((centred[0] @ centred[0]) * (centred[1] @ centred[1])), -1, 1).round(12))
