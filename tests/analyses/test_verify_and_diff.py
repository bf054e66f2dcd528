"""Does a report verify itself, from its folder and from the page alone, and is what changed between two runs said?"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from analyses import __main__ as command_line
from model import load_model, save_model
from reports import Verdict, load_result, load_run, save_result
from reports.embedded import Embedded, read_embedded
from tests.analyses.test_command_line import one_sentence, prosect

QUICK = ["run", "attention", "--n-chunks", "2", "--n-sequences", "2"]


def run(*words: str) -> int:
    """The command line without capturing, for fixtures."""
    import sys

    before = sys.argv
    sys.argv = ["prosect", *words]
    try:
        return command_line.main()
    finally:
        sys.argv = before


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run on a model that stands in a folder of its own."""
    place = tmp_path_factory.mktemp("here")
    save_model(load_model("induction"), place / "weights")
    assert run(*QUICK, "--model", str(place / "weights"), "--out", str(place / "run")) == 0
    return place / "run"


@pytest.fixture
def page(folder: Path, tmp_path: Path) -> Path:
    """The page of that run, taken elsewhere."""
    return Path(shutil.copy(folder / "report.html", tmp_path / "page.html"))


def rewritten(page: Path, name: str, change) -> None:
    """The page with one of its files replaced and announced rightly, as a careful forger would."""
    html = page.read_text(encoding="utf-8")
    old = next(file for file in read_embedded(page) if file.name == name)
    element = str(change(old).element)
    page.write_text(
        re.sub(rf'<script type="application/json" data-file="{re.escape(name)}">.*?</script>', lambda _: element, html), encoding="utf-8"
    )


def report_changed(page: Path, change) -> None:
    def edit(file: Embedded) -> Embedded:
        told = json.loads(file.content)
        change(told)
        return dataclasses.replace(file, content=json.dumps(told).encode())

    rewritten(page, "report.json", edit)


def test_a_page_verifies_itself(folder, page, capsys):
    status, out, err = prosect(capsys, "verify", str(page))
    lines = out.splitlines()
    assert status == 0 and lines[-1] == "agrees", out + err
    assert {line.split(": ")[0] for line in lines[:-1] if line.startswith("attention/")} == {
        f"attention/{name}" for name in load_result(folder / "attention").tables
    }
    assert "attention/heads: exact" in lines and not any("differs" in line for line in lines)
    assert prosect(capsys, "verify", str(folder))[0] == 0


def test_a_forged_number_is_found(page, capsys):
    def forge(file: Embedded) -> Embedded:
        header, first, *rest = file.content.decode().splitlines()
        cells = first.split(",")
        column = header.split(",").index("entropy")
        cells[column] = repr(float(cells[column]) + 0.01)
        return dataclasses.replace(file, content="\n".join([header, ",".join(cells), *rest, ""]).encode())

    rewritten(page, "attention-heads.csv", forge)
    status, out, _ = prosect(capsys, "verify", str(page))
    assert (
        status == 1 and re.search(r"attention/heads: differs \(entropy, row 0: \S+, now \S+\)", out) and out.splitlines()[-1] == "differs"
    )


def test_a_cut_table_is_compared_as_far_as_it_goes(page, capsys):
    rewritten(
        page,
        "attention-heads.csv",
        lambda file: dataclasses.replace(file, content=b"\n".join(file.content.split(b"\n")[:4]) + b"\n", rows=3),
    )
    status, out, _ = prosect(capsys, "verify", str(page))
    assert status == 0 and "attention/heads: exact (the first 3 of 8 rows)" in out


def test_other_versions_and_hardware_are_named(page, capsys):
    report_changed(
        page, lambda told: told["provenance"].update(threads=64, platform="Plan9 vax") or told["provenance"]["versions"].update(torch="0.1")
    )
    status, out, _ = prosect(capsys, "verify", str(page))
    assert status == 0
    assert (
        re.search(r"note: versions torch: 0\.1, now \d", out)
        and "note: threads: 64, now " in out
        and "note: platform: Plan9 vax, now " in out
    )


def test_another_verdict_from_the_same_tables_differs(page, capsys):
    report_changed(page, lambda told: told["analyses"][0]["verdict"].update(status="fail"))
    status, out, _ = prosect(capsys, "verify", str(page))
    assert out.count("note: verdict of attention") == 1
    assert status == 1


