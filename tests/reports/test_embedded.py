"""Does a page give back what it carries, and does every broken or foreign page end in one sentence?"""

from __future__ import annotations

import base64
import json
import re
import zlib

import numpy as np
import pandas as pd
import pytest

from reports import Bars, Column, StoreError, Table, page, render, save_result, save_run
from reports.downloads import csv_of, figure_numbers, table_of
from reports.embedded import FILE_LIMIT, Embedded, read_embedded
from reports.saved import carried, read_saved, saved_analysis
from tests.reports.samples import HOSTILE, WORDS, provenance, result, same, table


@pytest.fixture
def saved(tmp_path):
    """A run's folder, and its page elsewhere."""
    long = Table(frame=pd.DataFrame({"x": np.arange(60_000) / 7}), columns={"x": Column(unit="nats", meaning="m")}, caption="c")
    save_run(
        tmp_path / "run",
        {
            "title": "t",
            "state": "complete",
            "analyses": ["b", "a"],
            "parameters": {"model": "toy", "only": ("x",)},
            "provenance": provenance(),
        },
    )
    save_result(result(analysis="a"), tmp_path / "run" / "a")
    save_result(result(analysis="b", tables={"zeta": table(), "long": long, "alpha": table(rows=0)}, figures=()), tmp_path / "run" / "b")
    copy = tmp_path / "page.html"
    copy.write_bytes(render(tmp_path / "run").read_bytes())
    return tmp_path / "run", copy


def test_a_page_says_what_its_folder_says(saved):
    folder, copy = map(read_saved, saved)
    assert copy.carried and not folder.carried
    assert (copy.title, copy.state) == (folder.title, folder.state) == ("t", "complete")
    assert same(dict(copy.provenance), dict(folder.provenance)) and copy.parameters == {"model": "toy", "only": ["x"]}
    assert [one.name for one in copy.analyses] == ["b", "a"]
    for a, b in zip(folder.analyses, copy.analyses, strict=True):
        assert same(a.verdict, b.verdict) and list(a.tables) == list(b.tables)
        for name, kept in b.tables.items():
            whole = carried(a.tables[name])
            pd.testing.assert_frame_equal(kept.frame, whole.frame.head(len(kept.frame)), check_exact=True)
            assert kept.rows == whole.rows and kept.units == whole.units
    assert 5_000 < len(copy.analyses[0].tables["long"].frame) < 60_000 == copy.analyses[0].tables["long"].rows


def test_numbers_keep_every_digit():
    values = [0.1, 1 / 3, 1e-300, -1.7976931348623157e308, 5e-324, float("inf"), float("-inf"), float("nan"), -0.0]
    kept = saved_analysis(
        result(tables={"t": Table(frame=pd.DataFrame({"x": values}), columns={"x": Column(unit="1", meaning="m")}, caption="")}),
        through_csv=True,
    )
    assert np.array_equal(kept.tables["t"].frame["x"].to_numpy(), values, equal_nan=True)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_comes_back_as_the_page_shows_it(text, tmp_path):
    copy = tmp_path / "page.html"
    copy.write_text(page([result(text)], title=text, run={"parameters": {text: text}}), encoding="utf-8")
    back = read_saved(copy)
    assert back.title == text and back.parameters == {text: text} and back.analyses[0].verdict.claim == text
    mine = saved_analysis(result(text), through_csv=True)
    pd.testing.assert_frame_equal(back.analyses[0].tables["zeta"].frame, mine.tables["zeta"].frame)


def edited(html: str, name: str, **changes) -> str:
    """The page with one of its files changed, as somebody with a text editor would."""
    found = re.search(rf'(<script type="application/json" data-file="{re.escape(name)}">)(.*?)(</script>)', html)
    return html[: found.end(1)] + json.dumps({**json.loads(found[2]), **changes}) + html[found.start(3) :]


def deflated(content: bytes) -> str:
    return base64.b64encode(zlib.compress(content)).decode()


