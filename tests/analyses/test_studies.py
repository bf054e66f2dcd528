"""Is a study's verdict the one that its numbers give? The rule on planted numbers, the intervals, the command line."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analyses.studies import Effect, Prediction, load, status_of, studies, verdict_of
from analyses.studies._cost import Clock
from analyses.studies._effects import effects_table
from analyses.studies._handbook import run_studies
from analyses.studies._jobs import CORES, each
from tests.analyses.test_command_line import one_sentence, prosect

ROOT = Path(__file__).parents[2]


def effect(low: float, high: float) -> Effect:
    return Effect(quantity="x", estimate=(low + high) / 2, low=low, high=high, n=5)


@pytest.mark.parametrize(
    ("relation", "low", "high", "expected"),
    [
        (">", 0.2, 0.3, "holds"), (">", 0.0, 0.05, "fails"), (">", 0.05, 0.2, "open"), (">", 0.1, 0.1, "fails"), (">", math.nan, math.nan, "open"),
        ("<", 0.0, 0.05, "holds"), ("<", 0.2, 0.3, "fails"), ("<", 0.05, 0.2, "open"), ("<", 0.1, 0.1, "fails"),
        ("==", 0.09, 0.11, "holds"), ("==", 0.2, 0.3, "fails"), ("==", 0.09, 0.2, "open"), ("==", -0.3, 0.5, "open"),
    ],
)  # fmt: skip
def test_an_interval_decides(relation, low, high, expected) -> None:
    assert Prediction(says="s", quantity="x", relation=relation, threshold=0.1, margin=0.02).outcome(effect(low, high)) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [(["holds"], "confirmed"), (["fails", "fails"], "refuted"), (["holds", "fails"], "conditional"), (["open"], "unresolved"), (["fails", "open"], "unresolved")],
)
def test_the_rule(outcomes, expected) -> None:
    assert status_of(outcomes) == expected


def test_a_gate_that_does_not_hold_beats_every_prediction() -> None:
    gate = Prediction(says="it learns", quantity="loss", relation="<", threshold=2.0, unit="nats")
    prediction = Prediction(says="it helps", quantity="x", relation=">", threshold=0.0)
    effects = {"x": effect(0.2, 0.3), "loss": Effect(quantity="loss", estimate=2.5, low=2.4, high=2.6, n=5, unit="nats")}
    verdict = verdict_of([prediction], [gate], effects, finding=lambda: pytest.fail("nothing was found"))
    assert verdict.status == "gate failed" and "loss < 2 nats was required, 2.5 nats [2.4, 2.6] measured" in verdict.claim
    assert verdict_of([prediction], [gate], effects | {"loss": Effect.exact("loss", 1.9)}, finding=lambda: "found").status == "confirmed"


def test_a_ratio_has_the_interval_of_its_logarithm() -> None:
    ratios = [0.5, 8.0, 2.0]
    found, logs = Effect.of_ratios("x", ratios), Effect.over_seeds("x", [math.log(r) for r in ratios])
    assert found.estimate == pytest.approx(2.0) and 0 < found.low == pytest.approx(math.exp(logs.low))
    assert found.high == pytest.approx(math.exp(logs.high)) and Effect.of_ratios("y", [1 / r for r in ratios]).high == pytest.approx(1 / found.low)
    with pytest.raises(ValueError, match=r"ratios are positive, got 0.0"):
        Effect.of_ratios("x", [1.0, 0.0])


def test_the_interval_over_seeds_is_students() -> None:
    x = np.array([0.3, 0.5, 0.4, 0.9])
    expected = stats.t.interval(0.95, 3, loc=x.mean(), scale=stats.sem(x))
    found = Effect.over_seeds("x", x)
    assert (found.low, found.high) == pytest.approx(expected) and found.n == 4
    assert math.isnan(Effect.over_seeds("x", [1.0]).low)


def test_a_quantity_has_one_value() -> None:
    with pytest.raises(ValueError, match="every quantity of a study has a name of its own, got 'x' twice"):
        effects_table([effect(0, 1), effect(0, 2)])


def test_the_command_lists_measures_and_refuses(capsys, tmp_path: Path) -> None:
    status, out, _ = prosect(capsys, "study")
    assert status == 0 and [int(line.split()[0]) for line in out.splitlines()] == list(studies())
    status, out, _ = prosect(capsys, "study", "4", "--budget", "smoke", "--out", str(tmp_path / "run"))
    assert status == 0 and "popular answer" in out and "gradient ratio < 1" in out and out.splitlines()[-1].endswith("report.html")
    before = (tmp_path / "run/report.html").read_bytes()
    began = (tmp_path / "run/q04-scaled-dot-product/result.json").stat().st_mtime_ns
    status, _, _ = prosect(capsys, "study", "4", "--budget", "smoke", "--out", str(tmp_path / "run"))
    assert status == 0 and (tmp_path / "run/q04-scaled-dot-product/result.json").stat().st_mtime_ns == began
    assert (tmp_path / "run/report.html").read_bytes() == before
    for words, expected in (
        (["99"], "there is no study 99"),
        (["scaled-dot"], "there is no study 'scaled-dot'; did you mean scaled-dot-product?"),
        (["4", "--budget", "default", "--out", str(tmp_path / "run")], "holds another run (budget: 'smoke', now 'default')"),
    ):
        status, out, err = prosect(capsys, "study", *words)
        assert status == 2 and one_sentence(err) and expected in err, err


def test_an_interrupted_handbook_can_be_read_and_continued(tmp_path: Path) -> None:
    chosen, folder = [studies()[9], studies()[4]], tmp_path / "run"

    def running():
        return run_studies(chosen, folder, budget="smoke", seed=0, title="Two", command=["prosect", "study", "9", "4"])

    begun = running()
    assert next(begun).analysis == chosen[0].slug()
    begun.close()
    assert json.loads((folder / "run.json").read_text())["state"] == "incomplete"
    page = (folder / "report.html").read_text()
    assert chosen[0].question in page and chosen[1].question not in page
    began = (folder / chosen[0].slug() / "result.json").stat().st_mtime_ns
    assert [result.analysis for result in running()] == [one.slug() for one in chosen]
    assert (folder / chosen[0].slug() / "result.json").stat().st_mtime_ns == began
    assert json.loads((folder / "run.json").read_text())["state"] == "complete"
    page = (folder / "report.html").read_text()
    assert all(one.question in page for one in chosen)


def test_an_unknown_study_is_refused_from_python() -> None:
    with pytest.raises(ValueError, match="there is no study 77: there are"):
        load(77)
    assert load(4).name == load("scaled-dot-product").name == "scaled-dot-product"


def test_a_study_needs_no_command_line() -> None:
    code = "from analyses.studies import load; print(load(4).run(budget='smoke').analysis)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "q04-scaled-dot-product", done.stderr[-2000:]


def burn(seconds: float) -> None:
    """Keeps a core busy."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.mark.parametrize("alone", [True, False])
def test_the_cost_of_a_study_holds_the_time_of_its_workers(alone: bool) -> None:
    clock = Clock()
    each(burn, [(0.4,)] if alone else [(0.4,), (0.4,), (0.4,)])
    cost = clock.table().frame.iloc[0]
    assert (0.4 if alone else 1.2) <= cost.cpu_seconds + 0.05 and cost.seconds > 0


_KEPT: list[bytearray] = []


def hoard(number: int) -> tuple[int, int]:
    """Keeps 350 MB for good, so that its process is replaced after its next job."""
    _KEPT.append(bytearray(350_000_000))
    burn(1.2)
    return number, os.getpid()


@pytest.mark.skipif(CORES < 2, reason="with one core jobs run in this process")
def test_a_worker_that_keeps_memory_is_replaced_in_silence_and_its_time_counts() -> None:
    clock = Clock()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        done = each(hoard, [(i,) for i in range(6)])
    assert [number for number, _ in done] == list(range(6))
    assert len({process for _, process in done}) > min(CORES, 6), "no worker was replaced: the test says nothing"
    assert told == [] and clock.table().frame.iloc[0].cpu_seconds > 6
