"""Does every section of the page keep the contract: one constant, one place, HTML from any run, nothing unescaped?"""

from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from markupsafe import Markup

import reports.sections
from reports import Column, Table, page
from reports.figures import Part
from reports.page import page_environment
from reports.sections import Section, discover
from tests.reports.samples import HOSTILE, figures, provenance, result
from tests.reports.test_page import Parsed, checked

SECTIONS = discover()
STABLE = {
    "header": "", "verdicts": "Verdict", "gates": "Correctness gates", "layers": "Layer overview", "heads": "Heads", "attention": "Attention explorer",
    "attribution": "Attribution", "lens": "Logit lens", "contributions": "Residual contributions", "scaling": "Length scaling",
    "results": "Analyses", "tables": "Tables and downloads", "reproduce": "Reproduce",
}
"""anchor → title, in the reader's order of questions: links into a report keep their meaning"""
PARTS = [part for part in get_args(Part) if part]
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
    assert [(section.name, section.title) for section in SECTIONS if section.name in STABLE] == list(STABLE.items())
    assert set(STABLE) <= {section.name for section in SECTIONS}


@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_asks_one_question_and_gives_markup(section):
    assert import_module(f"reports.sections.{section.name}").__doc__.partition("\n")[0].count("?") == 1
    for results in ([], [result()], [result(), result("other", analysis="other")]):
        html = section.html(run(), results, page_environment())
        assert isinstance(html, Markup)
        parsed = Parsed(html)
        assert parsed.inside == []
        assert bool(section.title and html) == ("h2" in parsed.text)
        assert section.filled is None or section.filled(results) == bool(section.navigation(results))


def everything(text: str = "word", **changes):
    """A result with a figure of every part, gates and tables of heads: something for every section."""
    parts = [dataclasses.replace(figure, name=f"{figure.name}-{part}" if part else figure.name, part=part) for part in get_args(Part) for figure in figures(text)[2:3]]
    tables = {"gates": gates(text), "flagged": heads(text), **result(text).tables}
    return result(text, figures=tuple(parts), tables=tables, **changes)


def gates(text: str) -> Table:
    numbers = {"measured": [1e-6, 1.0, float("nan")], "bound": [1e-5] * 3, "status": ["kept", "broken", "not checked"]}
    return described({"gate": [text, "b", "c"], **numbers, **{name: [text] * 3 for name in ("where", "compared", "why")}})


def heads(text: str) -> Table:
    return described({"attention": ["self", text], "layer": [0, 0], "head": [1, 2], "label": [text] * 2, "why": [text] * 2})


def described(columns: dict) -> Table:
    """Text may hold lone surrogates, which only columns of objects keep."""
    frame = pd.DataFrame({name: pd.Series(values, dtype=object if isinstance(values[0], str) else None) for name, values in columns.items()})
    return Table(frame=frame, columns={name: Column(unit="1", meaning="m") for name in frame.columns}, caption="c")


@pytest.mark.parametrize("text", [" ".join(HOSTILE), HOSTILE[0], HOSTILE[3]], ids=["all", "script", "quote"])
@pytest.mark.parametrize("section", SECTIONS, ids=lambda s: s.name)
def test_a_section_escapes_what_it_shows(section, text):
    def tags(t: str) -> set[str]:
        where = run(title=t, parameters={t: t}, provenance=vars(provenance(t)))
        elements = Parsed(section.html(where, [everything(t)], page_environment())).elements
        assert all(attributes.get("type") == "application/json" for tag, attributes in elements if tag == "script")
        return {tag for tag, _ in elements}

    assert tags(text) == tags("word")
    assert not tags(text) & {"style", "svg", "iframe"}


def test_every_section_stands_on_the_page_and_is_led_to():
    parsed = checked(page([everything()], title="t"))
    there = [attributes["id"] for attributes in parsed.all("section")]
    assert [name for name in there if name in STABLE] == list(STABLE)
    targets = {a["href"] for a in parsed.all("a")}
    assert all(f"#{section.name}" in targets for section in SECTIONS if section.title and section.name in there)
    assert "#analysis-head-ablation" in targets


def test_a_section_without_figures_is_left_out_and_not_led_to():
    parsed = checked(page([result()], title="t"))
    ids = {attributes["id"] for attributes in parsed.all("section")}
    assert not ids & {"gates", *PARTS} and {"header", "verdicts", "results", "tables", "reproduce"} <= ids
    assert not {a["href"] for a in parsed.all("a")} & {f"#{part}" for part in PARTS}


@pytest.mark.parametrize("part", PARTS)
def test_a_figure_stands_in_the_section_of_its_part_and_nowhere_else(part):
    shown = dataclasses.replace(figures("the finding")[2], part=part)
    html = page([result(figures=(shown,)), result(figures=(), analysis="other")], title="t")
    parsed = checked(html)
    section = html[html.index(f'<section id="{part}">') : html.index("</section>", html.index(f'<section id="{part}">'))]
    assert 'id="analysis-head-ablation--bars"' in section and 'href="#analysis-head-ablation"' in section and 'href="#analysis-other"' not in section
    assert len(parsed.all("figure")) == 1
    article = html[html.index("<article") : html.index("</article>")]
    assert 'href="#analysis-head-ablation--bars"' in article and "1 figure above" in article


def test_a_figure_without_a_part_stays_with_its_analysis():
    html = page([result(figures=(figures()[2],))], title="t")
    assert html.index("<article") < html.index('id="analysis-head-ablation--bars"') < html.index("</article>")


def test_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="the part of figure 'bars' must be one of 'layers', 'heads', .*, got 'tail'"):
        dataclasses.replace(figures()[2], part="tail")


def test_two_results_of_one_analysis_have_different_places():
    parsed = checked(page([result(), result()], title="t"))
    ids = [a["id"] for a in parsed.all("article")]
    assert ids == ["analysis-head-ablation", "analysis-head-ablation-2"]
