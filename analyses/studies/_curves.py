"""How is a training drawn? Its steps in a few parts of equal length, of each the mean."""

from __future__ import annotations

import pandas as pd

PARTS = 25
"""points of a learning curve"""


def in_parts(history: pd.DataFrame, *columns: str, parts: int = PARTS) -> list[dict[str, float]]:
    """Mean of `step` and of the columns over each part of the steps, in their order; a short training has a part for every step.

    >>> in_parts(pd.DataFrame({"step": [1, 2, 3, 4], "loss": [4.0, 2.0, 1.0, 1.0]}), "loss", parts=2)
    [{'step': 1.5, 'loss': 3.0}, {'step': 3.5, 'loss': 1.0}]
    """
    part = pd.Series(range(len(history)), index=history.index) * min(parts, len(history)) // len(history)
    return history[["step", *columns]].astype(float).groupby(part).mean().to_dict("records")
