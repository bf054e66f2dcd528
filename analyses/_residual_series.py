"""How do rows of a table become lines and words?"""

from __future__ import annotations

import pandas as pd

from reports import Series, format_number

BAND = "Bands hold 5–95 % of the tokens"


def of(frame: pd.DataFrame, version: str) -> pd.DataFrame:
    """The rows over these positions."""
    return frame[frame.positions == version]


def line(frame: pd.DataFrame, column: str) -> Series:
    """A line without a band."""
    return Series(y=frame[column].to_numpy(dtype=float))


def band(frame: pd.DataFrame, name: str) -> Series:
    """The median with a band from the 5th to the 95th percentile."""
    y, low, high = (frame[f"{name}_{part}"].to_numpy(dtype=float) for part in ("median", "p05", "p95"))
    return Series(y=y, low=low, high=high)


def span(values: pd.Series) -> str:
    """The smallest and the largest value."""
    return f"{format_number(float(values.min()))} to {format_number(float(values.max()))}"


def count(frame: pd.DataFrame) -> str:
    """How many tokens there are."""
    return f"{int(frame.n_tokens.max()):,} tokens"


def first(frame: pd.DataFrame, condition: pd.Series) -> str:
    """After how many blocks a condition first holds, in words where it never does."""
    return str(int(frame[condition].state.min())) if condition.any() else "none"


def lasting(frame: pd.DataFrame, condition: pd.Series) -> str:
    """After how many blocks a condition holds for good, in words where it does not in the end."""
    n = int(condition[::-1].cumprod().sum())
    return str(int(frame.state.max()) - n + 1) if n else "none"
