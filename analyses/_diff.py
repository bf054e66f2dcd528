"""What differs between two runs? Parameters, provenance, verdicts and tables, the largest differences first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from analyses._compare import Comparison, compare_tables, plain_value
from analyses._joins import Joined, join
from reports import SavedAnalysis, SavedRun, SavedTable, carried, format_number


@dataclass(frozen=True, kw_only=True)
class Change:
    """One setting that is not the same in both runs; None where a run does not have it."""

    group: str
    name: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.name}: {_shown(self.was)} → {_shown(self.now)}"


@dataclass(frozen=True, kw_only=True)
class VerdictChange:
    """A verdict in both runs, and the numbers behind it that differ; None where a run does not have it."""

    analysis: str
    title: str
    was: str | None
    now: str | None
    claims: tuple[str, str]
    evidence: tuple[Change, ...]

    @property
    def same(self) -> bool:
        """Whether the status stands; claims and evidence follow from tables, which are compared by themselves."""
        return self.was == self.now


@dataclass(frozen=True, kw_only=True)
class TableChange:
    """A table of both runs: whether it agrees, and where it does not."""

    comparison: Comparison
    joined: Joined | None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Everything that differs from one run to another."""

    settings: tuple[Change, ...]
    verdicts: tuple[VerdictChange, ...]
    tables: tuple[TableChange, ...]

    @property
    def same(self) -> bool:
        """Whether both asked the same and got the same: the provenance is told and decides nothing, nor do measurements."""
        asked = not any(change.group == "parameters" for change in self.settings)
        return asked and all(v.same for v in self.verdicts) and all(t.comparison.outcome != "differs" for t in self.tables)


def diff(a: SavedRun, b: SavedRun) -> Difference:
    """What differs from run a to run b."""
    through_csv = a.carried or b.carried
    settings = [*_settings("parameters", a.parameters, b.parameters), *_settings("provenance", a.provenance, b.provenance)]
    before, after = ({one.name: one for one in run.analyses} for run in (a, b))
    names = list(dict.fromkeys([*before, *after]))
    verdicts = [change for name in names if (change := _verdict(before.get(name), after.get(name)))]
    tables = [table for name in names if name in before and name in after for table in _tables(before[name], after[name], through_csv)]
    return Difference(settings=tuple(settings), verdicts=tuple(verdicts), tables=tuple(tables))


def lines(difference: Difference) -> Iterator[str]:
    """The difference as lines of text."""
    for group in ("parameters", "provenance"):
        found = [change for change in difference.settings if change.group == group]
        if found:
            yield group
            yield from (f"  {change}" for change in found)
    if difference.verdicts:
        yield "verdicts"
    for verdict in difference.verdicts:
        yield (
            f"  {verdict.analysis}: {_shown(verdict.was)} → {_shown(verdict.now)}"
            if not verdict.same
            else f"  {verdict.analysis}: {verdict.now} in both"
        )
        yield from (f"    {'−+'[i]} {claim}" for i, claim in enumerate(verdict.claims) if claim and verdict.claims[0] != verdict.claims[1])
        yield from (f"    {change}" for change in verdict.evidence)
    exact = sum(table.comparison.outcome == "exact" for table in difference.tables)
    yield f"tables: {exact} of {len(difference.tables)} are exactly the same"
    for table in difference.tables:
        if table.comparison.outcome != "exact":
            yield f"  {table.comparison}"
        if table.joined is not None:
            yield from (f"    {line}" for line in _joined_lines(table.joined))


def _joined_lines(joined: Joined) -> Iterator[str]:
    if joined.only_a or joined.only_b:
        yield f"rows only in A: {joined.only_a}, only in B: {joined.only_b}, in both: {joined.both}"
    if joined.n_relabelled:
        yield f"texts that differ: {joined.n_relabelled}"
    if joined.n_changed:
        yield f"numbers that differ: {joined.n_changed}, the largest:"
    for cell in joined.changed:
        yield f"  {cell.row}  {cell.column}: {format_number(cell.was)} → {format_number(cell.now)}"


def _settings(group: str, a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    for key in dict.fromkeys([*a, *b]):
        was, now = plain_value(a.get(key)), plain_value(b.get(key))
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from _settings(group, was, now, f"{prefix}{key}.")
        elif was != now and repr(was) != repr(now):
            yield Change(group=group, name=f"{prefix}{key}", was=was, now=now)


def _verdict(a: SavedAnalysis | None, b: SavedAnalysis | None) -> VerdictChange | None:
    """What became of a verdict; None where it and its numbers are the same."""
    here = b or a
    numbers = [{} if one is None else {e.name: e for e in one.verdict.evidence} for one in (a, b)]
    evidence = [
        Change(group=numbers[1].get(name, numbers[0].get(name)).unit, name=name, was=was, now=now)
        for name in dict.fromkeys([*numbers[0], *numbers[1]])
        if repr(was := _measured(numbers[0], name)) != repr(now := _measured(numbers[1], name))
    ]
    status = [None if one is None else one.verdict.status for one in (a, b)]
    claims = tuple("" if one is None else one.verdict.claim for one in (a, b))
    if status[0] == status[1] and claims[0] == claims[1] and not evidence:
        return None
    return VerdictChange(analysis=here.name, title=here.title, was=status[0], now=status[1], claims=claims, evidence=tuple(evidence))


def _measured(evidence: Mapping[str, Any], name: str) -> float | None:
    return evidence[name].measured if name in evidence else None


def _tables(a: SavedAnalysis, b: SavedAnalysis, through_csv: bool) -> Iterator[TableChange]:
    for name in dict.fromkeys([*a.tables, *b.tables]):
        if name not in a.tables or name not in b.tables:
            yield TableChange(comparison=Comparison(a.name, name, "differs", f"only in {'A' if name in a.tables else 'B'}"), joined=None)
            continue
        old, new = a.tables[name], b.tables[name]
        comparison = compare_tables(a.name, name, old, new, through_csv=through_csv)
        yield TableChange(comparison=comparison, joined=join(*_alike(old, new, through_csv)) if comparison.outcome == "differs" else None)


def _alike(a: SavedTable, b: SavedTable, through_csv: bool) -> tuple[SavedTable, SavedTable]:
    """Both tables through CSV where one was; of one that was cut, as many rows of the other."""
    if not through_csv:
        return a, b
    a, b = (table if len(table.frame) < table.rows else carried(table) for table in (a, b))
    there = min([len(table.frame) for table in (a, b) if len(table.frame) < table.rows], default=None)
    return (a, b) if there is None else (a.head(there), b.head(there))


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return format_number(value) if isinstance(value, float) else str(value)
