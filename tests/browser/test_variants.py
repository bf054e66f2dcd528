"""Does the page stand where less is allowed: without JavaScript, in a notebook's frame, on paper?"""

from __future__ import annotations

import io
import unicodedata
from pathlib import Path

import pypdf
import pytest

from tests.browser.pages import everything, framed

pytestmark = pytest.mark.browser
CLAIM = "It is gate failed."
PICTURES = """() => [...document.querySelectorAll("figure img")].map((image) =>
  ({ decoded: image.complete && image.naturalWidth > 0, seen: image.checkVisibility({ visibilityProperty: true }) }))"""


def check_verdicts_and_tables(frame) -> None:
    """Verdicts, evidence and every table's first cells can be read."""
    assert frame.locator("#verdicts .card").count() == 8
    assert frame.locator("#verdicts").get_by_text(CLAIM).first.is_visible()
    assert frame.locator("table").first.is_visible() and frame.locator("tbody tr").count() > 20


def check_pictures(frame, script: bool) -> None:
    """Every figure shows something: its picture, or the view that took its place."""
    states = frame.evaluate(PICTURES)
    assert len(states) == sum(len(result.figures) for result in everything()) and all(
        state["decoded"] or not state["seen"] for state in states
    )
    views = frame.locator(".view")
    standing = sum(state["seen"] for state in states)
    assert standing == len(states) if not script else standing + sum(views.nth(i).is_visible() for i in range(views.count())) >= len(states)


def test_without_javascript_nothing_is_missing(whole, visit):
    there = visit(whole, script=False)
    there.page.wait_for_load_state("load")
    check_verdicts_and_tables(there.page)
    check_pictures(there.page, script=False)
    assert there.complaints == [] and there.elsewhere == []
    assert not there.page.locator("#theme").is_visible()
    buttons = there.page.locator("main button")
    assert not any(buttons.nth(i).is_visible() for i in range(buttons.count())), "a button that does nothing"
    folded = there.page.query_selector("details:not([open])")
    folded.query_selector("summary").click()
    assert folded.get_attribute("open") is not None


@pytest.mark.parametrize("how", ["srcdoc", "src"])
def test_in_a_sandboxed_frame_everything_works(how, whole, visit, tmp_path: Path):
    """A notebook's frame: scripts, and nothing else, are allowed."""
    outer = framed(whole)
    if how == "src":
        (tmp_path / "inner.html").write_text(whole, encoding="utf-8")
        outer = '<!doctype html><title>t</title><iframe sandbox="allow-scripts" width="1000" height="800" src="inner.html"></iframe>'
    there = visit(outer)
    frame = there.page.frames[1]
    frame.wait_for_selector("html[data-ready]", state="attached")
    check_verdicts_and_tables(frame)
    check_pictures(frame, script=True)
    frame.locator("#theme").click()
    assert frame.locator("html").get_attribute("data-theme") == "dark"
    assert [c for c in there.complaints if not c.startswith("warning")] == []
    assert not [url for url in there.requests if not url.startswith(("file:", "about:"))]


def test_a_frame_without_scripts_is_like_a_page_without_javascript(whole, visit):
    there = visit(framed(whole, sandbox=""))
    frame = there.page.frames[1]
    frame.wait_for_selector("#reproduce", state="attached")
    check_verdicts_and_tables(frame)
    check_pictures(frame, script=False)
    assert not there.ran


def on_paper(page) -> str:
    reader = pypdf.PdfReader(io.BytesIO(page.pdf(format="A4", print_background=True)))
    return unicodedata.normalize("NFKC", " ".join(sheet.extract_text() for sheet in reader.pages))  # without ligatures


def test_paper_holds_every_title_and_every_figure(whole, visit):
    there = visit(whole)
    titles = there.page.evaluate("() => [...document.querySelectorAll('main h2, main h3, figcaption')].map((e) => e.textContent)")
    closed = there.page.evaluate("() => [...document.querySelectorAll('details')].map((e) => e.open)")
    squeezed = "".join(on_paper(there.page).split())  # a PDF says where letters stand, not where words end
    assert len(titles) > 15 and [title for title in titles if "".join(title.split()) not in squeezed] == []
    assert "Whatthecolumnsmean" in squeezed and "abovethebound" in squeezed, "folded parts are open on paper"
    assert "Darktheme" not in squeezed and "Skiptotheverdict" not in squeezed, "tools stay on the screen"
    assert there.page.evaluate("() => [...document.querySelectorAll('details')].map((e) => e.open)") == closed


def test_on_paper_pictures_stand_instead_of_views(whole, visit):
    there = visit(whole)
    there.page.emulate_media(media="print")
    states = there.page.evaluate(PICTURES)
    assert states and all(state["seen"] for state in states)
    views = there.page.locator(".view")
    assert not any(views.nth(i).is_visible() for i in range(views.count()))


@pytest.mark.parametrize("how", ["the system", "the button"])
def test_paper_is_white_for_those_who_read_in_the_dark(how, whole, visit):
    """Page and pictures: ink that is made for a dark screen cannot be read on paper."""
    there = visit(whole, dark=how == "the system")
    if how == "the button":
        there.page.locator("#theme").click()
    there.page.emulate_media(media="print", color_scheme="dark" if how == "the system" else "light")
    paint = there.page.evaluate(
        "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector('.claim')).color]"
    )
    ground, ink = ([int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(", ")] for color in paint)
    assert min(ground) > 240 and max(ink) < 100, paint
    dark = "() => [...document.querySelectorAll('figure img')].filter((image) => !image.src.includes('@media not all')).length"
    there.page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    assert there.page.evaluate(dark) == 0
    there.page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert there.page.evaluate(dark) == there.page.evaluate("() => document.querySelectorAll('figure img').length")


def test_on_paper_narrow_pictures_stand_beside_each_other(whole, visit):
    """Half a page is not left blank."""
    there = visit(whole, width=700)
    there.page.emulate_media(media="print")
    places = there.page.evaluate("""() => [...document.querySelectorAll("figure:not(.wide):not(:only-child)")].map((e) => e.getBoundingClientRect())
      .map((box) => [Math.round(box.left), Math.round(box.width)])""")
    assert len({left for left, _ in places}) == 2 and all(250 < width < 350 for _, width in places)
