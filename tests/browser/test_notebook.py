"""Do figures and results show themselves in a notebook, with their views and without power over the notebook?"""

from __future__ import annotations

import numpy as np
import pytest

from tests.browser.pages import cross_map, decoder_map
from tests.browser.test_explorer import SAID
from tests.reports.samples import HOSTILE, figures, result

pytestmark = pytest.mark.browser


def notebook(*shown: object) -> str:
    """A notebook with one output per object, and a word of its own."""
    outputs = "".join(f'<div class="output">{one._repr_html_()}</div>' for one in shown)
    return f"<!doctype html><meta charset='utf-8'><title>notebook</title><script>globalThis.secret = 'untouched';</script>{outputs}"


def ready(there) -> list:
    frames = there.page.frames[1:]
    for frame in frames:
        frame.wait_for_selector("html[data-ready]", state="attached")
    return frames


def test_every_kind_of_figure_and_a_result_show_themselves(visit):
    shown = [*figures("word"), result("Result")]
    there = visit(notebook(*shown))
    frames = ready(there)
    assert len(frames) == len(shown)
    for frame, one in zip(frames, shown, strict=True):
        assert frame.locator("figure").count() >= 1, one
        assert frame.locator("figure img, .view").evaluate_all("(all) => all.some((e) => e.checkVisibility())"), one
        assert frame.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), one
    assert [c for c in there.complaints if not c.startswith("warning")] == []
    assert not [url for url in there.elsewhere if not url.startswith("about:")]


def test_the_explorer_works_in_a_notebook(visit):
    there = visit(notebook(decoder_map(), cross_map()))
    for frame, figure in zip(ready(there), (decoder_map(), cross_map()), strict=True):
        said = SAID.fullmatch(frame.locator("[aria-live]").first.inner_text())
        pattern = figure.patterns[said["head"]][int(said["line"])]
        assert pattern[int(said["best"])] >= pattern.max() - 0.01 and abs(float(said["value"]) - np.max(pattern)) < 0.01
        frame.get_by_role("listbox", name="Heads").focus()
        there.page.keyboard.press("ArrowRight")
        frame.locator(".head-name", has_text="L0H1" if said["head"] == "L0H0" else "L").wait_for()


@pytest.mark.parametrize(
    "text", [HOSTILE[0], HOSTILE[3], "</iframe><script>parent.secret = 'gone'; alert(1)</script>", "' srcdoc='<script>alert(1)</script>"]
)
def test_hostile_text_stays_in_its_frame(text, visit):
    there = visit(notebook(*figures(text)[:2], decoder_map(), result(text)))
    ready(there)
    assert not there.ran and there.page.evaluate("() => globalThis.secret") == "untouched"
    assert there.page.locator("body > .output").count() == 4 == len(there.page.frames) - 1
