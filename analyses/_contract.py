"""What is an analysis? A question, its parameters, and three steps: measure (torch), judge (numbers → claim), draw (numbers → figures)."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import pandas as pd

from analyses._anatomy import Model
from analyses._corpus import Corpus
from analyses._provenance import provenance
from reports import Column, Figure, Provenance, Result, Table, Verdict

Tables = Mapping[str, Table]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis(ABC):
    """One question to a model. Its fields are its parameters: they are the options of its command, their docstrings the help.

    A file in this folder that exports `ANALYSIS`, a subclass, is found by listing: nothing else has to be edited.
    """

    name: ClassVar[str]
    """what it is called in a shell: lower-case words joined by hyphens"""
    title: ClassVar[str]
    question: ClassVar[str]
    method: ClassVar[str]
    """how the question is answered, with the definitions and their sources"""
    limits: ClassVar[str]
    """what the answer does not show"""
    order: ClassVar[int] = 50
    """where it stands in a report"""
    timed: ClassVar[bool] = False
    """does its verdict rest on times or memory readings, which differ between two runs?"""

    seed: int = 0
    """seed of everything that is drawn at random"""

    @abstractmethod
    def measure(self, model: Model, corpus: Corpus) -> Tables:
        """The numbers: the only step that touches torch."""

    @abstractmethod
    def judge(self, tables: Tables) -> Verdict:
        """A claim in one sentence with the numbers behind it; `inconclusive` where there are no data."""

    @abstractmethod
    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        """What to show, as values."""

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        """Short facts that a reader needs, name → text: how many prompts and tokens were used, which tokens the model saw."""
        return {}

    def run(self, model: Model, corpus: Corpus, *, provenance_of: Provenance | None = None) -> Result:
        """Measure, judge, draw."""
        tables = self.measure(model, corpus)
        return Result(
            analysis=self.name, title=self.title, question=self.question, method=self.method, limits=self.limits,
            parameters=self.parameters(), tables=tables, figures=self.draw(tables), verdict=self.judge(tables),
            notes=self.notes(model, corpus), provenance=provenance_of or provenance(model, corpus, seed=self.seed),
        )

    def parameters(self) -> dict[str, Any]:
        """The fields as plain values."""
        return dataclasses.asdict(self)


def table(frame: pd.DataFrame, caption: str, *, measurement: bool = False, **columns: tuple[str, str]) -> Table:
    """A table whose columns are given as `name=(unit, meaning)`, in the order of the frame.

    >>> table(pd.DataFrame({"layer": [0], "norm": [1.5]}), "Norms.", layer=("", "block"), norm=("1", "L2 norm")).columns["norm"].unit
    '1'
    """
    return Table(frame=frame, caption=caption, measurement=measurement, columns={name: Column(unit=unit, meaning=meaning) for name, (unit, meaning) in columns.items()})