def test_weights_that_have_moved(folder, page, tmp_path, capsys):
    weights = folder.parent / "weights"
    elsewhere = tmp_path / "weights"
    weights.rename(elsewhere)
    try:
        status, out, err = prosect(capsys, "verify", str(page))
        assert status == 2 and one_sentence(err) and out == ""
        assert f"the model of this run was at {weights}, which is not here" in err and f"prosect verify {page} --model PATH" in err
        status, out, _ = prosect(capsys, "verify", str(page), "--model", str(elsewhere))
        assert status == 0 and "attention/heads: exact" in out and "model name" not in out
        status, _, err = prosect(capsys, "verify", str(page), "--model", "glasslm")
        assert status == 2 and one_sentence(err) and "glasslm holds other weights than the run's: SHA-256 " in err
    finally:
        elsewhere.rename(weights)


@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("is incomplete; run its command again first: prosect run attention", lambda told: told.update(state="incomplete")),
        ("are not those of a run; it was changed", lambda told: told["parameters"].update(model=["a"])),
        ("are not those of a run; it was changed", lambda told: told["parameters"].update(dtype="load")),
        ("are not those of a run; it was changed", lambda told: told["parameters"].update(analyses=3)),
        ("are not those of a run; it was changed", lambda told: told["provenance"].update(versions="new")),
        (
            "holds studies, which train their own models",
            lambda told: told.update(parameters={"studies": ["residual"], "budget": "smoke", "seed": 0}),
        ),
        ("unexpected keyword argument 'exec'", lambda told: told["parameters"].update(exec="rm")),
        (
            "unknown analysis 'os.system'",
            lambda told: told["parameters"].update(analyses={"os.system": {}}) or told["analyses"][0].update(name="os.system", tables=[]),
        ),
        ("unexpected keyword argument 'heads'", lambda told: told["parameters"]["analyses"]["attention"].update(heads=1)),
        ("n_chunks must be at least 1, got 0", lambda told: told["parameters"]["analyses"]["attention"].update(n_chunks=0)),
        ("has results of attention, but was asked for ", lambda told: told["parameters"].update(analyses={})),
        ("must be of form prosect-report/1, got 'prosect-report/2'", lambda told: told.update(schema="prosect-report/2")),
        (
            "unknown model 'nowhere'",
            lambda told: told["parameters"].update(model="nowhere") or told["provenance"]["model"].update(kind="package"),
        ),
    ],
)
def test_a_page_that_was_changed_is_a_mistake_in_one_sentence(page, capsys, message, change):
    report_changed(page, change)
    status, out, err = prosect(capsys, "verify", str(page))
    assert status == 2 and one_sentence(err) and message in err and out == "", err


def test_foreign_files_are_mistakes_in_one_sentence(folder, page, tmp_path, capsys):
    (tmp_path / "other.html").write_text("<html><body>hello</body></html>")
    (tmp_path / "half.html").write_text(page.read_text()[:-3000])
    (tmp_path / "pickle.html").write_bytes(b"\x80\x04\x95cos\nsystem\n")
    for name in ("other.html", "half.html", "pickle.html", "missing"):
        for words in (
            ["verify", str(tmp_path / name)],
            ["diff", str(folder), str(tmp_path / name)],
            ["report", "--only", "attention", "--baseline", str(tmp_path / name), "--out", str(tmp_path / "o")],
        ):
            status, out, err = prosect(capsys, *words, *(["--model", "induction"] if words[0] == "report" else []))
            assert status == 2 and one_sentence(err) and out == "", (words, err)
    assert not (tmp_path / "o").exists()


def test_what_a_page_says_cannot_steer_the_terminal(folder, page, capsys):
    report_changed(page, lambda told: told.update(title="\x1b[2J\u202eevil\nagrees"))
    status, out, _ = prosect(capsys, "diff", str(page), str(folder))
    assert status == 0 and "\x1b" not in out and "\u202e" not in out and out.splitlines()[0].startswith("A: ")


def test_diff_of_a_folder_and_its_page(folder, page, capsys):
    status, out, _ = prosect(capsys, "diff", str(folder), str(page))
    n = len(load_result(folder / "attention").tables)
    assert status == 0 and out.splitlines()[-1] == "same" and re.search(rf"tables: \d+ of {n} are exactly the same", out)
    assert "parameters" not in out.splitlines() and "verdicts" not in out.splitlines()


