"""Does every study keep the contract: predicted before measured, decided by the rule, run at smoke in seconds, drawn, saved, shown?"""

from __future__ import annotations

import re
import time
from functools import cache
from pathlib import Path

import pytest

import analyses.studies
from analyses.studies import Effect, Study, studies, verdict_of
from analyses.studies._cost import COST
from analyses.studies._effects import EFFECTS
from reports import Bars, Lines, Result, content_hash, load_result, page, save_result

STUDIES = studies()
FOLDER = Path(analyses.studies.__file__).parent
every = pytest.mark.parametrize("study", STUDIES.values(), ids=lambda study: study.slug())


@cache
def at_smoke(study: type[Study]) -> tuple[Result, float]:
    began = time.process_time()
    return study.at("smoke").run(), time.process_time() - began


def test_every_file_is_one_study_named_after_its_question() -> None:
    files = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    assert files == sorted(study.slug().replace("-", "_") for study in STUDIES.values())
    names = [study.name for study in STUDIES.values()]
    assert len(set(names)) == len(names) and all(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name) for name in names)


@every
def test_a_study_says_everything_before_it_measures(study: type[Study]) -> None:
    assert 1 <= study.number <= 35 and study.question.endswith("?") and study.popular.endswith(".")
    assert study.predictions and study.sources and study.scale and study.limits and study.method
    assert set(study.budgets) == {"smoke", "default", "full"}
    for budget in study.budgets:
        study.at(budget)
    assert study.budgets["default"].get("n_seeds", 5) >= 3 and study.budgets["full"].get("n_seeds", 5) >= 5
    with pytest.raises(ValueError, match="budget must be one of smoke, default, full, got 'huge'"):
        study.at("huge")


@every
def test_a_study_runs_at_smoke_and_its_verdict_follows_from_its_table(study: type[Study]) -> None:
    result, _ = at_smoke(study)
    frame = result.tables[EFFECTS].frame
    effects = {row["quantity"]: Effect(**row) for row in frame.to_dict("records")}
    again = verdict_of(study.predictions, study.gates, effects, finding=lambda: study().finding(effects))
    assert (result.verdict.status, result.verdict.claim) == (again.status, again.claim)
    assert {one.quantity for one in (*study.predictions, *study.gates)} <= set(effects)
    assert {one.unit for one in study.predictions if effects[one.quantity].unit != one.unit} == set(), "a threshold has the unit of its quantity"
    assert all(effect.low <= effect.estimate <= effect.high for effect in effects.values() if effect.n > 1)
    assert bool((result.tables[COST].frame[["cpu_seconds", "seconds"]] > 0).all(axis=None))


@every
def test_exact_facts_hold_at_smoke_too(study: type[Study]) -> None:
    """What no seed changes is asserted, not estimated: such a prediction is decided at every budget."""
    result, _ = at_smoke(study)
    exact = set(result.tables[EFFECTS].frame.query("kind == 'exact'")["quantity"])
    for one in result.verdict.evidence:
        if one.name in exact and one.source in {prediction.says for prediction in study.predictions}:
            assert one.outcome in ("holds", "fails"), one


@every
def test_a_study_is_drawn_saved_and_shown(study: type[Study], tmp_path: Path) -> None:
    result, _ = at_smoke(study)
    assert result.figures
    save_result(result, tmp_path)
    back = load_result(tmp_path)
    assert content_hash([back]) == content_hash([result])
    html = page([back], title="t")
    assert 'id="questions"' in html and study.question.replace("'", "&#39;") in html


@every
def test_labels_of_a_study_are_drawn_whole(study: type[Study]) -> None:
    for figure in at_smoke(study)[0].figures:
        labels = figure.labels if isinstance(figure, Bars) else figure.series if isinstance(figure, Lines) else ()
        most = 40 if isinstance(figure, Bars) else 32
        assert [label for label in labels if len(label) > most] == [], figure.name


@every
def test_equal_seeds_give_equal_numbers(study: type[Study]) -> None:
    if study.number % 5 == 0 and not study.timed:  # a fifth of them, since it doubles the time
        assert content_hash([study.at("smoke").run()]) == content_hash([at_smoke(study)[0]])
