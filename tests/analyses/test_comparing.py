"""Do comparisons of tables find what was changed, and nothing else?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyses._compare import ABSOLUTE, RELATIVE, compare_tables
from analyses._fail_on import stopping
from analyses._joins import join
from reports import STATUSES
from reports.saved import SavedTable

UNITS = {"layer": "", "head": "", "token": "", "effect": "nats", "count": "1"}


def heads(seed: int = 0, layers: int = 4) -> pd.DataFrame:
    draw = np.random.default_rng(seed)
    grid = [(layer, head) for layer in range(layers) for head in range(3)]
    frame = pd.DataFrame(grid, columns=["layer", "head"])
    return frame.assign(
        token=[f"t{i}" for i in range(len(grid))], effect=draw.normal(size=len(grid)), count=draw.integers(9, size=len(grid))
    )


def saved(frame: pd.DataFrame, measurement: bool = False, rows: int | None = None) -> SavedTable:
    return SavedTable(frame=frame, units=UNITS, measurement=measurement, rows=len(frame) if rows is None else rows)


def outcome(old: SavedTable, new: SavedTable, **how: bool) -> tuple[str, str]:
    found = compare_tables("a", "t", old, new, **how)
    return found.outcome, found.detail


def test_the_tolerance_is_what_it_says():
    frame = heads()
    largest = frame["effect"].abs().max()
    for factor, expected in ((0.9, "within tolerance"), (1.1, "differs")):
        moved = frame.assign(effect=frame["effect"] + factor * (ABSOLUTE + RELATIVE * largest))
        assert outcome(saved(frame), saved(moved))[0] == expected
    assert outcome(saved(frame), saved(frame.copy())) == ("exact", "")
    assert outcome(saved(frame), saved(frame.assign(token="x"))) == ("differs", "column token")
    missing = frame.assign(effect=np.where(np.arange(12) == 5, np.nan, frame["effect"]))
    assert outcome(saved(missing), saved(missing.copy()))[0] == "exact"
    assert outcome(saved(frame), saved(missing))[0] == "differs"


def test_infinity_does_not_hide_a_difference():
    frame = heads().assign(effect=[np.inf, *range(11)])
    assert outcome(saved(frame), saved(frame.copy()))[0] == "exact"
    assert outcome(saved(frame), saved(frame.assign(effect=[np.inf, *range(10), 10.5]))) == ("differs", "effect, row 11: 10, now 10.5")


def test_counts_that_became_fractions_are_compared_as_numbers():
    frame = heads()
    assert outcome(saved(frame), saved(frame.assign(count=frame["count"].astype(float))))[0] == "exact"


@pytest.mark.parametrize("through_csv", [False, True])
def test_of_a_cut_table_the_rows_that_are_there_are_compared(through_csv):
    from reports.saved import carried

    frame = heads()
    cut = carried(saved(frame)).head(5)
    assert len(cut.frame) == 5 and cut.rows == 12
    assert outcome(cut, saved(frame), through_csv=True) == ("exact", "the first 5 of 12 rows")
    after = frame.assign(effect=frame["effect"] + np.r_[np.zeros(5), np.ones(7)])
    assert outcome(cut, saved(after), through_csv=True)[0] == "exact"
    before = frame.assign(effect=frame["effect"] + np.r_[np.ones(1), np.zeros(11)])
    assert outcome(cut, saved(before), through_csv=True)[1].startswith("the first 5 of 12 rows: effect, row 0: ")
    assert outcome(cut, saved(frame.head(11)), through_csv=True)[1] == "12 rows of 5 columns, now 11 rows of 5 columns"


def test_measurements_are_ratios_and_never_decide():
    frame = heads()
    found = outcome(saved(frame, measurement=True), saved(frame.assign(effect=3 * frame["effect"]), measurement=True))
    assert found == ("measured", "now against then: effect × 3.00")


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), data=st.data())
def test_a_join_finds_the_planted_changes_whatever_the_order_of_rows(seed, data):
    frame = heads(seed)
    order = data.draw(st.permutations(range(12)))
    dropped = data.draw(st.sets(st.sampled_from(range(12)), max_size=4))
    changed = data.draw(st.sets(st.sampled_from([i for i in range(12) if i not in dropped]), max_size=4))
    other = frame.assign(effect=[e + (10 + i if i in changed else 0) for i, e in enumerate(frame["effect"])])
    other = other.iloc[[i for i in order if i not in dropped]].reset_index(drop=True)
    found = join(saved(frame), saved(other), most=9)
    assert found.by == ("layer", "head") and (found.only_a, found.only_b, found.both) == (len(dropped), 0, 12 - len(dropped))
    assert found.n_changed == len(changed) and found.n_relabelled == 0
    assert [cell.row for cell in found.changed] == [f"layer={i // 3} head={i % 3}" for i in sorted(changed, reverse=True)]
    assert all(
        cell.column == "effect" and cell.now - cell.was == pytest.approx(10 + int(cell.row[6]) * 3 + int(cell.row[-1]))
        for cell in found.changed
    )
    back = join(saved(other), saved(frame), most=9)
    assert (back.only_a, back.only_b, back.n_changed) == (0, len(dropped), len(changed))


def test_rows_that_nothing_names_are_laid_one_upon_the_other_or_not_at_all():
    plain = pd.DataFrame({"effect": [1.0, 2.0, 3.0]})
    assert join(saved(plain), saved(plain.head(2))) is None
    found = join(saved(plain), saved(plain.assign(effect=[1.0, np.nan, 3.5])))
    assert found.by == () and [(cell.row, cell.now) for cell in found.changed][1:] == [("row 2", 3.5)] and np.isnan(found.changed[0].now)
    twice = pd.concat([heads(), heads()], ignore_index=True)
    assert join(saved(twice), saved(twice.head(3))) is None


def test_texts_that_differ_are_counted():
    found = join(saved(heads()), saved(heads().assign(token="x")))
    assert found.by == ("layer", "head") and found.n_relabelled == 12 and found.n_changed == 0


def test_what_stops_a_pipeline():
    every = {status: status for status in STATUSES}
    assert stopping(every, "fail") == ["fail (fail)", "gate failed (gate failed)"]
    assert stopping(every, "warn") == ["warn (warn)", "fail (fail)", "gate failed (gate failed)"]
