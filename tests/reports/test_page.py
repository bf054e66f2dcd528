"""Is the page whole, safe against the text it shows, and the same every time?"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pytest

from reports import (
    STATUSES,
    Bars,
    Column,
    Evidence,
    StoreError,
    Table,
    Verdict,
    content_hash,
    load_result,
    page,
    render,
    save_result,
    save_run,
)
from reports.text import visible_text
from tests.reports.samples import HOSTILE, WORDS, figures, provenance, result, table

ROOT = Path(__file__).parents[2]
LINKS = {"href", "src", "srcset", "action", "formaction", "data", "poster", "background", "xlink:href", "ping", "cite"}
VOID = {"meta", "link", "img", "br", "hr", "input"}


class Parsed(HTMLParser):
    """A page as its elements, in order: (tag, attributes), the text of each kind of element, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.inside: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        assert len({name for name, _ in attributes}) == len(attributes), f"an attribute of {tag} stands twice"
        self.elements.append((tag, {name: value or "" for name, value in attributes}))
        if tag in {"td", "th", "a"}:
            self.handle_data(" ")  # cells and links stand apart
        if tag not in VOID:
            self.inside.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_endtag(self, tag):
        assert self.inside and self.inside[-1] == tag, f"</{tag}> closes {self.inside[-1:]}"
        self.inside.pop()

    def handle_data(self, data):
        for tag in set(self.inside):
            self.text[tag][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def checked(html: str) -> Parsed:
    """The parsed page, after everything that holds for every page."""
    html.encode("utf-8")
    parsed = Parsed(html)
    assert parsed.inside == []
    tags = [tag for tag, _ in parsed.elements]
    assert not set(tags) & {"iframe", "object", "embed", "base", "form", "svg", "math", "video", "audio", "template"}
    for tag, attributes in parsed.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        for name in LINKS & attributes.keys():
            assert attributes[name].startswith(("#", "data:image/svg+xml;charset=utf-8,", "data:,")), (tag, name, attributes[name][:60])
    ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in parsed.all("a") if a["href"].startswith("#")} <= set(ids)
    assert_policy(html, parsed)
    for image in parsed.all("img"):
        assert image["alt"].strip()
        ET.fromstring(unquote(image["src"].partition(",")[2]))
    headings = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1 and headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(headings, headings[1:], strict=False))
    return parsed


def assert_policy(html: str, parsed: Parsed) -> None:
    """The policy comes first in head, and allows exactly the one style and the one script."""
    assert parsed.elements[2][0] == "meta" and parsed.elements[2][1]["http-equiv"] == "Content-Security-Policy"
    scripts, styles = re.findall(r"<script>(.*?)</script>", html, re.S), re.findall(r"<style>(.*?)</style>", html.partition("<body>")[0], re.S)
    running = [script for script in parsed.all("script") if script.get("type") != "application/json"]
    assert len(scripts) == len(styles) == 1 == len(running) == len(parsed.all("style")) and running[0] == {}
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S):
        assert data.isascii() and not set(data) & set("<>&")
        json.loads(data)
    script, style = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (scripts[0], styles[0]))
    assert parsed.elements[2][1]["content"] == (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'")


@pytest.fixture(scope="module")
def harmless() -> Parsed:
    return checked(page([result()], title="t", run={"state": "complete"}))


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text_everywhere(text, harmless):
    """Through every place that takes text; the page has the elements of the harmless one, and shows the text as it is."""
    run = {"state": "complete", "parameters": {text: text}, "provenance": dataclasses.asdict(provenance(text))}
    parsed = checked(page([result(text)], title=text, run=run))
    tags = lambda p: {tag for tag, _ in p.elements}  # noqa: E731
    assert tags(parsed) == tags(harmless)
    shown = visible_text(text).replace("\n", " ")
    for tag in ("title", "h1", "h3", "figcaption", "p", "dd", "dt", "td", "summary", "code", "li"):
        assert any(shown in one for one in parsed.text[tag]), tag
    assert all(shown in image["alt"] for image in parsed.all("img"))
    names = [button["data-file"] for button in parsed.all("button") if "data-file" in button]
    assert len(names) > 3 and all(re.fullmatch(r"[A-Za-z0-9._-]+\.(csv|json)", name) for name in names)


def test_the_detectors_of_this_test_are_awake():
    """Positive control: what the page must not hold is noticed."""
    whole = page([result()], title="t")
    for planted in ("<script>alert(1)</script>", '<p onclick="x()">a</p>', '<p style="color:red">a</p>', '<img src="https://example.org/x.png" alt="a">',
                    '<a href="javascript:alert(1)">a</a>', "<b>", '<base href="x">'):
        with pytest.raises(AssertionError):
            checked(whole.replace("</main>", planted + "</main>"))
    with pytest.raises(AssertionError):
        checked(whole.replace("script-src 'sha256-", "script-src 'unsafe-inline' 'sha256-"))


def test_a_run_renders_to_the_same_bytes_in_fresh_processes(tmp_path):
    code = ("import sys; from reports import *; from tests.reports.samples import *; from pathlib import Path; f = Path(sys.argv[1]);"
            "save_run(f, {'title': 't', 'state': 'complete', 'analyses': ['b', 'a'], 'provenance': provenance()});"
            "[save_result(result(analysis=n), f / n) for n in 'ab']; render(f)")
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / seed], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": ""},
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    one, two = ({str(p.relative_to(tmp_path / s)): p.read_bytes() for p in (tmp_path / s).rglob("*") if p.is_file()} for s in ("1", "2"))
    assert one == two and "report.html" in one
    html = one["report.html"].decode()
    assert html.index('id="analysis-b"') < html.index('id="analysis-a"')


