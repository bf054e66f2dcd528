"""Do two numbers order the keys of a row alike? Spearman's rank correlation of every row of two score matrices."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats
from torch import Tensor


def row_rank_correlation(
    first: Float[Tensor, "batch head query key"], second: Float[Tensor, "batch head query key"], *, least: int
) -> Float[np.ndarray, "batch"]:
    """Mean over heads and over the rows that see at least `least` keys, causally: row i sees the keys 0 to i (Spearman 1904).

    Rows whose values are all equal on one side are left out.

    >>> import torch
    >>> scores = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> row_rank_correlation(scores, scores.exp(), least=4).round(6).tolist(), row_rank_correlation(scores, -scores, least=4).round(6).tolist()
    ([1.0, 1.0], [-1.0, -1.0])
    """
    a, b = (np.asarray(scores.detach().double()) for scores in (first, second))
    rows = [rank_correlation(a[:, :, i, : i + 1], b[:, :, i, : i + 1]) for i in range(least - 1, a.shape[2])]
    return np.nanmean(np.stack(rows, axis=-1), axis=(1, 2))


def rank_correlation(a: Float[np.ndarray, "... key"], b: Float[np.ndarray, "... key"]) -> Float[np.ndarray, "..."]:
    """Of the values along the last axis, ties sharing their mean rank; NaN where all values of one side are equal.

    >>> float(rank_correlation(np.array([1.0, 2.0, 2.0]), np.array([0.0, 5.0, 5.0])).round(6))
    1.0
    """
    ranks = [stats.rankdata(values, axis=-1) for values in (a, b)]
    x, y = (r - r.mean(-1, keepdims=True) for r in ranks)
    with np.errstate(invalid="ignore"):
        return (x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
