"""What is a study? A popular answer, taken apart into predictions with thresholds, and a measurement that decides each of them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

import pandas as pd

from analyses.studies._cost import COST, Clock
from analyses.studies._effects import EFFECTS, Effect, effects_table
from analyses.studies._provenance import study_provenance
from analyses.studies._verdict import Prediction, verdict_of
from reports import Figure, Provenance, Result, Table

Budget = Literal["smoke", "default", "full"]
"""how much is measured: ≤ 5 s, ≤ 90 s on two cores, and what the published handbook holds"""
Tables = Mapping[str, Table]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study(ABC):
    """One design question of the Transformer. Its fields are its parameters; `budgets` says what they are under each budget.

    A file in this folder that exports `STUDY`, a subclass, is found by listing. What is claimed, predicted and required is
    written in the class, before anything is measured; the verdict follows from the table of effects by the rule of
    `analyses.studies._verdict`, the same for all studies.
    """

    number: ClassVar[int]
    name: ClassVar[str]
    """what it is called in a shell: lower-case words joined by hyphens"""
    question: ClassVar[str]
    popular: ClassVar[str]
    """the popular answer, in our words"""
    predictions: ClassVar[tuple[Prediction, ...]]
    """what the popular answer says of the numbers that are measured"""
    gates: ClassVar[tuple[Prediction, ...]] = ()
    """what must hold for the measurement to mean anything"""
    method: ClassVar[str]
    scale: ClassVar[str]
    """at which size all this was measured, for example "0.1 M parameters, 250 steps of 512 characters\""""
    limits: ClassVar[str]
    """what it does not show"""
    sources: ClassVar[tuple[str, ...]]
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]]
    """budget → values of the fields"""
    timed: ClassVar[bool] = False
    """are some of its effects times or memory readings, which differ between two runs?"""

    seed: int = 0
    """seed of everything that is drawn at random"""

    @abstractmethod
    def measure(self) -> tuple[list[Effect], Tables]:
        """Every quantity that `predictions` and `gates` name, and the tables from which they come."""

    @abstractmethod
    def finding(self, effects: Mapping[str, Effect]) -> str:
        """What was found, in a sentence or two with numbers."""

    @abstractmethod
    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        """At least one figure. `tables` holds the table of effects, too."""

    @classmethod
    def at(cls, budget: Budget, *, seed: int = 0) -> Self:
        """The study with the parameters of a budget. Raises ValueError for another one."""
        if budget not in cls.budgets:
            raise ValueError(f"budget must be one of {', '.join(cls.budgets)}, got {budget!r}")
        return cls(seed=seed, **cls.budgets[budget])

    def run(self, budget: Budget | None = None, *, provenance: Provenance | None = None) -> Result:
        """Measure, judge, draw; with a budget, at its parameters in place of the study's own."""
        if budget is not None:
            return self.at(budget, seed=self.seed).run(provenance=provenance)
        clock = Clock()
        effects, tables = self.measure()
        found = {effect.quantity: effect for effect in effects}
        tables = {EFFECTS: effects_table(effects), **tables, COST: clock.table()}
        return Result(
            analysis=self.slug(), title=f"{self.number}. {self.question}", question=self.question, method=self.method,
            parameters=dataclasses.asdict(self), tables=tables, figures=self.draw(tables), limits=self.limits,
            verdict=verdict_of(self.predictions, self.gates, found, finding=lambda: self.finding(found)),
            provenance=provenance or study_provenance(seed=self.seed), notes=self._notes(),
        )  # fmt: skip

    @classmethod
    def slug(cls) -> str:
        """The name of its folder in a run: "q04-scaled-dot-product"."""
        return f"q{cls.number:02d}-{cls.name}"

    def _notes(self) -> dict[str, str]:
        return {"popular answer": self.popular, "scale": self.scale, "sources": "; ".join(self.sources)}


def frame_of(rows: list[dict[str, Any]], columns: list[str]) -> pd.DataFrame:
    """Rows as a frame that has its columns even where there are no rows."""
    return pd.DataFrame(rows, columns=columns)