def test_a_saved_run_shows_what_the_run_in_memory_shows(tmp_path):
    results = [result(analysis="b"), result("other", analysis="a")]
    run = {"title": "t", "state": "complete", "analyses": ["b", "a"], "parameters": {"z": 1, "a": (2,)}, "provenance": provenance()}
    save_run(tmp_path, run)
    for one in results:
        save_result(one, tmp_path / one.analysis)
    assert render(tmp_path) == tmp_path / "report.html"
    assert (tmp_path / "report.html").read_text() == page(results, title="t", run=run)
    assert content_hash(results) == content_hash([load_result(tmp_path / one.analysis) for one in results])


def test_an_interrupted_run_says_so_on_top(tmp_path):
    save_run(tmp_path, {"state": "incomplete", "analyses": ["done", "never-ran"], "provenance": provenance()})
    save_result(result(analysis="done"), tmp_path / "done")
    html = render(tmp_path).read_text()
    parsed = checked(html)
    assert any("This run is incomplete. Not finished: never-ran. Starting it again" in " ".join(one.split()) for one in parsed.text["p"])
    assert html.index("This run is incomplete") < html.index('id="verdicts"')
    assert "This run is incomplete" not in page([result()], title="t", run={"state": "complete", "analyses": ["head-ablation"]})


def test_a_run_without_any_result_renders(tmp_path):
    save_run(tmp_path, {"state": "incomplete", "analyses": ["first"]})
    assert "No analysis has finished." in render(tmp_path).read_text()
    checked(page([], title="t"))


