"""Does every section of the page keep the contract: one constant, one place, HTML from any run, nothing unescaped?"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest
from markupsafe import Markup

import reports.sections
from reports import page
from reports.page import page_environment
from reports.sections import Section, discover
from tests.reports.samples import HOSTILE, provenance, result
from tests.reports.test_page import Parsed, checked

SECTIONS = discover()
FOLDER = Path(reports.sections.__file__).parent


def run(**more):
    return {"title": "t", "state": "complete", "missing": [], "analyses": [], "provenance": {}, **more}


def test_every_file_without_an_underscore_is_one_section():
    files = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
    assert sorted(section.name for section in SECTIONS) == files
    assert all(isinstance(import_module(f"reports.sections.{name}").SECTION, Section) for name in files)


def test_sections_come_in_their_order_each_with_a_place_of_its_own():
    orders = [section.order for section in SECTIONS]
    assert orders == sorted(set(orders))
    assert [section.name for section in SECTIONS] == ["header", "verdicts", "results", "reproduce"]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_asks_one_question_and_gives_markup(section):
    assert import_module(f"reports.sections.{section.name}").__doc__.partition("\n")[0].count("?") == 1
    for results in ([], [result()], [result(), result("other", analysis="other")]):
        html = section.html(run(), results, page_environment())
        assert isinstance(html, Markup)
        parsed = Parsed(html)
        assert parsed.inside == []
        assert bool(section.title) == ("h2" in parsed.text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_escapes_what_it_shows(section, text):
    def tags(t: str) -> set[str]:
        where = run(title=t, parameters={t: t}, provenance=vars(provenance(t)))
        return {tag for tag, _ in Parsed(section.html(where, [result(t)], page_environment())).elements}

    assert tags(text) == tags("word")
    assert not tags(text) & {"script", "style", "svg", "iframe"}


def test_every_section_stands_on_the_page_and_is_led_to():
    parsed = checked(page([result()], title="t"))
    assert [attributes["id"] for attributes in parsed.all("section")] == [section.name for section in SECTIONS]
    targets = {a["href"] for a in parsed.all("a")}
    assert all(f"#{section.name}" in targets for section in SECTIONS if section.title)
    assert "#analysis-head-ablation" in targets


def test_two_results_of_one_analysis_have_different_places():
    parsed = checked(page([result(), result()], title="t"))
    ids = [a["id"] for a in parsed.all("article")]
    assert ids == ["analysis-head-ablation", "analysis-head-ablation-2"]
