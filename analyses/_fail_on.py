"""Which verdicts stop a pipeline? Those that are as bad as the user said, or worse; what is open never does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

FailOn = Literal["fail", "warn"]

_STOPS = {"fail": ("fail", "gate failed"), "warn": ("fail", "gate failed", "warn")}
"""Of the statuses of a study only `gate failed` is a fault of the measurement; the others are answers to its question."""


def stopping(statuses: Mapping[str, str], fail_on: FailOn) -> list[str]:
    """The analyses whose verdict is that bad or worse, with their status, in their order.

    >>> stopping({"attention": "warn", "head-ablation": "inconclusive", "q04": "gate failed", "q05": "refuted"}, "fail")
    ['q04 (gate failed)']
    """
    return [f"{name} ({status})" for name, status in statuses.items() if status in _STOPS[fail_on]]
