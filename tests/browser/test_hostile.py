"""Can text from a model, a prompt or a table do anything but be read?"""

from __future__ import annotations

import re
from typing import Any

import pytest

from reports.text import visible_text
from tests.browser.pages import (
    HOSTILE_TEXT,
    framed,
    hostile_page,
    planted,
    unescaped,
    without_policy,
)
from tests.browser.visits import visits

pytestmark = pytest.mark.browser

PLANTED = {
    "a script": "<script>alert(1)</script>",
    "an image's handler": "<img src=data:, onerror=alert(1)>",
    "an inline SVG": "<svg onload=alert(1)></svg>",
    "a frame": "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe>",
    "an open details' handler": "<details open ontoggle=alert(1)>x</details>",
}
"""Each runs by itself where nothing stops it."""
PAINT = {
    "a style": "<style>main { display: none }</style>",
    "a style attribute": '<style></style><p style="position:fixed" id="painted">x</p>',
}


EXPLORE = """async () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const target of document.querySelectorAll(".view button, .view select, .view input, .view [tabindex='0'], .view [role=option], .view svg [role]")) {
    target.focus();
    for (const key of ["ArrowRight", "ArrowDown", "Enter"]) target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    for (const type of ["pointerenter", "pointermove", "mouseover", "click"]) target.dispatchEvent(new MouseEvent(type, { bubbles: true }));
    if (target.selectedIndex >= 0) for (const one of target.options) { target.value = one.value; target.dispatchEvent(new Event("change")); }
  }
  for (const details of document.querySelectorAll(".view details")) details.open = true;
  await new Promise((resolve) => setTimeout(resolve, 100));
}"""
"""What a reader does, so that every text is brought onto the page: open everything, point at, press and choose everything in every view."""


KINDS_OF_ELEMENTS = """() => [...new Set([...document.querySelectorAll("*")].map((e) => `${e.localName} ${e.type ?? ""}`))].sort()"""


@pytest.fixture(scope="module")
def harmless(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Which kinds of elements the page has where the text is a word."""
    with visits(browser, tmp_path_factory.mktemp("harmless")) as visit:
        there = visit(hostile_page("word"))
        there.page.evaluate(EXPLORE)
        return there.page.evaluate(KINDS_OF_ELEMENTS)


@pytest.mark.parametrize("text", HOSTILE_TEXT, ids=lambda text: ascii(text[:24]))
def test_hostile_text_is_read_and_nothing_else(text, harmless, visit):
    there = visit(hostile_page(text))
    there.page.evaluate(EXPLORE)
    assert there.complaints == [] and there.elsewhere == []
    assert there.page.evaluate(KINDS_OF_ELEMENTS) == harmless
    shown = " ".join(visible_text(text).split())
    read = " ".join(there.page.evaluate("() => document.body.textContent").split())
    assert read.count(shown) > 20
    assert shown in " ".join(there.page.title().split())


@pytest.mark.parametrize("markup", PLANTED.values(), ids=PLANTED)
def test_what_is_planted_runs_without_the_policy_and_only_then(markup, whole, visit):
    """The policy's own test: were something to slip through, this is what stands in its way."""
    loose = visit(planted(without_policy(whole), markup))
    loose.page.wait_for_timeout(200)
    assert loose.ran
    kept = visit(planted(whole, markup))
    kept.page.wait_for_timeout(200)
    assert not kept.ran
    assert any("Content Security Policy" in complaint for complaint in kept.complaints)


@pytest.mark.parametrize("markup", PAINT.values(), ids=PAINT)
def test_the_policy_refuses_foreign_styles(markup, whole, visit):
    there = visit(planted(whole, markup))
    assert there.page.locator("main").is_visible()
    assert there.page.evaluate("() => { const e = document.getElementById('painted'); return e && getComputedStyle(e).position; }") in (
        None,
        "static",
    )
    assert any("Content Security Policy" in complaint for complaint in there.complaints)


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<img src=data:, onerror=alert(1)>", '"><svg onload=alert(1)>'])
def test_a_page_that_forgot_to_escape_is_noticed(text, visit, monkeypatch):
    """Positive control: the detectors of these tests see scripts that run and markup that came through."""
    careless = unescaped(text, monkeypatch)
    assert visit(without_policy(careless)).ran
    kept = visit(careless)
    assert not kept.ran and kept.complaints


def test_a_view_that_takes_text_for_markup_is_noticed(visit):
    """Positive control: the script's one way to make elements, made careless."""
    text = "<img src=data:, onerror=alert(1)>"
    careful = "    made.append(...children);\n    return made;\n  };"
    careless = "  for (const one of children) typeof one === 'string' ? made.insertAdjacentHTML('beforeend', one) : made.append(one);\n return made; };"
    careless_page = without_policy(hostile_page(text))
    assert careful in careless_page
    there = visit(careless_page.replace(careful, careless))
    there.page.evaluate(EXPLORE)
    assert there.ran


def test_a_request_is_noticed(whole, visit):
    """Positive control: a picture from elsewhere is asked for where no policy forbids it."""
    there = visit(planted(without_policy(whole), '<img src="https://example.org/x.png" alt="">'))
    there.page.wait_for_timeout(200)
    assert there.elsewhere


def test_nothing_leaves_through_a_link_or_a_form(whole):
    """The policy's other sentences, which no planted script shows."""
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', whole)[1]
    assert {"default-src 'none'", "base-uri 'none'", "form-action 'none'", "img-src data:"} <= {part.strip() for part in policy.split(";")}
    assert "unsafe" not in policy and "*" not in policy


@pytest.mark.parametrize(
    "text", ['"><script>parent.alert(1)</script>', "</iframe><script>alert(1)</script>", "&quot; onload=alert(1) x=&quot;"]
)
def test_hostile_text_stays_inside_the_frame(text, visit):
    there = visit(framed(hostile_page(text)))
    frame = there.page.frames[1]
    frame.wait_for_selector("html[data-ready]", state="attached")
    assert not there.ran and [c for c in there.complaints if "error" in c] == []
    assert there.page.evaluate("() => document.body.children.length") == 1
