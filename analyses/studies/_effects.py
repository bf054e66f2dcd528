"""How is a quantity said? As an exact fact, or as a mean over seeds or examples with its 95 % interval."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from scipy import stats

from analyses._contract import table
from probes.intervals import bootstrap_mean
from reports import Table

EFFECTS = "effects"
"""the name of the table that every study has"""


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One quantity: its estimate, the ends of its 95 % interval, and over how many seeds or examples. An exact one has no width."""

    quantity: str
    estimate: float
    low: float
    high: float
    n: int
    unit: str = "1"
    kind: str = "mean over seeds, t interval"

    @classmethod
    def exact(cls, quantity: str, value: float, unit: str = "1") -> Self:
        """A fact that no seed changes."""
        return cls(quantity=quantity, estimate=float(value), low=float(value), high=float(value), n=1, unit=unit, kind="exact")

    @classmethod
    def over_seeds(cls, quantity: str, values: Sequence[float], unit: str = "1", *, within: tuple[float, float] = (-math.inf, math.inf)) -> Self:
        """The mean over seeds with Student's t interval; give paired differences for an effect. One seed has no interval.

        `within` are the least and the largest value that the quantity can have, (0, 1) for an accuracy: the interval ends there.

        >>> effect = Effect.over_seeds("gain", [0.1, 0.2, 0.3], "nats")
        >>> round(effect.estimate, 3), round(effect.low, 3), round(effect.high, 3)
        (0.2, -0.048, 0.448)
        >>> Effect.over_seeds("accuracy", [0.9, 1.0, 1.0], within=(0, 1)).high
        1.0
        """
        x = np.asarray(values, dtype=float)
        mean, n = float(x.mean()) if len(x) else math.nan, len(x)
        half = float(stats.t.ppf(0.975, n - 1) * x.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
        low, high = (float(np.clip(end, *within)) for end in (mean - half, mean + half))
        return cls(quantity=quantity, estimate=mean, low=low, high=high, n=n, unit=unit)

    @classmethod
    def of_ratios(cls, quantity: str, ratios: Sequence[float]) -> Self:
        """The geometric mean over seeds with Student's t interval of the logarithms: what is never below 0 has no end there.

        Raises ValueError for a ratio that is not positive.

        >>> effect = Effect.of_ratios("growth", [10.0, 1000.0, 100.0])
        >>> round(effect.estimate), effect.low > 0
        (100, True)
        """
        x = np.asarray(ratios, dtype=float)
        if not (x > 0).all():
            raise ValueError(f"ratios are positive, got {x[~(x > 0)][0]}")
        logs = cls.over_seeds(quantity, np.log(x))
        return dataclasses.replace(
            logs, estimate=math.exp(logs.estimate), low=math.exp(logs.low), high=math.exp(logs.high), kind="geometric mean over seeds, t interval of logarithms"
        )  # fmt: skip

    @classmethod
    def over_examples(cls, quantity: str, values: Sequence[float], unit: str = "1", *, seed: int = 0) -> Self:
        """The mean over examples of one model with a bootstrap percentile interval."""
        x = np.asarray(values, dtype=float)
        low, high = (float(end) for end in bootstrap_mean(x, seed=seed))
        mean = float(x.mean()) if len(x) else math.nan
        return cls(quantity=quantity, estimate=mean, low=low, high=high, n=len(x), unit=unit, kind="mean over examples, bootstrap")

    @property
    def off_zero(self) -> bool:
        """Does the interval leave 0 out, so that the sign is told?

        >>> Effect(quantity="x", estimate=1.0, low=0.5, high=1.5, n=5).off_zero
        True
        """
        return self.low > 0 or self.high < 0

    def interval(self) -> str:
        """The interval for a reader, with what it is over.

        >>> Effect(quantity="x", estimate=1.0, low=0.5, high=1.5, n=5).interval()
        '[0.5, 1.5], n = 5'
        """
        return "exact" if self.kind == "exact" else f"[{self.low:.3g}, {self.high:.3g}], n = {self.n}"

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        return f"{self.estimate:.3g}{unit}" + ("" if self.kind == "exact" else f" [{self.low:.3g}, {self.high:.3g}]")


def effects_table(effects: Sequence[Effect]) -> Table:
    """All quantities of a study. Raises ValueError for two of one name."""
    names = [effect.quantity for effect in effects]
    if len(set(names)) < len(names):
        raise ValueError(f"every quantity of a study has a name of its own, got {next(n for n in names if names.count(n) > 1)!r} twice")
    columns = ["quantity", "estimate", "low", "high", "n", "unit", "kind"]
    return table(
        pd.DataFrame([vars(effect) for effect in effects], columns=columns), "The quantities that decide, each with its 95 % interval.",
        quantity=("", "what was measured"), estimate=("", "mean, in the unit of the row"), low=("", "lower end of the 95 % interval"),
        high=("", "upper end of the 95 % interval"), n=("", "seeds or examples"), unit=("", "unit of the row"), kind=("", "what the interval is over"),
    )  # fmt: skip
