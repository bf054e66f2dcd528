"""Does a click save the very file that the page carries, and what happens where saving is forbidden or no script runs?"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest

from reports.embedded import Embedded, read_embedded

pytestmark = pytest.mark.browser


def carried(html: str, folder: Path) -> dict[str, Embedded]:
    (folder / "carried.html").write_text(html, encoding="utf-8")
    return {file.name: file for file in read_embedded(folder / "carried.html")}


def test_a_click_saves_the_file_that_the_page_carries(whole, visit, tmp_path):
    files = carried(whole, tmp_path)
    there = visit(whole)
    buttons = there.page.query_selector_all("button[data-file]")
    assert {button.get_attribute("data-file") for button in buttons} == set(files) and "report.json" in files
    there.page.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
    for name in (
        "report.json",
        next(name for name, file in files.items() if file.kind == "table" and file.rows),
        next(name for name, file in files.items() if file.kind == "figure"),
    ):
        button = there.page.query_selector(f'button[data-file="{name}"]')
        assert button.is_visible()
        with there.page.expect_download() as saved:
            button.click()
        assert saved.value.suggested_filename == name
        assert Path(saved.value.path()).read_bytes() == files[name].content
    json.loads(files["report.json"].content)
    assert there.page.query_selector_all("textarea.copy") == [] and there.elsewhere == [] and not there.complaints


def test_where_saving_is_forbidden_the_text_can_be_copied(whole, visit, tmp_path):
    files = carried(whole, tmp_path)
    there = visit(
        f'<!doctype html><title>t</title><iframe sandbox="allow-scripts" width="1000" height="800" srcdoc="{escape(whole)}"></iframe>'
    )
    frame = there.page.frames[1]
    frame.wait_for_selector("html[data-ready]", state="attached")
    frame.click('button[data-file="report.json"]')
    area = frame.wait_for_selector("textarea.copy")
    assert area.input_value() == files["report.json"].content.decode()
    frame.click('button[data-file="report.json"]')
    assert len(frame.query_selector_all("textarea.copy")) == 1


def test_a_file_that_was_cut_says_so(whole, visit):
    start = whole.index('"deflate":"') + len('"deflate":"') + 40
    there = visit(whole[:start] + whole[start + 80 :])
    there.page.evaluate("() => { for (const one of document.querySelectorAll('details')) one.open = true; }")
    first = there.page.query_selector("script[data-file]").get_attribute("data-file")
    button = there.page.query_selector(f'button[data-file="{first}"]')
    button.click()
    button.wait_for_element_state("disabled")
    assert button.text_content() == "this browser cannot unpack the file"


def test_without_a_script_the_page_says_where_the_files_are(whole, visit):
    there = visit(whole, script=False)
    assert not any(button.is_visible() for button in there.page.query_selector_all("button[data-file]"))
    places = [place.text_content() for place in there.page.query_selector_all("noscript")]
    assert any(place.startswith("in the run's folder: ") and place.endswith(".parquet") for place in places)
