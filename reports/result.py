"""What is an answer made of? Result = parameters + tables + figures + verdict + everything needed to run it again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import pandas as pd

from reports.figures import Figure

Status = Literal[
    "pass", "warn", "fail", "inconclusive",
    "confirmed", "refuted", "conditional", "unresolved", "gate failed",
]
"""The first four judge a diagnosis, the last five a study of a design question."""

STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """One number behind a verdict: what was measured, against which threshold.

    `threshold` is None where the number is reported without being judged. `where` names the place
    (for example "L16H0"), `source` where the threshold comes from. `outcome` says how the interval of the number stands to the
    threshold, where that decides and not the number alone. `margin` is how far from the threshold `==` may be.
    """

    name: str
    measured: float
    unit: str
    threshold: float | None = None
    relation: Literal["<", "<=", ">", ">=", "==", ""] = ""
    where: str = ""
    source: str = ""
    outcome: Literal["", "holds", "fails", "open"] = ""
    margin: float = 0.0

    def __post_init__(self) -> None:
        if (self.threshold is None) != (self.relation == ""):
            raise ValueError(f"evidence {self.name!r} needs a threshold and a relation together, got threshold={self.threshold}, relation={self.relation!r}")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A claim in one sentence, how it stands, and the numbers behind it.

    >>> Verdict(status="pass", claim="Every row of the pattern sums to 1.",
    ...         evidence=(Evidence(name="largest deviation", measured=3e-7, unit="1", threshold=1e-5, relation="<"),)).status
    'pass'
    """

    status: Status
    claim: str
    evidence: tuple[Evidence, ...] = ()
    why: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"a verdict is one of {', '.join(STATUSES)}, got {self.status!r}")
        if not self.claim.strip():
            raise ValueError("a verdict needs a claim, got an empty one")
        decided = self.status not in ("inconclusive", "unresolved", "gate failed")
        if decided and any(math.isnan(e.measured) for e in self.evidence):
            names = ", ".join(e.name for e in self.evidence if math.isnan(e.measured))
            raise ValueError(f"status {self.status!r} rests on a number that is missing: {names}; say inconclusive")


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column of a table holds. `unit` is "" for labels, "1" for ratios and probabilities."""

    unit: str
    meaning: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A DataFrame whose every column says what it holds and in which unit.

    `measurement` marks times and memory readings: two runs differ in them, and `verify` compares them as ratios only.
    """

    frame: pd.DataFrame
    columns: Mapping[str, Column]
    caption: str
    measurement: bool = False

    def __post_init__(self) -> None:
        missing = [c for c in self.frame.columns if c not in self.columns]
        unknown = [c for c in self.columns if c not in self.frame.columns]
        if missing or unknown:
            raise ValueError(f"every column of a table needs a unit and a meaning: without one {missing}, not in the table {unknown}")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Everything needed to run it again, and nothing that differs between two runs (no time of day, no duration)."""

    command: str
    versions: Mapping[str, str]
    git_commit: str | None
    git_dirty: bool | None
    model: Mapping[str, Any]
    """name, source, sha256 of the weights, family, and the shape (n_layers, n_heads, n_kv_heads, d_model, …)"""
    corpus: Mapping[str, Any]
    """source, digest, and how many prompts and tokens there are"""
    seed: int
    dtype: str
    device: str
    threads: int
    platform: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """The answer of one analysis, as it is saved, rendered and compared."""

    analysis: str
    title: str
    question: str
    method: str
    parameters: Mapping[str, Any]
    tables: Mapping[str, Table]
    figures: tuple[Figure, ...]
    verdict: Verdict
    provenance: Provenance
    limits: str = ""
    """what the analysis does not show"""
    notes: Mapping[str, str] = field(default_factory=dict)
    """short facts a reader needs, name → text: how many prompts, the tokens that the model saw"""

    def __post_init__(self) -> None:
        names = [f.name for f in self.figures]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"figures of one result need different names, got {', '.join(twice)} more than once")

    def _repr_html_(self) -> str:
        from reports.notebook import result_in_notebook

        return result_in_notebook(self)
