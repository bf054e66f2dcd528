"""Does a notebook show the page, the whole page, and nothing that leaves its frame?"""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from reports import AttentionMap, Bars, TokenMap, notebook
from reports.text import visible_label
from reports.views import view_of
from tests.reports.samples import HOSTILE, WORDS, figures, result
from tests.reports.test_page import checked


class Frame(HTMLParser):
    """The elements of what a notebook gets, and the attributes of the frame."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.words = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.frame = dict(attributes)

    def handle_data(self, data):
        self.words += data


def framed(shown) -> dict[str, str]:
    """The attributes of the one frame, after everything that holds for all of them."""
    html = shown._repr_html_()
    frame = Frame(html)
    assert frame.tags == ["iframe"] and frame.words == ""
    assert frame.frame["sandbox"] == "allow-scripts" and frame.frame["title"].strip() and "src" not in frame.frame
    assert 120 < int(frame.frame["height"]) < 9000
    checked(frame.frame["srcdoc"])
    return frame.frame


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.name)
def test_every_kind_of_figure_shows_itself_alone(figure):
    page = framed(figure)["srcdoc"]
    assert figure._repr_html_() == figure._repr_html_()
    parsed = checked(page)
    assert len(parsed.all("figure")) == 1 and len(parsed.all("img")) == 1
    assert figure.caption in " ".join(parsed.text["p"])
    for absent in ('id="verdicts"', 'id="header"', 'id="reproduce"', "<nav", "report.json"):
        assert absent not in page
    view = view_of(figure)
    assert [div["data-view"] for div in parsed.all("div") if "data-view" in div] == ([view.name] if view and view.data(figure) else [])


def test_a_figure_of_ones_own_needs_no_run():
    pattern = np.tril(np.ones((3, 3))) / np.arange(1, 4)[:, None]
    for figure in (AttentionMap(name="a", **WORDS, patterns={"L0H0": pattern}, queries=list("abc"), keys=list("abc")),
                   TokenMap(name="t", **WORDS, rows={"effect": (["a", "b"], np.array([0.5, -0.5]))}, unit="nats"),
                   Bars(name="b", **WORDS, labels=["a"], values=np.array([1.0]), unit="nats")):
        framed(figure)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_in_its_attribute(text):
    for figure in figures(text)[-2:]:
        assert framed(figure)["title"] == visible_label(text)


def test_a_result_is_a_report_of_its_own():
    frame = framed(result("a word"))
    for present in ('id="verdicts"', 'id="reproduce"'):
        assert present in frame["srcdoc"]
    assert len(checked(frame["srcdoc"]).all("figure")) == len(figures())


def test_what_is_too_large_is_shown_as_a_picture_and_says_so(monkeypatch):
    """Planted: random patterns do not compress, so the interactive view goes over a limit that the picture keeps."""
    rng = np.random.default_rng(0)
    patterns = {f"L0H{i}": rng.dirichlet(np.ones(120), size=120) for i in range(12)}
    tokens = [f"t{i}" for i in range(120)]
    figure = AttentionMap(name="a", **WORDS, patterns=patterns, queries=tokens, keys=tokens)
    whole = len(framed(figure)["srcdoc"].encode())
    monkeypatch.setattr(notebook, "LIMIT", whole - 1)
    frame = framed(figure)
    parsed = checked(frame["srcdoc"])
    assert len(frame["srcdoc"].encode()) < whole and len(parsed.all("img")) == 1
    assert not [div for div in parsed.all("div") if "data-view" in div]
    assert f"takes {whole:,} bytes, a notebook is given at most {whole - 1:,}" in " ".join(parsed.text["p"])


def test_a_result_that_is_too_large_keeps_its_verdict(monkeypatch):
    monkeypatch.setattr(notebook, "LIMIT", 50_000)
    parsed = checked(framed(result())["srcdoc"])
    assert not parsed.all("figure")
    assert any("figures and tables are left out" in one for one in parsed.text["dd"])


def test_the_limit_is_what_a_notebook_takes():
    assert notebook.LIMIT == 5_000_000


def test_high_pictures_get_high_frames():
    low, high = (Bars(name="b", **WORDS, labels=list(map(str, range(n))), values=np.arange(float(n)), unit="nats") for n in (2, 30))
    assert int(framed(high)["height"]) - int(framed(low)["height"]) == 28 * 22
