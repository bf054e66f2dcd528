"""Does a saved result come back as it was, whole or not at all, in the same bytes every time?"""

import builtins
import json
import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reports.store
from reports import (
    KINDS,
    Column,
    Figure,
    Heatmap,
    Result,
    StoreError,
    Table,
    load_result,
    load_run,
    save_result,
    save_run,
    write_atomically,
)
from tests.reports.samples import HOSTILE, WORDS, any_figure, provenance, result, same, table


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def with_frame(frame: pd.DataFrame) -> Result:
    columns = {c: Column(unit="", meaning=f"column {c}") for c in frame.columns}
    return result(tables={"only": Table(frame=frame, columns=columns, caption="c")}, figures=())


@pytest.mark.parametrize("text", ["word", *HOSTILE])
def test_a_result_comes_back_as_it_was(tmp_path, text):
    before = result(text)
    assert save_result(before, tmp_path) == tmp_path / "result.json"
    assert same(load_result(tmp_path), before)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_figure_comes_back_as_it_was(tmp_path, kind, data):
    figure = data.draw(any_figure(kind))
    save_result(result(figures=(figure,)), tmp_path)
    assert same(load_result(tmp_path).figures, (figure,))


@pytest.mark.parametrize("frame", [
    pd.DataFrame({"x": [1.0, np.nan, np.inf, -np.inf]}),
    pd.DataFrame({"x": np.array([0.1, np.nan], dtype="float32"), "i": np.array([1, -2], dtype="int8"), "b": [True, False], "s": ["a", "é\x00"]}),
    pd.DataFrame({"s": pd.Series(["\ud800", "a"], dtype=object), "t": pd.Series(["a", "b"], dtype=object)}),
    pd.DataFrame({"a": pd.Series([], dtype=object), "b": pd.Series([], dtype="float64")}),
    pd.DataFrame(),
    pd.DataFrame({"x": [1, 2]}, index=pd.Index([5, 7], name="at")),
])
def test_any_frame_comes_back_as_it_was(tmp_path, frame):
    save_result(with_frame(frame), tmp_path)
    assert same(load_result(tmp_path).tables["only"].frame, frame)


def test_missing_text_comes_back_as_missing(tmp_path):
    save_result(with_frame(pd.DataFrame({"s": pd.Series(["a", None], dtype=object)})), tmp_path)
    assert load_result(tmp_path).tables["only"].frame["s"].isna().tolist() == [False, True]


