"""How does a verdict follow from numbers? A prediction holds, fails or stays open by its interval; the study's verdict by its predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from analyses.studies._effects import Effect
from reports import Evidence, Status, Verdict

Outcome = Literal["holds", "fails", "open"]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One part of a popular answer: what it says of a quantity. The threshold is the smallest effect that would matter.

    `>` holds where the whole interval lies above the threshold, and fails where the whole interval lies at or below it, so
    that "no effect worth the name" can be shown; else it is open. `<` likewise. `==` holds where the whole interval lies within
    `margin` of the threshold (two one-sided tests, Schuirmann 1987), and fails where all of it lies outside.

    >>> more = Prediction(says="it grows", quantity="growth", relation=">", threshold=0.1, unit="nats")
    >>> more.outcome(Effect.exact("growth", 0.3, "nats")), str(more)
    ('holds', 'growth > 0.1 nats')
    >>> same = Prediction(says="nothing happens", quantity="growth", relation="==", threshold=0.0, margin=0.02)
    >>> same.outcome(Effect(quantity="growth", estimate=0.0, low=-0.01, high=0.03, n=5))
    'open'
    """

    says: str
    quantity: str
    relation: Literal["<", ">", "=="]
    threshold: float
    margin: float = 0.0
    unit: str = "1"

    def outcome(self, effect: Effect) -> Outcome:
        """Whether it holds."""
        low, high, at = effect.low, effect.high, self.threshold
        if not (low <= high):  # NaN: too few values for an interval
            return "open"
        if self.relation == "==":
            inside, outside = abs(low - at) <= self.margin and abs(high - at) <= self.margin, low > at + self.margin or high < at - self.margin
            return "holds" if inside else "fails" if outside else "open"
        above, not_above = low > at, high <= at
        below, not_below = high < at, low >= at
        holds, fails = (above, not_above) if self.relation == ">" else (below, not_below)
        return "holds" if holds else "fails" if fails else "open"

    def __str__(self) -> str:
        unit = "" if self.unit == "1" else f" {self.unit}"
        within = f" ± {self.margin:g}" if self.relation == "==" and self.margin else ""
        return f"{self.quantity} {'=' if self.relation == '==' else self.relation} {self.threshold:g}{within}{unit}"


def verdict_of(
    predictions: Sequence[Prediction], gates: Sequence[Prediction], effects: Mapping[str, Effect], *, finding: Callable[[], str]
) -> Verdict:
    """Gate failed: a gate does not hold. Confirmed: all predictions hold. Refuted: all fail. Conditional: some hold and some fail.
    Unresolved: otherwise.

    A gate is decided by its estimate, a prediction by its interval. Raises KeyError for a quantity that was not measured.
    """
    broken = [gate for gate in gates if gate.outcome(Effect.exact(gate.quantity, effects[gate.quantity].estimate, gate.unit)) != "holds"]
    outcomes = {one: one.outcome(effects[one.quantity]) for one in predictions}
    evidence = tuple(_evidence(one, effects[one.quantity], outcomes.get(one)) for one in (*gates, *predictions))
    if broken:
        said = "; ".join(f"{gate.says} ({gate} was required, {effects[gate.quantity]} measured)" for gate in broken)
        return Verdict(status="gate failed", claim=f"The measurement means nothing yet: {said}.", evidence=evidence)
    status = status_of(list(outcomes.values()))
    parts = "; ".join(f"“{one.says}” {'is open' if outcome == 'open' else outcome}" for one, outcome in outcomes.items())
    return Verdict(status=status, claim=finding(), evidence=evidence, why=f"Of the popular answer: {parts}.")


def status_of(outcomes: Sequence[Outcome]) -> Status:
    """The rule.

    >>> status_of(["holds", "holds"]), status_of(["fails"]), status_of(["holds", "fails", "open"]), status_of(["holds", "open"])
    ('confirmed', 'refuted', 'conditional', 'unresolved')
    """
    found = set(outcomes)
    if found == {"holds"}:
        return "confirmed"
    if found == {"fails"}:
        return "refuted"
    return "conditional" if {"holds", "fails"} <= found else "unresolved"


def _evidence(one: Prediction, effect: Effect, outcome: Outcome | None) -> Evidence:
    said: dict[str, Any] = {"name": one.quantity, "unit": one.unit, "source": one.says, "outcome": outcome or ""}
    if effect.estimate != effect.estimate:
        return Evidence(**said, measured=float("nan"), where="not measured")
    return Evidence(**said, measured=effect.estimate, threshold=one.threshold, relation=one.relation, margin=one.margin, where=effect.interval())