def test_what_is_no_whole_page_of_ours_is_one_sentence(saved, tmp_path):
    html = saved[1].read_text()
    zeta = csv_of(table().frame).content
    report = next(file for file in read_embedded(saved[1]) if file.kind == "report")
    told = json.loads(report.content)

    def with_report(**changes) -> str:
        content = json.dumps({**told, **changes}).encode()
        element = Embedded(name="report.json", kind="report", content=content).element
        return re.sub(r'<script type="application/json" data-file="report.json">.*?</script>', lambda _: element, html)

    cases = {
        "carries no files": "<html>hello</html>",
        "carries no files ": "",
        "is not whole": html[: html.rindex("</body>")],
        "was cut or changed": html[: html.index('data-file="b-zeta.csv"') + 400] + "</html>",
        "'b-zeta.csv' in .* was changed: its content has another SHA-256": edited(
            html, "b-zeta.csv", deflate=deflated(zeta.replace(b"NaN", b"0.5"))
        ),
        "'b-zeta.csv' in .* was cut or changed": edited(html, "b-zeta.csv", deflate="AAAA"),
        "'b-zeta.csv' in .* was cut or changed: TypeError": edited(html, "b-zeta.csv", rows="3"),
        "'b-zeta.csv' has 3 rows, but 2 of 3 are announced": edited(html, "b-zeta.csv", rows=2),
        "it says that it is 'x'": edited(html, "b-zeta.csv", kind="x"),
        f"inflates to more than {FILE_LIMIT:,} bytes": edited(html, "b-zeta.csv", deflate=deflated(b"0" * (FILE_LIMIT + 10))),
        "must carry one report.json, got 0": html.replace('data-file="report.json"', 'data-other=""'),
        "must be of form prosect-report/1, got 'prosect-report/9'": with_report(schema="prosect-report/9"),
        "the report.json in .* was cut or changed": with_report(analyses=[{"name": 1}]),
        "the report.json in .* was cut or changed .": with_report(analyses=None),
        "the report.json in .* was cut or changed  ?": with_report(parameters=[1]),
        "'report.json' in .* was cut or changed: RecursionError": re.sub(
            r'(data-file="report.json">).*?(</script>)', lambda m: m[1] + "[" * 200_000 + m[2], html
        ),
    }
    for message, content in cases.items():
        path = tmp_path / "broken.html"
        path.write_text(content)
        with pytest.raises(StoreError, match=message.strip()) as caught:
            read_saved(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="is not UTF-8 text"):
        read_saved(path)
    with pytest.raises(StoreError, match="holds no run"):
        read_saved(tmp_path / "nowhere")


def test_a_page_says_nothing_that_a_text_looking_like_a_file_says(tmp_path):
    """A token that spells our element is text, and so is one inside a comment of the reader's."""
    fake = str(Embedded(name="report.json", kind="report", content=b"{}").element)
    copy = tmp_path / "page.html"
    copy.write_text(page([result(fake)], title=fake), encoding="utf-8")
    assert len([file for file in read_embedded(copy) if file.kind == "report"]) == 1


def test_a_figure_whose_numbers_stand_in_a_table_is_not_carried_twice():
    effects = Table(frame=pd.DataFrame({"effect": [1.5, 0.75, 0.25]}), columns={"effect": Column(unit="nats", meaning="m")}, caption="")

    def bars(*values: float) -> Bars:
        return Bars(name="b", **WORDS, labels=[str(v) for v in values], values=np.array(values), unit="nats")

    tables = {"other": table(), "effects": effects}
    assert table_of(bars(0.25, 1.5), tables) == "effects" and figure_numbers(bars(0.25, 1.5), "a", tables).file is None
    assert (
        table_of(bars(0.25, 1.6), tables) is None
        and figure_numbers(bars(0.25, 1.6), "a", tables).file.content == b"label,value\n0.25,0.25\n1.6,1.6\n"
    )
    assert table_of(bars(0, 1, 2), tables) is None  # whole numbers stand everywhere
    html = page([result(analysis="a", tables=tables, figures=(bars(0.25, 1.5),))], title="t")
    assert 'values: table <span class="code">effects</span> of a' in html and 'data-file="a-b.csv"' not in html
