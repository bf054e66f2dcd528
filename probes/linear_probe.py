"""Can a property be read off activations by a line? Logistic regression on held-out examples, against a control."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

Features = Float[np.ndarray, "row d"]
FOLDS = 5
RESAMPLES = 1000
MOST_STEPS = 2000


def linear_probe(
    features: Features | Mapping[str, Features], labels: Sequence[Any], *, groups: Sequence[Any] | None = None, seed: int = 0
) -> pd.DataFrame:
    """How well a linear classifier tells the label of rows from examples that it was not fitted to (Alain & Bengio 2017).

    Multinomial logistic regression, L2 penalty 1, on features standardised by the fitted rows. Rows of one group (the
    positions of one example) are never on both sides: each group is held out once, in five folds (fewer where a class has
    fewer groups). The interval is a 95 % bootstrap over held-out groups. The control is the same procedure on shuffled
    labels, shuffled between groups where all rows of a group have one label; accuracy − control is the selectivity (Hewitt &
    Liang 2019): what the probe learns from the activations, not by its own capacity.

    `features` are Float[row d] (axes in between are flattened), or several by name: then each has a row of the table. Columns:
    `site` (of several), `accuracy`, `low`, `high`, `control_accuracy`, `selectivity`, `majority` (accuracy of always saying the
    most frequent label; all of unit 1), `n` rows, `n_groups`, `n_classes`, `converged`.

    Raises ValueError for no rows, features that are not finite, missing labels or groups, another number of labels or groups than rows, one class only, or a
    class with one group.

    >>> x = np.random.default_rng(0).normal(size=(60, 4))
    >>> table = linear_probe(x, x[:, 0] > 0)
    >>> bool(table["accuracy"][0] > 0.9), bool(table["control_accuracy"][0] < 0.7)
    (True, True)
    """
    several = features if isinstance(features, Mapping) else {None: features}
    rows = [({} if name is None else {"site": name}) | _probed(np.asarray(x), labels, groups, seed) for name, x in several.items()]
    return pd.DataFrame(rows)


def _probed(x: np.ndarray, labels: Sequence[Any], groups: Sequence[Any] | None, seed: int) -> dict[str, object]:
    x, classes, y, group = _checked(x, labels, groups)
    folds = min(FOLDS, min(len(np.unique(group[y == c])) for c in range(len(classes))))
    if folds < 2:
        lonely = next(c for c in range(len(classes)) if len(np.unique(group[y == c])) < 2)
        raise ValueError(f"every class needs two groups, to fit to one and hold out the other, but {classes[lonely].item()!r} has one")
    generator = np.random.default_rng(seed)
    right, converged = _held_out(x, y, group, folds, seed)
    control, _ = _held_out(x, _shuffled(y, group, generator), group, folds, seed)
    low, high = _interval(right, group, generator)
    return {
        "accuracy": right.mean(), "low": low, "high": high, "control_accuracy": control.mean(), "selectivity": right.mean() - control.mean(),
        "majority": np.bincount(y).max() / len(y), "n": len(y), "n_groups": len(np.unique(group)), "n_classes": len(classes), "converged": converged,
    }  # fmt: skip


def _checked(x: np.ndarray, labels: Sequence[Any], groups: Sequence[Any] | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Features in float64, the classes, the class of each row, the group of each row."""
    if x.ndim < 2:
        raise ValueError(f"features are Float[row d], got shape {x.shape}")
    if not len(x):
        raise ValueError("a probe needs at least one row of features, got none")
    x = x.reshape(len(x), -1).astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"features must be finite, but {int((~np.isfinite(x)).any(1).sum())} of {len(x)} rows are not")
    for name, values in (("labels", labels), ("groups", groups)):
        if values is not None and len(values) != len(x):
            raise ValueError(f"there must be one of {name} for each of the {len(x)} rows, got {len(values)}")
        if values is not None and np.ndim(values) != 1:
            raise ValueError(f"{name} are a list with one for each row, got shape {np.shape(values)}")
        if values is not None and (missing := int(pd.isna(pd.Series(values, dtype=object)).sum())):
            raise ValueError(f"{name} must all be there, but {missing} of {len(x)} are missing")
    classes, y = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a probe tells two classes apart or more, got {len(classes)}")
    group = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    return x, classes, y, group


def _held_out(x: np.ndarray, y: Int[np.ndarray, "row"], group: Int[np.ndarray, "row"], folds: int, seed: int) -> tuple[np.ndarray, bool]:
    """Whether each row is told right by a probe that was fitted to the other folds, and whether all fits converged."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    right, converged = np.zeros(len(y), dtype=bool), True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told in a column
        warnings.filterwarnings("ignore", message="The least populated class")
        splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(x, y, group))
        for fitted, held in splits:
            if len(np.unique(y[fitted])) < 2:  # nothing to tell apart: say what there is
                right[held] = y[held] == y[fitted][0]
                continue
            probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MOST_STEPS)).fit(x[fitted], y[fitted])
            right[held] = probe.predict(x[held]) == y[held]
            converged &= int(probe[-1].n_iter_.max()) < MOST_STEPS
    return right, converged


def _shuffled(y: Int[np.ndarray, "row"], group: Int[np.ndarray, "row"], generator: np.random.Generator) -> Int[np.ndarray, "row"]:
    """The labels of other rows, or of other groups where each group has one."""
    _, first, where = np.unique(group, return_index=True, return_inverse=True)
    return generator.permutation(y[first])[where] if (y == y[first][where]).all() else generator.permutation(y)


def _interval(right: np.ndarray, group: Int[np.ndarray, "row"], generator: np.random.Generator) -> tuple[float, float]:
    """2.5 % and 97.5 % of the accuracy over groups drawn with replacement."""
    n, hits = np.bincount(group), np.bincount(group, right)
    drawn = generator.integers(len(n), size=(RESAMPLES, len(n)))
    low, high = np.quantile(hits[drawn].sum(1) / n[drawn].sum(1), (0.025, 0.975))
    return float(low), float(high)