def test_a_broken_result_is_an_error_not_a_shorter_page(tmp_path):
    save_run(tmp_path, {"state": "complete", "analyses": ["a"]})
    save_result(result(analysis="a"), tmp_path / "a")
    (tmp_path / "a/tables/zeta.parquet").write_bytes(b"")
    with pytest.raises(StoreError, match="zeta.parquet was cut or changed"):
        render(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_results_without_figures_tables_notes_or_limits():
    bare = result(figures=(), tables={}, notes={}, limits="", parameters={}, verdict=Verdict(status="pass", claim="All is well."))
    parsed = checked(page([bare], title="t", run={"state": "complete"}))
    assert parsed.all("img") == [] and parsed.all("table") == []
    assert any("No analysis states a limit." in one for one in parsed.text["p"])


def test_the_cards_show_failures_first_and_at_most_eight():
    results = [result(f"claim {s}", analysis=s.replace(" ", "-"), figures=(), verdict=Verdict(status=s, claim=f"claim {s}")) for s in reversed(STATUSES)]
    html = page(results, title="t")
    parsed = checked(html)
    cards = [" ".join(one.split()) for tag, one in zip(parsed.all("li"), parsed.text["li"], strict=True) if "card" in tag.get("class", "").split()]
    assert [re.match(r"\S (.+?) claim", card)[1] for card in cards] == [
        "fail", "gate failed", "warn", "refuted", "conditional", "inconclusive", "unresolved", "confirmed"]
    assert "and 1 more" in html
    assert "and 1 more" not in page(results[:8], title="t")


def test_a_card_says_what_was_measured_against_which_bound_and_where():
    evidence = (Evidence(name="kept", measured=1.0, unit="nats", threshold=2.0, relation="<="),
                Evidence(name="broken", measured=0.62, unit="nats", threshold=0.3, relation="<", where="L16H0", source="the null"),
                Evidence(name="unjudged", measured=3, unit="heads"))
    html = page([result(verdict=Verdict(status="warn", claim="c", evidence=evidence), figures=(), tables={})], title="t")
    parsed = checked(html)
    said = [" ".join(one.split()) for one in parsed.text["p"]]
    assert "broken 0.62 nats must be < 0.3 · L16H0" in said
    assert said.index("broken 0.62 nats must be < 0.3 · L16H0") < said.index("kept 1 nats must be ≤ 2")
    assert not any(one.startswith("unjudged") for one in said)
    rows = [" ".join(one.split()) for one in parsed.text["tr"]]
    assert "kept 1 nats ≤ 2 ✓ kept" in rows
    assert "broken 0.62 nats < 0.3 ✕ broken L16H0 the null" in rows
    assert rows.index("unjudged 3 heads") > rows.index("kept 1 nats ≤ 2 ✓ kept")


def test_a_number_within_the_margin_of_what_it_must_be_equal_to_is_kept():
    evidence = [Evidence(name=f"weights {m}", measured=1.03, unit="1", threshold=1.0, relation="==", margin=m) for m in (0.05, 0.02)]
    parsed = checked(page([result(verdict=Verdict(status="confirmed", claim="c", evidence=tuple(evidence)), figures=(), tables={})], title="t"))
    rows = [" ".join(one.split()) for one in parsed.text["tr"]]
    assert "weights 0.05 1.03 1 ± 0.05 ✓ kept" in rows and "weights 0.02 1.03 1 ± 0.02 ✕ broken" in rows


def test_the_table_of_questions_says_how_many_parts_of_the_answer_hold_unless_a_gate_is_broken():
    parts = [Evidence(name=f"part {i}", measured=1.0, unit="1", threshold=0.5, relation=">", outcome=outcome, source=f"it is {i}")
             for i, outcome in enumerate(["holds", "fails", "open", "holds"])]
    gate = Evidence(name="gate", measured=1.0, unit="1", threshold=0.5, relation="<", source="it learns")

    def row(status, *evidence):
        parsed = checked(page([result("why?", verdict=Verdict(status=status, claim="c", evidence=evidence), figures=(), tables={})], title="t"))
        return next(" ".join(one.split()) for one in parsed.text["tr"] if one.strip().startswith("why?"))

    assert "2 of 4 parts hold" in row("conditional", *parts) and "✕ fails: it is 1" in row("conditional", *parts)
    assert "1 of 1 part holds" in row("confirmed", parts[0])
    assert "hold" not in row("gate failed", gate, *parts) and "it learns" in row("gate failed", gate, *parts)


def test_numbers_without_a_threshold_are_folded_and_counted():
    judged = Evidence(name="judged", measured=0.0, unit="1", threshold=0.0, relation="==")
    some = tuple(Evidence(name=f"told {i}", measured=-1.0, unit="1", source="somebody") for i in range(9))
    folded = re.compile(r'<details class="reported"( open)?><summary>9 numbers reported only, without a threshold</summary>')
    both = page([result(verdict=Verdict(status="pass", claim="c", evidence=(judged, *some)))], title="t")
    found = folded.search(both)
    assert found and not found[1] and both.index("exactly 0 ✓ kept") < found.start() < both.index("told 8")
    rows = [" ".join(one.split()) for one in checked(both).text["tr"]]
    assert "told 8 −1 somebody" in rows and "evidence measured as defined by" in rows and "evidence measured must be" in rows
    alone = page([result(verdict=Verdict(status="pass", claim="c", evidence=some[:2]))], title="t")
    assert '<details class="reported" open><summary>2 numbers' in alone and ">must be<" not in alone


def test_a_card_holds_the_first_sentence_and_the_article_the_whole_claim():
    claim = "Loss falls by -0.5 nats (n = 4. By head). The rest, 12 of 30 heads, does nothing."
    parsed = checked(page([result("Ablation", verdict=Verdict(status="warn", claim=claim, why="For it matters."), figures=())], title="t"))
    said = [" ".join(one.split()) for one in parsed.text["p"]]
    assert said.count("Loss falls by −0.5 nats (n = 4. By head).") == 1 and said.count(claim.replace("-0.5", "−0.5")) == 1
    assert said.count("For it matters.") == 1 and [a["href"] for a in parsed.all("a") if a.get("aria-label") == "more on Ablation"] == ["#analysis-head-ablation"]


@pytest.mark.parametrize(("statuses", "said"), [
    (["pass", "pass"], "Nothing is wrong: all 2 analyses pass."), (["pass"], "Nothing is wrong: the analysis passes."),
    (["fail", "warn", "pass"], "Something is wrong: 1 of 3 analyses fails, 1 warns."), (["fail", "fail"], "Something is wrong: 2 of 2 analyses fail."),
    (["warn", "warn", "inconclusive"], "Nothing fails; 2 of 3 analyses warn, 1 cannot tell."), (["inconclusive", "pass"], "Nothing fails; 1 of 2 analyses cannot tell."),
])
def test_the_first_line_says_whether_something_is_wrong(statuses, said):
    html = page([result(analysis=f"a{i}", figures=(), verdict=Verdict(status=status, claim="c")) for i, status in enumerate(statuses)], title="t")
    assert f'<p class="answer">{said}</p>' in html
    assert 'class="answer"' not in page([result(verdict=Verdict(status="refuted", claim="c"))], title="t")


def test_what_does_not_apply_is_a_dash_that_is_read_as_such():
    html = page([result(figures=())], title="t")
    assert '<td class="number" aria-label="n/a">–</td>' in html and ">NaN</td>" not in html


def test_a_missing_measurement_is_neither_kept_nor_broken():
    evidence = (Evidence(name="gap", measured=float("nan"), unit="nats", threshold=0.1, relation="<"),)
    parsed = checked(page([result(verdict=Verdict(status="inconclusive", claim="c", evidence=evidence))], title="t"))
    assert "gap – < 0.1 – not checked" in [" ".join(one.split()) for one in parsed.text["tr"]]


def gates_of(**columns) -> Table:
    frame = pd.DataFrame({"gate": ["row sums", "causality", "padding"], "measured": [2e-7, 0.5, np.nan], "bound": 1e-5, **columns})
    return Table(frame=frame, columns={name: Column(unit="1", meaning="m") for name in frame.columns}, caption="c")


def test_gates_show_what_broke_first_and_what_was_not_checked():
    whole = gates_of(status=["kept", "broken", "not checked"], where=["L1H2", "position 3", ""], compared=["rows", "logits", "one length only"], why="because")
    parsed = checked(page([result(tables={"gates": whole}, figures=())], title="t"))
    rows = [" ".join(one.split()) for one in parsed.text["tr"]]
    start = rows.index(next(row for row in rows if row.startswith("gate status largest error")))
    assert rows[start + 1 : start + 4] == [
        "causality word ✕ broken 0.5 1e−5 position 3 logitsbecause", "row sums word ✓ kept 2e−7 1e−5 L1H2 rowsbecause", "padding word – not checked – 1e−5 one length onlybecause"]
    assert "word: padding: one length only" in [" ".join(one.split()) for one in parsed.text["li"]]


def test_gates_have_no_empty_columns():
    parsed = checked(page([result(tables={"gates": gates_of()}, figures=())], title="t"))
    rows = [" ".join(one.split()) for one in parsed.text["tr"]]
    assert "gate status largest error bound" in rows
    placed = checked(page([result(tables={"gates": gates_of(where=["", "", "L1"])}, figures=())], title="t"))
    assert "gate status largest error bound where" in [" ".join(one.split()) for one in placed.text["tr"]]


def test_a_gate_measured_at_many_places_is_shown_once_at_its_worst():
    frame = pd.DataFrame({"gate": "additivity", "layer": [0, 1, 2], "measured": [1e-7, 3e-7, 2e-7], "bound": 1e-6})
    many = Table(frame=frame, columns={name: Column(unit="1", meaning="m") for name in frame.columns}, caption="c")
    rows = [" ".join(one.split()) for one in checked(page([result(tables={"gates": many}, figures=())], title="t")).text["tr"]]
    assert "additivity word ✓ kept 3e−7 1e−6 layer 1" in rows
    assert sum(row.startswith("additivity word ✓") for row in rows) == 1


def test_what_nobody_looked_at_is_named_with_its_reason():
    run = {"analyses": ["head-ablation", "late"], "known": {"head-ablation": "Head ablation", "late": "Late one", "patching": "Patching"}}
    items = [" ".join(one.split()) for one in checked(page([result()], title="t", run=run)).text["li"]]
    assert "Late one: not finished" in items and "Patching: not part of this run" in items
    assert not any(one.startswith("Head ablation:") for one in items)
    assert "What nobody looked at" not in page([result()], title="t")


def test_a_card_leads_to_the_figure_that_names_the_place():
    named = Bars(name="strongest", title="L16H0 carries the effect", caption="c", alt="a", labels=["L16H0"], values=np.array([1.0]), unit="nats", part="heads")
    evidence = [Evidence(name=where, measured=1.0, unit="1", threshold=2.0, relation="<", where=where) for where in ("L16H0", "L1")]
    html = page([result(verdict=Verdict(status="warn", claim="c", evidence=tuple(evidence)), figures=(named,))], title="t")
    assert '<a href="#analysis-head-ablation--strongest">L16H0</a>' in html and '<a href="#analysis-head-ablation">L1</a>' in html
    checked(html)


def test_heads_that_stand_out_are_listed_once_with_scores_and_effects():
    def of(frame: pd.DataFrame) -> Table:
        return Table(frame=frame, columns={name: Column(unit="1", meaning=f"meaning of {name}") for name in frame.columns}, caption="c")

    heads = pd.DataFrame({"attention": "self", "layer": [0, 0, 1], "head": [0, 1, 0], "kv_head": 0, "induction": [0.1, 0.9, 0.2]})
    flags = pd.DataFrame({"attention": "self", "label": "x", "layer": 0, "head": [1, 1], "why": ["induction", "entropy"]})
    effects = pd.DataFrame({"attention": "self", "layer": [0, 0, 1] * 2, "head": [0, 1, 0] * 2, "ablation": ["zero"] * 3 + ["mean"] * 3, "metric": "logit_difference",
                            "effect": [9.0, 9.0, 9.0, -0.1, -0.5, -2.0], "low": -3.0, "high": 3.0, "p_family": [0.0, 0.0, 0.0, 0.9, 0.9, 0.01]})
    shown = dataclasses.replace(Bars(name="b", **WORDS, labels=["a"], values=np.array([1.0]), unit="1"), part="heads")
    tables = {"heads": of(heads), "flagged": of(flags), "effects": of(effects)}
    rows = [" ".join(one.split()) for one in checked(page([result(tables=tables, figures=(shown,))], title="t")).text["tr"]]
    start = rows.index("head why KV induction effect low high p")
    assert rows[start + 1 : start + 3] == ["L0H1 induction; entropy 0 0.9 −0.5 −3 3 0.9", "L1H0 effect beyond chance 0 0.2 −2 −3 3 0.01"]


def test_the_strip_and_the_provenance_say_what_was_run():
    html = page([result()], title="t", run={"provenance": provenance(command="prosect report --model x")})
    parsed = checked(html)
    strip = dict(zip(parsed.text["dt"], parsed.text["dd"], strict=True))
    assert strip["shape"] == "2 layers × 4 heads" and strip["KV heads"] == "2" and strip["tokens of text"] == "12,345"
    assert strip["content hash"] == content_hash([result()])[:16]
    assert strip["corpus.text_tokens"] == "12345" and strip["git_dirty"] == "yes" and strip["seed"] == "7"
    assert "prosect report --model x" in parsed.text["code"]
    assert content_hash([result()]) in html


def test_the_strip_names_both_stacks():
    sizes = {"encoder": {"n_layers": 3, "n_heads": 8, "d_model": 256}, "decoder": {"n_layers": 2, "n_heads": 4, "d_model": 256}}
    strip = checked(page([result()], title="t", run={"provenance": {"model": {"name": "x", **sizes}, "corpus": {}}}))
    shown = dict(zip(strip.text["dt"], strip.text["dd"], strict=True))
    assert shown["shape"] == "encoder 3 layers × 8 heads, decoder 2 layers × 4 heads" and shown["d_model"] == "256"


def files_of(html: str) -> dict[str, bytes]:
    """What the page carries, by the names under which it is saved."""
    carried = [json.loads(data) for data in re.findall(r'<script type="application/json" data-file="[^"]*">(.*?)</script>', html)]
    return {one["name"]: zlib.decompress(base64.b64decode(one["deflate"], validate=True)) for one in carried}


def test_every_figure_and_table_can_be_taken_along():
    links = files_of(page([result()], title="t"))
    assert set(links) == {"report.json", *(f"head-ablation-{n}.csv" for n in ("alpha", "zeta", *(figure.name for figure in figures())))}
    frame = pd.read_csv(io.BytesIO(links["head-ablation-zeta.csv"]))
    pd.testing.assert_frame_equal(frame, table().frame.astype({"token": frame["token"].dtype}))
    assert links["head-ablation-zeta.csv"].decode().splitlines()[2] == "word,NaN,1,False"


def test_a_long_table_is_cut_and_says_so():
    frame = pd.DataFrame({"x": np.arange(200_000) / 7})
    long = Table(frame=frame, columns={"x": Column(unit="nats", meaning="m")}, caption="c")
    html = page([result(tables={"long": long}, figures=())], title="t")
    assert "The first 3 of 200,000 rows are shown." in html
    content = files_of(html)["head-ablation-long.csv"]
    assert 200_000 < len(content) <= 250_000 and content.endswith(b"\n")
    rows = len(content.decode().splitlines()) - 1
    assert f"the first {rows:,} of 200,000 rows; all of them are in head-ablation/tables/long.parquet" in html
    assert len(html) < 500_000


def test_a_figure_with_too_many_values_says_where_they_are():
    from tests.contracts.test_every_figure import heatmap
    html = page([result(figures=(heatmap(np.zeros((300, 300))),))], title="t")
    assert "too many values for this page: they are in head-ablation/figures/h.npz" in html


def hash_with(**changes) -> str:
    return content_hash([result(**changes)])


def test_the_content_hash_follows_what_was_asked_and_answered():
    changed = table().frame.assign(count=[1, 2, 4])
    base = hash_with()
    assert len(base) == 64
    assert hash_with(parameters={"metric": "other"}) != base
    assert hash_with(analysis="other") != base
    assert hash_with(verdict=Verdict(status="pass", claim="word")) != base
    assert hash_with(tables={"zeta": dataclasses.replace(table(), frame=changed), "alpha": table(rows=0)}) != base
    assert content_hash([result(), result()]) != base


def test_the_content_hash_leaves_out_times_pictures_and_words():
    measured = [table(rows=n, measurement=True) for n in (2, 3)]
    tables = [{"zeta": table(), "alpha": table(rows=0), "timing": m} for m in measured]
    assert hash_with(tables=tables[0]) == hash_with(tables=tables[1]) == hash_with()
    bars = Bars(name="bars", **WORDS, labels=["a"], values=np.array([1.0]), unit="ms")
    assert hash_with(figures=(bars,)) == hash_with()
    assert hash_with(title="other", notes={}, provenance=provenance(command="elsewhere")) == hash_with()


def test_without_a_script_nothing_is_missing():
    """Buttons work only with the script, so they are hidden until the script shows them; everything else is in the HTML."""
    html = page([result()], title="t")
    buttons = checked(html).all("button")
    assert buttons and all("hidden" in button for button in buttons)
    assert "localStorage" not in html and "innerHTML" not in html and "eval(" not in html and "fetch(" not in html
