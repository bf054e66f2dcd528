"""Can everybody use the page: with a screen reader, with the keyboard alone, in the dark, on a telephone?"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

import pytest

pytestmark = pytest.mark.browser
LOOKS = [pytest.param(width, dark, id=f"{width} px, {'dark' if dark else 'light'}") for width in (1280, 375) for dark in (False, True)]
WHERE = """() => {
  const e = document.activeElement, view = e.closest(".view"), box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return { tag: e.tagName, id: e.id, name: e.className, view: view ? [...document.querySelectorAll(".view")].indexOf(view) : -1,
           ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0, wide: box.width, high: box.height };
}"""
SMALL_TARGETS = """() => [...document.querySelectorAll("button, select, input, summary, [role=button], nav a")].filter((e) => e.checkVisibility())
  .map((e) => [e, (e.closest("label") ?? e).getBoundingClientRect()]).filter(([e, box]) => box.width < 24 || box.height < 24)
  .map(([e, box]) => `${e.tagName} '${(e.textContent || e.ariaLabel || e.type).slice(0, 30)}' ${Math.round(box.width)} × ${Math.round(box.height)}`)"""


@cache
def axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def violations(page) -> list[str]:
    """What axe-core finds, run in a world of its own beside the page's script: neither the page nor its policy notices."""
    protocol = page.context.new_cdp_session(page)
    frame = protocol.send("Page.getFrameTree")["frameTree"]["frame"]["id"]
    world = protocol.send("Page.createIsolatedWorld", {"frameId": frame, "worldName": "axe"})["executionContextId"]
    protocol.send("Runtime.evaluate", {"expression": axe() + ";0", "contextId": world})
    run = "axe.run(document, {resultTypes: ['violations']}).then((r) => JSON.stringify([r.passes.length, r.violations]))"
    answer = protocol.send("Runtime.evaluate", {"expression": run, "contextId": world, "awaitPromise": True, "returnByValue": True})
    assert "value" in answer["result"], answer
    passes, found = json.loads(answer["result"]["value"])
    assert passes > 10
    return [f"{one['id']}: {one['help']}: {node['html'][:160]} {node['failureSummary']}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize(("width", "dark"), LOOKS)
def test_axe_finds_nothing(width, dark, whole, visit):
    there = visit(whole, width=width, dark=dark)
    there.page.evaluate("() => { for (const e of document.querySelectorAll('details')) e.open = true; }")
    assert violations(there.page) == []
    assert there.complaints == []


def test_axe_finds_nothing_on_a_real_report(run, visit):
    there = visit(run / "report.html")
    assert violations(there.page) == []


def test_axe_is_awake(whole, visit):
    """Positive control: a picture without words, pale letters and a nameless button are found."""
    there = visit(whole)
    there.page.evaluate("""() => {
      document.querySelector("main img").removeAttribute("alt");
      document.querySelector(".claim").style.color = "#ccc";
      document.querySelector("main").append(document.createElement("button"));
    }""")
    found = " ".join(violations(there.page))
    assert all(rule in found for rule in ("image-alt", "color-contrast", "button-name"))


def stops(page, most: int = 1200) -> list[dict]:
    """Where the focus goes, from the page's beginning to its end."""
    places: list[dict] = []
    while len(places) < most:
        page.keyboard.press("Tab")
        place = page.evaluate(WHERE)
        if place["tag"] == "BODY":
            break
        places.append(place)
    return places


def test_the_keyboard_reaches_everything_and_shows_where_it_is(whole, visit):
    there = visit(whole)
    places = stops(there.page)
    assert places[0]["name"] == "skip"
    assert "theme" in [place["id"] for place in places[:4]]
    assert {place["view"] for place in places} - {-1} == set(range(there.page.locator(".view").count()))
    assert [place for place in places if not place["ring"]] == []
    assert not [place for place in places if not place["wide"] or not place["high"]], "focus on something that cannot be seen"


def test_the_skip_link_leads_past_the_navigation(whole, visit):
    there = visit(whole)
    there.page.keyboard.press("Tab")
    assert there.page.locator(".skip").evaluate("(e) => e.getBoundingClientRect().left >= 0")
    there.page.keyboard.press("Enter")
    there.page.keyboard.press("Tab")
    assert there.page.evaluate("() => document.getElementById('main').contains(document.activeElement)")


def test_targets_are_large_enough_for_a_finger(whole, visit):
    there = visit(whole, width=375)
    assert there.page.evaluate(SMALL_TARGETS) == []


def test_the_theme_button_changes_page_and_pictures_and_leaves_no_trace(whole, visit):
    there = visit(whole)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    pictures = "() => [...document.querySelectorAll('figure img')].map((image) => image.src)"
    light, drawn = there.page.evaluate(ground), there.page.evaluate(pictures)
    button = there.page.locator("#theme")
    assert button.inner_text() == "Dark theme"
    button.click()
    assert button.inner_text() == "Light theme" and there.page.evaluate(ground) != light
    assert all(now != before for now, before in zip(there.page.evaluate(pictures), drawn, strict=True))
    button.click()
    assert there.page.evaluate(ground) == light
    button.click()
    there.page.reload()
    there.page.wait_for_selector("html[data-ready]", state="attached")
    assert there.page.evaluate(ground) == light and button.inner_text() == "Dark theme"
    assert there.complaints == [] and there.page.context.storage_state()["origins"] == []


def test_tables_are_sorted_by_keyboard_and_say_so(whole, visit):
    there = visit(whole)
    table = there.page.locator("table[data-sortable]").first
    table.evaluate("(e) => { for (let at = e; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true; }")
    heads = table.locator("thead th")
    at = next(i for i in range(heads.count()) if "number" in (heads.nth(i).get_attribute("class") or ""))
    heads.nth(at).locator("button").focus()
    orders = []
    for _ in range(2):
        there.page.keyboard.press("Enter")
        orders.append((heads.nth(at).get_attribute("aria-sort"), table.locator(f"tbody tr td:nth-child({at + 1})").all_inner_texts()))
    numbers = [[float(cell.replace("\u2212", "-").replace(",", "")) for cell in cells if cell != "\u2013"] for _, cells in orders]
    assert {order for order, _ in orders} == {"ascending", "descending"}
    assert sorted(numbers[0]) == sorted(numbers[1]) and numbers[0] == numbers[1][::-1] and len(set(numbers[0])) > 1
    assert all(cells.index("\u2013") == len(cells) - 1 for _, cells in orders if "\u2013" in cells)
