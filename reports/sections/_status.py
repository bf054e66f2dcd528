"""How does a verdict stand, for the eye? A tone, a sign and an order: what needs attention comes first."""

from __future__ import annotations

from collections.abc import Sequence

from reports.result import Evidence, Result

UNCHECKED = "not checked"
"""what was not tried, or could not be: neither good nor bad"""

SIGNS = {
    "fail": ("bad", "✕"), "gate failed": ("bad", "✕"), "warn": ("warn", "!"), "refuted": ("turned", "↺"), "conditional": ("warn", "~"),
    "inconclusive": ("open", "?"), "unresolved": ("open", "?"), "confirmed": ("good", "✓"), "pass": ("good", "✓"),
    "broken": ("bad", "✕"), UNCHECKED: ("none", "–"), "kept": ("good", "✓"),
}
"""status of a verdict, then of a gate → (tone, sign), in the order of attention"""

_HOLDS = {
    "<": lambda a, b: a < b, "<=": lambda a, b: a <= b, ">": lambda a, b: a > b, ">=": lambda a, b: a >= b,
}


STUDIED = ("confirmed", "refuted", "conditional", "unresolved", "gate failed")
"""how a question of design can stand"""


def is_study(result: Result) -> bool:
    """Does it answer a question of design, and not tell whether something is wrong?"""
    return result.verdict.status in STUDIED


def by_attention(results: Sequence[Result]) -> list[Result]:
    """Failures first, then warnings, then what is open, then what is well; within a status in the order of the run."""
    order = list(SIGNS)
    return sorted(results, key=lambda result: order.index(result.verdict.status))


def counts(results: Sequence[Result]) -> list[tuple[str, int]]:
    """How often each status occurs, in the order of attention, without those that do not."""
    statuses = [result.verdict.status for result in results]
    return [(status, statuses.count(status)) for status in SIGNS if status in statuses]


def answer(results: Sequence[Result]) -> str:
    """Is something wrong? One sentence over the diagnoses; empty where there are none, for a question of design is not wrong.

    >>> from types import SimpleNamespace as Named
    >>> answer([Named(verdict=Named(status=status)) for status in ("pass", "warn", "inconclusive", "refuted")])
    'Nothing fails; 1 of 3 analyses warns, 1 cannot tell.'
    """
    statuses = [result.verdict.status for result in results if result.verdict.status in ("pass", "warn", "fail", "inconclusive")]
    n, (fails, warns, unsure) = len(statuses), (statuses.count(status) for status in ("fail", "warn", "inconclusive"))
    if not n:
        return ""
    some = [f"{count} {one if count == 1 else many}" for count, one, many in ((warns, "warns", "warn"), (unsure, "cannot tell", "cannot tell")) if count]
    of = f"of {n} {'analysis' if n == 1 else 'analyses'}"
    if fails:
        return f"Something is wrong: {fails} {of} {'fails' if fails == 1 else 'fail'}{''.join(f', {one}' for one in some)}."
    if some:
        return f"Nothing fails; {some[0].replace(' ', f' {of} ', 1)}{''.join(f', {one}' for one in some[1:])}."
    return "Nothing is wrong: the analysis passes." if n == 1 else f"Nothing is wrong: all {n} analyses pass."


def holds(evidence: Evidence) -> bool | None:
    """Whether the measured number, or its interval where that decides, keeps the threshold; None where there is none, or no number.

    >>> holds(Evidence(name="deviation", measured=3e-7, unit="1", threshold=1e-5, relation="<"))
    True
    >>> holds(Evidence(name="size", measured=1.03, unit="1", threshold=1.0, relation="==", margin=0.05))
    True
    """
    if evidence.threshold is None or evidence.measured != evidence.measured:
        return None
    if evidence.outcome:
        return {"holds": True, "fails": False, "open": None}[evidence.outcome]
    if evidence.relation == "==":
        return bool(evidence.measured == evidence.threshold or abs(evidence.measured - evidence.threshold) <= evidence.margin)
    return bool(_HOLDS[evidence.relation](evidence.measured, evidence.threshold))


def telling(evidence: Sequence[Evidence], most: int = 2) -> list[Evidence]:
    """The numbers to show on a card: broken thresholds first, then kept ones, then numbers without one."""
    rank = {False: 0, True: 1, None: 2}
    return sorted(evidence, key=lambda e: rank[holds(e)])[:most]
