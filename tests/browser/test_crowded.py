"""Does a page of many analyses stay light, and lose nothing: on screen, on paper, saved by the browser, without JavaScript?"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reports import Column, Result, Table, page
from tests.browser.test_page import BROKEN_IMAGES
from tests.browser.test_variants import on_paper
from tests.reports.samples import result

pytestmark = pytest.mark.browser
HANDBOOK = Path(__file__).parents[2] / "docs" / "handbook.html"
N_ANALYSES, N_TABLES, N_ROWS = 40, 4, 9
NODES = "() => document.getElementsByTagName('*').length"
LAST = f"cell{N_ANALYSES - 1}of{N_TABLES - 1}row"


def numbered(analysis: int, number: int) -> Table:
    frame = pd.DataFrame({"place": [f"cell{analysis}of{number}row{i}" for i in range(N_ROWS)], "loss": np.cos(np.arange(N_ROWS)), "rank": np.arange(N_ROWS)})
    columns = {name: Column(unit="nats" if name == "loss" else "", meaning=f"the {name}") for name in frame}
    return Table(frame=frame, columns=columns, caption="Every cell tells where it belongs.")


def analysis(number: int) -> Result:
    tables = {f"table{i}": numbered(number, i) for i in range(N_TABLES)}
    return result(f"Study {number}", analysis=f"study-{number}", figures=(), tables=tables)


@cache
def crowded() -> str:
    """As many analyses as a handbook has, with tables: more nodes than a page may have that is all open."""
    return page([analysis(number) for number in range(N_ANALYSES)], title="Crowded")


def test_the_handbook_keeps_the_rules_of_a_page(visit):
    """Nothing from elsewhere, no complaint, every picture, at most 8 MB and 5,000 nodes."""
    there = visit(HANDBOOK)
    assert HANDBOOK.stat().st_size <= 8_000_000 and there.page.evaluate(NODES) < 5_000
    assert there.page.evaluate(BROKEN_IMAGES) == [] and there.page.locator("#results > article").count() == 35
    assert there.elsewhere == [] and there.complaints == []
    for width in (375, 1280):
        there.page.set_viewport_size({"width": width, "height": 900})
        assert there.page.evaluate("() => document.documentElement.scrollWidth") <= width


@pytest.fixture
def there(visit):
    return visit(crowded())


def open_last(page):
    """The last table, opened by its summary, as a reader would."""
    details = page.locator("#tables details.table").last
    details.locator("summary").focus()
    page.keyboard.press("Enter")
    return details


def test_the_document_is_light_though_the_file_is_not(there, visit):
    assert there.page.evaluate(NODES) < 5_000
    in_the_file = visit(crowded(), script=False).page.locator("html *").count()
    assert in_the_file > 6_000, "a page that would be light anyhow proves nothing"
    assert there.complaints == []


def test_what_is_opened_is_there_and_works(there):
    details = open_last(there.page)
    assert details.locator("tbody tr").count() == 3 and details.get_by_text(LAST + "0").is_visible()
    assert "What the columns mean" in details.inner_text()
    details.get_by_role("button", name="Show all and sort").click()
    details.get_by_text(f"{LAST}{N_ROWS - 1}").wait_for()
    details.get_by_role("button", name="loss").click()
    losses = [float(cell.replace("\u2212", "-")) for cell in details.locator("tbody td:nth-child(2)").all_inner_texts()]
    assert len(losses) == N_ROWS and losses == sorted(losses)
    with there.page.expect_download() as download:
        details.get_by_role("button", name="table (CSV)").click()
    assert download.value.path().read_text(encoding="utf-8").count("\n") == N_ROWS + 1
    assert there.complaints == []


def test_what_is_closed_again_stays(there):
    details = open_last(there.page)
    there.page.keyboard.press("Enter")
    there.page.keyboard.press("Enter")
    assert details.locator("table").count() == 1 and details.get_by_text(LAST + "0").is_visible()


def test_paper_holds_every_table(there):
    closed = "() => document.querySelectorAll('details:not([open])').length"
    before = there.page.evaluate(closed)
    squeezed = "".join(on_paper(there.page).split())
    missing = [(a, t) for a in range(N_ANALYSES) for t in range(N_TABLES) if f"cell{a}of{t}row0" not in squeezed]
    assert missing == []
    assert there.page.evaluate(closed) == before > N_ANALYSES * N_TABLES


def test_a_page_saved_by_the_browser_has_every_table(there, visit):
    saved = there.page.evaluate("() => '<!doctype html>' + document.documentElement.outerHTML")
    missing = [(a, t) for a in range(N_ANALYSES) for t in range(N_TABLES) if f"cell{a}of{t}row0" not in saved]
    assert missing == []
    again = visit(saved)
    assert open_last(again.page).get_by_text(LAST + "0").is_visible() and again.complaints == []


def test_a_page_of_usual_size_is_searchable_as_a_whole(whole, visit):
    page = visit(whole).page
    assert page.evaluate(NODES) < 5_000 and page.locator("details > template").count() == 0
    assert page.locator("#tables details:not([open]) tbody tr").count() > 0