@pytest.fixture
def changed(folder, tmp_path) -> Path:
    """The same run, in whose table of heads two rows are gone and one number is another, with another verdict and threshold."""
    other = Path(shutil.copytree(folder, tmp_path / "changed"))
    result = load_result(other / "attention")
    heads = result.tables["heads"]
    frame = heads.frame.drop(index=[1, 5]).reset_index(drop=True)
    frame.loc[3, "induction"] += 0.25
    verdict = Verdict(
        status="fail",
        claim="Something else.",
        evidence=(dataclasses.replace(result.verdict.evidence[0], measured=0.125), *result.verdict.evidence[1:]),
    )
    save_result(
        dataclasses.replace(result, tables={**result.tables, "heads": dataclasses.replace(heads, frame=frame)}, verdict=verdict),
        other / "attention",
    )
    from reports import render

    render(other)
    return other


@pytest.mark.parametrize("which", ["folders", "page and folder", "pages"])
def test_diff_joins_rows_and_names_the_largest_changes(folder, page, changed, which, tmp_path, capsys):
    a, b = (folder if which == "folders" else page), (changed / "report.html" if which == "pages" else changed)
    status, out, _ = prosect(capsys, "diff", str(a), str(b), "--html", str(tmp_path / "diff.html"))
    assert status == 1 and out.splitlines()[-1] == "different"
    assert re.search(r"  attention: \w+ → fail\n    − .*\n    \+ Something else\.\n    .*: \S+ → 0\.125\n", out)
    assert "attention/heads: differs (8 rows of " in out and "rows only in A: 2, only in B: 0, in both: 6" in out
    assert re.search(r"numbers that differ: 1, the largest:\n +attention=self layer=\d head=\d  induction: \S+ → \S+\n", out)
    html = (tmp_path / "diff.html").read_text()
    assert "1 verdict and 1 of" in html and "Largest changes" in html and "Something else." not in html


def test_the_report_tells_what_has_changed_since_a_baseline(folder, page, changed, capsys):
    assert "Since the baseline" not in (changed / "report.html").read_text()
    status, _, err = prosect(capsys, "render", str(changed), "--baseline", str(page))
    assert status == 0, err
    html = (changed / "report.html").read_text()
    text = " ".join(
        re.sub(
            r"<[^>]*>", " ", html[html.index('<section id="baseline">') : html.index("</section>", html.index('<section id="baseline">'))]
        ).split()
    )
    assert (
        "1 of 1 verdicts and 1 of" in text
        and "2 rows only before, 0 only now; 1 number changed, the largest: attention=self layer=" in text
    )
    assert (
        re.search(r" \d\S*( \S+)? 0\.125", text) and '<a href="#baseline">' in html and html.index('id="verdicts"') < html.index('id="baseline"')
    )
    assert json.loads((changed / "report.json").read_text())["baseline"]["verdicts"][0]["now"] == "fail"
    before = (changed / "report.html").read_bytes()
    assert prosect(capsys, "render", str(changed))[0] == 0 and (changed / "report.html").read_bytes() == before


def test_a_run_with_itself_as_baseline_has_the_same_answers(folder, page, tmp_path, capsys):
    assert prosect(capsys, *QUICK, "--model", str(folder.parent / "weights"), "--out", str(tmp_path / "again"))[0] == 0
    assert prosect(capsys, "render", str(tmp_path / "again"), "--baseline", str(page))[0] == 0
    assert "the same questions, and the same answers." in " ".join((tmp_path / "again" / "report.html").read_text().split())
    assert load_run(tmp_path / "again")["baseline"]["same"] is True


def test_fail_on_ends_with_3_also_where_the_run_was_complete(folder, tmp_path, capsys):
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    result = load_result(copy / "attention")
    for status, fail_on, expected in (
        ("pass", "warn", 0),
        ("inconclusive", "warn", 0),
        ("warn", "warn", 3),
        ("warn", "fail", 0),
        ("fail", "fail", 3),
        ("gate failed", "fail", 3),
    ):
        save_result(dataclasses.replace(result, verdict=Verdict(status=status, claim="c")), copy / "attention")
        ended, out, err = prosect(capsys, *QUICK, "--model", str(folder.parent / "weights"), "--out", str(copy), "--fail-on", fail_on)
        assert ended == expected and out == f"{copy / 'report.html'}\n", err
        assert (err == f"prosect: --fail-on {fail_on}: attention ({status})\n") == (expected == 3)
    assert prosect(capsys, *QUICK, "--model", "induction", "--fail-on", "inconclusive")[0] == 2
