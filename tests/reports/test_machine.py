"""Does `report.json` say what the report says, in its own form, without a number lost?"""

from __future__ import annotations

import json
import math
from importlib.resources import files

import jsonschema
import pandas as pd
import pytest

from reports import Column, Evidence, Table, Verdict, content_hash, page, render, save_result, save_run
from reports.encode import decode
from reports.machine import SCHEMA, SMALL, machine_json, machine_report
from reports.saved import read_saved
from reports.store import saved_files
from tests.reports.samples import HOSTILE, provenance, result, table

FORM = json.loads((files("reports") / "assets" / "report.schema.json").read_text())


def valid(report: dict) -> dict:
    jsonschema.validate(report, FORM, cls=jsonschema.Draft202012Validator)
    return report


@pytest.fixture
def folder(tmp_path):
    parameters = {"model": "toy", "analyses": {"b": {"alpha": (1, 2), "bound": math.inf}, "a": {}}}
    save_run(tmp_path, {"title": "t", "state": "complete", "analyses": ["b", "a"], "parameters": parameters, "provenance": provenance()})
    for name in "ab":
        save_result(result(analysis=name), tmp_path / name)
    render(tmp_path)
    return tmp_path


def test_the_form_itself_is_sound():
    jsonschema.Draft202012Validator.check_schema(FORM)
    assert FORM["properties"]["schema"]["const"] == SCHEMA


def test_a_rendered_run_has_a_report_in_its_form(folder):
    text = (folder / "report.json").read_text()
    report = valid(json.loads(text))
    assert text.isascii() and "NaN" not in text.replace('"NaN', "") and report["title"] == "t"
    assert [one["name"] for one in report["analyses"]] == ["b", "a"] and report["missing"] == []
    assert report["content_hash"] == content_hash([result(analysis="b"), result(analysis="a")])
    assert report["parameters"]["analyses"]["b"] == {"alpha": [1, 2], "bound": {"$float": "inf"}}
    assert list(report["parameters"]["analyses"]) == ["b", "a"]


def test_every_file_is_named_with_its_digest(folder):
    import hashlib

    report = json.loads((folder / "report.json").read_text())
    parts = [part for one in report["analyses"] for part in (*one["tables"], *one["figures"])]
    assert len(parts) == 2 * (2 + len(result().figures))
    for part in parts:
        assert (part["sha256"] is None) == (not (folder / part["file"]).exists())
        if part["sha256"]:
            assert hashlib.sha256((folder / part["file"]).read_bytes()).hexdigest() == part["sha256"]
    assert set(saved_files(folder / "a")) == {
        part["file"].removeprefix("a/") for part in parts if part["file"].startswith("a/") and part["sha256"]
    }


def test_evidence_says_whether_it_is_kept():
    evidence = (
        Evidence(name="kept", measured=1.0, unit="nats", threshold=2.0, relation="<="),
        Evidence(name="broken", measured=0.5, unit="1", threshold=0.3, relation="<"),
        Evidence(name="open", measured=math.nan, unit="1", threshold=0.3, relation="<"),
        Evidence(name="told", measured=-math.inf, unit="1"),
        Evidence(name="near", measured=1.03, unit="1", threshold=1.0, relation="==", margin=0.05),
        Evidence(name="far", measured=1.03, unit="1", threshold=1.0, relation="==", margin=0.02),
    )
    report = valid(machine_report([result(verdict=Verdict(status="inconclusive", claim="c", evidence=evidence))], {}))
    told = {e["name"]: e for e in report["analyses"][0]["verdict"]["evidence"]}
    assert [told[name]["kept"] for name in ("kept", "broken", "open", "told", "near", "far")] == [True, False, None, None, True, False]
    assert [told[name]["margin"] for name in ("kept", "near")] == [0.0, 0.05]
    assert told["open"]["measured"] == {"$float": "nan"} and told["told"]["measured"] == {"$float": "-inf"}
    assert told["told"]["threshold"] is None and told["told"]["relation"] is None and told["open"]["threshold"] == 0.3


def test_small_tables_stand_in_it_with_every_digit_and_no_null():
    report = valid(json.loads(machine_json([result(tables={"zeta": table(), "long": table(rows=SMALL)})], {})))
    zeta, long = report["analyses"][0]["tables"]
    assert zeta["values"]["effect"] == [0.0, {"$float": "nan"}, 2 / 7] and zeta["values"]["flagged"] == [True, False, True]
    assert [c["type"] for c in zeta["columns"]] == ["text", "number", "integer", "boolean"] and zeta["columns"][1]["unit"] == "nats"
    assert "values" not in long and long["rows"] == SMALL
    pd.testing.assert_frame_equal(
        pd.DataFrame({k: decode(v) for k, v in zeta["values"].items()}), table().frame.astype({"token": object}), check_dtype=False
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back(text):
    report = valid(json.loads(machine_json([result(text)], {"parameters": {text: text}, "provenance": vars(provenance(text))})))
    assert report["analyses"][0]["verdict"]["claim"] == text and decode(report["parameters"]) == {text: text}


def test_what_the_form_refuses():
    whole = machine_report([result()], {})
    for broken in (
        whole | {"schema": "prosect-report/2"},
        whole | {"extra": 1},
        {k: v for k, v in whole.items() if k != "provenance"},
        whole | {"analyses": [whole["analyses"][0] | {"verdict": whole["analyses"][0]["verdict"] | {"status": "good"}}]},
    ):
        with pytest.raises(jsonschema.ValidationError):
            valid(broken)
    missing = json.loads(json.dumps(whole))
    missing["analyses"][0]["verdict"]["evidence"][0]["measured"] = None
    with pytest.raises(jsonschema.ValidationError):
        valid(missing)


def test_the_page_carries_the_same_report(tmp_path, folder):
    """Without the digests of files, which the page does not know."""
    from reports.embedded import read_embedded

    (one,) = [file for file in read_embedded(folder / "report.html") if file.kind == "report"]
    carried, beside = valid(json.loads(one.content)), json.loads((folder / "report.json").read_text())
    for report in (carried, beside):
        for analysis in report["analyses"]:
            for part in (*analysis["tables"], *analysis["figures"]):
                part["sha256"] = None
    assert carried == beside
    path = tmp_path / "page.html"
    path.write_text(page([result()], title="t"), encoding="utf-8")
    assert [one.name for one in read_saved(path).analyses] == ["head-ablation"]


def test_a_small_table_of_packed_arrays_stands_in_its_file_alone():
    """A few cells may hold megabytes."""
    frame = pd.DataFrame({"head": [0, 1], "packed": ["eNpj" * 5_000, "b" * 4_000]})
    columns = {name: Column(unit="", meaning="m") for name in frame.columns}
    told = [
        machine_report([result(tables={"p": Table(frame=some, columns=columns, caption="c")})], {})["analyses"][0]["tables"][0]
        for some in (frame, frame.assign(packed="short"))
    ]
    assert ["values" in one for one in told] == [False, True] and told[0]["rows"] == 2
