"""What is an effect over many examples, and how sure is it? Means, intervals, and the share of a gap that is recovered."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import ArrayLike

from probes.errors import SiteError
from probes.intervals import bootstrap_mean, percentiles, resamples

BY = ("site", "layer", "head", "position")
LEAST_SHARE, LEAST_ERRORS = 0.1, 5.0
"""a gap below this share of the clean metric, or below so many of its standard errors, is none"""


def summarise(table: pd.DataFrame, by: Sequence[str] = BY, *, value: str = "effect", seed: int = 0) -> pd.DataFrame:
    """A row per node: mean over examples, standard error, 95 % interval.

    `table` is that of `sweep` or, with `value="estimate"`, of `attribution_patching`. The interval is the bootstrap's by
    percentiles; all rows share their resamples. It is too narrow for few examples: at 8 normal ones it covers about 88 %.

    Columns: those of `by`, `mean`, `standard_error`, `low`, `high` (NaN for fewer than two examples), `n`. `attrs` are kept.

    Raises SiteError for a column that is not there, for rows that `by` does not tell apart, and for nodes with other examples.

    >>> rows = pd.DataFrame({"site": ["a", "a", "b", "b"], "example": [0, 1, 0, 1], "effect": [1.0, 3.0, 0.0, 0.0]})
    >>> summarise(rows, by=["site"])[["site", "mean", "standard_error", "n"]].values.tolist()
    [['a', 2.0, 1.0, 2], ['b', 0.0, 0.0, 2]]
    """
    labels, values = _by_example(table, by, value)
    low, high = bootstrap_mean(values, seed=seed)
    n = values.shape[1]
    found = labels.assign(mean=values.mean(1), standard_error=_standard_error(values), low=low, high=high, n=n)
    found.attrs = dict(table.attrs)
    return found


def recovery(
    table: pd.DataFrame, clean: ArrayLike | None = None, corrupt: ArrayLike | None = None, by: Sequence[str] = BY, *, seed: int = 0
) -> pd.DataFrame:  # fmt: skip
    """How much of the gap between corrupt and clean metric each edit leaves or brings back: (edited − corrupt) / (clean − corrupt).

    1 is the clean metric, 0 the corrupt one, whichever run was edited. `clean` and `corrupt` hold the metric of every example, in
    the order of their numbers; None takes them from the columns of that name, which `patching` gives. `recovery` is the ratio of the means, with its bootstrap percentile interval (examples are drawn with all three
    of their numbers); `per_example` is the mean of the examples' own ratios, which one example with a small gap can carry off.

    Columns: those of `by`, `recovery`, `low`, `high`, `per_example`, `n`. Raises SiteError as `summarise` does, and for a
    degenerate task: see `check_gap`.

    >>> rows = pd.DataFrame({"site": ["a", "a"], "example": [0, 1], "edited": [1.0, 2.0]})
    >>> recovery(rows, [4.0, 4.1], [0.0, 0.1], by=["site"])[["site", "recovery"]].round(3).values.tolist()
    [['a', 0.362]]
    """
    labels, edited = _by_example(table, by, "edited")
    clean, corrupt = (
        _by_example(table, by, name)[1][0] if metric is None else np.asarray(metric, dtype=float)
        for name, metric in (("clean", clean), ("corrupt", corrupt))
    )
    if not clean.shape == corrupt.shape == edited.shape[1:]:
        raise SiteError(
            f"clean and corrupt must hold one number for each of {edited.shape[1]} examples, got {clean.shape} and {corrupt.shape}"
        )
    check_gap(clean, corrupt, unit=str(table.attrs.get("unit", "")))
    gap, gained = clean - corrupt, edited - corrupt
    low = high = np.full(len(labels), np.nan)
    if len(clean) > 1:
        drawn = resamples(len(clean), seed=seed).T  # examples resamples
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = percentiles(gained @ drawn / (gap @ drawn))
    with np.errstate(divide="ignore", invalid="ignore"):
        per_example = (gained / gap).mean(1)
    found = labels.assign(recovery=gained.mean(1) / gap.mean(), low=low, high=high, per_example=per_example, n=len(clean))
    found.attrs = dict(table.attrs) | {"unit": "1"}
    return found


def check_gap(clean: ArrayLike, corrupt: ArrayLike, *, unit: str = "") -> None:
    """Raises SiteError for a degenerate task: clean and corrupt metric differ, on average, by less than 10 % of the clean one,
    or by less than 5 standard errors of the difference. What an edit recovers of such a gap is noise. So it does for no example, and for a metric that is not finite.

    >>> check_gap([3.0, 3.5, 3.1], [-2.0, -2.5, -2.2])
    """
    clean, corrupt = (np.asarray(metric, dtype=float) for metric in (clean, corrupt))
    if not clean.size or not (np.isfinite(clean).all() and np.isfinite(corrupt).all()):
        raise SiteError(f"the metric must be a finite number for each of at least one example, got clean {clean} and corrupt {corrupt}")
    gap, unit = clean - corrupt, f" {unit}" if unit else ""
    mean, whole = float(gap.mean()), float(clean.mean())
    if mean == 0 or abs(mean) < LEAST_SHARE * abs(whole):
        raise SiteError(f"the task is degenerate: clean and corrupt differ by {mean:.3g}{unit}, less than 10 % of the clean {whole:.3g}")
    error = float(_standard_error(gap))
    if abs(mean) < LEAST_ERRORS * error:
        raise SiteError(
            f"the task is degenerate: clean and corrupt differ by {mean:.3g}{unit}, less than 5 standard errors of {error:.3g} (n={len(gap)})"
        )


def _by_example(table: pd.DataFrame, by: Sequence[str], value: str) -> tuple[pd.DataFrame, Float[np.ndarray, "nodes examples"]]:
    """What tells the nodes apart, and a row of values for each, by example."""
    by = list(by)
    if missing := [name for name in (*by, "example", value) if name not in table.columns]:
        raise SiteError(f"the table has no column {missing[0]!r}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise SiteError("a summary needs at least one row, got none")
    groups = table.groupby(by, dropna=False, sort=False).ngroup().to_numpy()
    examples, column = np.unique(table["example"].to_numpy(), return_inverse=True)
    n = int(groups.max()) + 1
    counts = np.zeros((n, len(examples)), dtype=int)
    np.add.at(counts, (groups, column), 1)
    if counts.max() > 1:
        first = table[groups == int(counts.max(1).argmax())].iloc[0]
        label = ", ".join(f"{name}={first[name]}" for name in by)
        raise SiteError(f"{counts.max()} rows of one example share {label}; name the column that tells them apart in by, such as edit")
    if counts.min() < 1:
        raise SiteError(f"every node must have the same {len(examples)} examples, one has {int(counts.sum(1).min())}")
    values = np.empty((n, len(examples)))
    values[groups, column] = table[value].to_numpy(float)
    return table.loc[~pd.Series(groups, index=table.index).duplicated().to_numpy(), by].reset_index(drop=True), values


def _standard_error(values: Float[np.ndarray, "... examples"]) -> Float[np.ndarray, "..."]:
    """Of the mean over the last axis; NaN for fewer than two examples."""
    n = values.shape[-1]
    return values.std(-1, ddof=1) / np.sqrt(n) if n > 1 else np.full(values.shape[:-1], np.nan)