def test_result_json_is_strict_sorted_and_has_a_format(tmp_path):
    text = save_result(result(), tmp_path).read_text()
    assert "NaN" not in text.replace('"nan"', "") and "Infinity" not in text
    data = json.loads(text)
    assert data["format"] == 1
    assert list(data) == sorted(data)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    save_result(result(), tmp_path / "a")
    save_result(result(), tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    save_result(load_result(tmp_path / "a"), tmp_path / "c")
    assert tree(tmp_path / "c") == tree(tmp_path / "a")


def test_files_of_an_earlier_result_leave(tmp_path):
    save_result(result(tables={"old": table()}), tmp_path)
    save_result(result(tables={"new": table()}, figures=()), tmp_path)
    assert sorted(tree(tmp_path)) == ["result.json", "tables/new.parquet"]


@pytest.mark.parametrize("failing", range(1, 6))
def test_a_failure_leaves_no_result_and_nothing_half_written(tmp_path, monkeypatch, failing):
    """The disk is full at the n-th file: what is there is whole, and nothing says that the result is."""
    save_result(result(), tmp_path / "whole")
    whole, calls, real = tree(tmp_path / "whole"), [], os.replace

    def full(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(reports.store.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        save_result(result(), tmp_path / "run")
    left = tree(tmp_path / "run")
    assert "result.json" not in left
    assert len(left) == failing - 1
    assert all(whole[name] == content for name, content in left.items())
    with pytest.raises(StoreError, match="run holds no result: result.json is missing"):
        load_result(tmp_path / "run")


def test_result_json_is_written_last(tmp_path, monkeypatch):
    order, real = [], os.replace
    monkeypatch.setattr(reports.store.os, "replace", lambda a, b: (order.append(b.name), real(a, b)))
    save_result(result(), tmp_path)
    assert order[-1] == "result.json" and len(order) > 3


def test_a_result_that_cannot_be_saved_leaves_the_earlier_one(tmp_path):
    save_result(result(), tmp_path)
    before = tree(tmp_path)
    with pytest.raises(StoreError, match=r"parameters\.model must be made of .*got builtins\.object"):
        save_result(result(parameters={"model": object()}), tmp_path)
    assert tree(tmp_path) == before


class HalfWritten:
    """A file that takes half of what it is given and then fails."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def write(self, content):
        self.file.write(content[: len(content) // 2])
        raise KeyboardInterrupt


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a" / "run.json"
    write_atomically(path, "old")
    monkeypatch.setattr(reports.store, "open", lambda *args: HalfWritten(builtins.open(*args)), raising=False)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new and longer")
    assert tree(tmp_path) == {"a/run.json": b"old"}


def test_written_files_have_the_usual_permissions(tmp_path):
    (tmp_path / "usual").write_text("")
    write_atomically(tmp_path / "ours", b"\x00")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda f: (f / "result.json").unlink(), r"holds no result: result\.json is missing"),
    (lambda f: (f / "result.json").write_text('{"format": 1, "analysis'), r"result\.json is not whole JSON \(Unterminated string"),
    (lambda f: (f / "result.json").write_bytes(b"\xff\xfe\x00"), r"result\.json is not whole JSON"),
    (lambda f: (f / "result.json").write_text('{"format": 7}'), r"result\.json must have format 1, got 7; read it with the version"),
    (lambda f: (f / "result.json").write_text("[]"), r"result\.json must have format 1, got 'list'"),
    (lambda f: (f / "result.json").write_text('{"format": 1}'), r"result\.json is not a whole result: KeyError: 'verdict'"),
    (lambda f: (f / "tables/zeta.parquet").unlink(), r"zeta\.parquet is missing although result\.json names it"),
    (lambda f: (f / "tables/zeta.parquet").write_bytes((f / "tables/zeta.parquet").read_bytes()[:-20]), r"zeta\.parquet was cut or changed: .*got [0-9a-f]{12}…"),
    (lambda f: (f / "figures/heatmap.npz").write_bytes(b"PK"), r"heatmap\.npz was cut or changed"),
    (lambda f: (f / "result.json").write_text((f / "result.json").read_text().replace('"kind": "Bars"', '"kind": "Pie"')), r"must be one of Heatmap, .*, got 'Pie'"),
    (lambda f: (f / "result.json").write_text((f / "result.json").read_text().replace('"name": "zeta"', '"name": "../../x"')), r"got '\.\./\.\./x'"),
])
def test_what_is_not_whole_is_one_clear_sentence(tmp_path, spoil, message):
    save_result(result(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(StoreError, match=message) as caught:
        load_result(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("changes", "message"), [
    ({"tables": {"../x": table()}}, r"the name of a table becomes a file name, .*got '\.\./x'"),
    ({"tables": {"mixed": Table(frame=pd.DataFrame({"a": [1, "b"]}), columns={"a": Column(unit="", meaning="m")}, caption="c")}},
     r"table 'mixed' cannot be kept as parquet"),
    ({"tables": {"t": Table(frame=pd.DataFrame({3: [1]}), columns={3: Column(unit="", meaning="m")}, caption="c")}}, r"table 't': column names must be text, got 3"),
    ({"figures": (Figure(name="bare", **WORDS),)}, r"figure 'bare' must be one of Heatmap, .*, got Figure"),
])
def test_what_cannot_be_saved_is_refused(tmp_path, changes, message):
    with pytest.raises(StoreError, match=message):
        save_result(result(**changes), tmp_path)
    assert not tree(tmp_path)


def test_a_subclass_of_a_figure_is_refused_because_it_would_come_back_as_another_kind(tmp_path):
    class Other(Heatmap):
        pass
    figure = Other(name="o", **WORDS, values=np.zeros((1, 1)), rows=["a"], columns=["b"], row_label="r", column_label="c", unit="1")
    with pytest.raises(StoreError, match="got Other"):
        save_result(result(figures=(figure,)), tmp_path)


def test_a_run_comes_back_in_its_order(tmp_path):
    run = {"title": "t", "state": "complete", "analyses": ["z", "a"], "parameters": {"b": (1, 2), "a": float("inf")}, "provenance": provenance()}
    save_run(tmp_path, run)
    back = load_run(tmp_path)
    assert same(back, {**run, "provenance": vars(provenance())})
    assert json.loads((tmp_path / "run.json").read_text())["format"] == 1


def test_a_run_has_its_errors(tmp_path):
    with pytest.raises(StoreError, match="holds no run: run.json is missing"):
        load_run(tmp_path)
    with pytest.raises(StoreError, match="got the key format=3; take it out"):
        save_run(tmp_path, {"format": 3})
    with pytest.raises(StoreError, match=r"run\.model must be made of"):
        save_run(tmp_path, {"model": object()})
    (tmp_path / "run.json").write_text('{"format": 0}')
    with pytest.raises(StoreError, match="must have format 1, got 0"):
        load_run(tmp_path)
