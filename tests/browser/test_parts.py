"""Do token text, logit-lens grid, circuit and tables answer to pointer and keyboard, with the numbers of the figures?"""

from __future__ import annotations

import re

import numpy as np
import pytest

from reports import CircuitGraph, LensGrid, TokenMap, page
from reports.text import format_number
from tests.browser.pages import long_table
from tests.reports.samples import HOSTILE, WORDS, result

pytestmark = pytest.mark.browser
ROWS = {
    "gradients": ([" one", "\n", " three"], np.array([0.5, -1.0, 0.25])),
    "occlusion": ([" one", "\n", " three"], np.array([0.1, 2.0, -0.3])),
}
TOKENS = np.array([f"t{i}" for i in range(24)], dtype=object).reshape(3, 4, 2)
LENS = LensGrid(
    name="lens", **WORDS, probabilities=np.linspace(0.9, 0.01, 24).reshape(3, 4, 2), tokens=TOKENS, layers=["0", "1", "2"], positions=list("wxyz"),
    targets=["p", "", "q", "r"], ranks=np.array([[50, np.nan, 7, 1], [40, np.nan, 2, 1], [1, np.nan, 3, 2.0]]),
)  # fmt: skip
CIRCUIT = CircuitGraph(
    name="circuit", **WORDS, nodes=["input", "L0H1", "L1H2"], layers=np.arange(3), places=np.zeros(3), values=np.array([1, 0.5, -0.2]), unit="share",
    senders=np.array([0, 1]), receivers=np.array([1, 2]), edge_values=np.array([0.9, -0.3]), edge_notes=["", "k −30%"],
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> str:
    figures = (TokenMap(name="tokens", **WORDS, rows=ROWS, unit="logits"), LENS, CIRCUIT)
    return page([result("Parts", analysis="parts", figures=figures, tables={"long": long_table()})], title="Parts")


def host(there, name: str):
    found = there.page.locator(f'[data-view="{name}"]')
    assert found.is_visible() and found.locator("xpath=..").locator(".picture").is_hidden()
    return found


def says(view, text: str) -> None:
    from playwright.sync_api import expect

    expect(view.locator("[aria-live]")).to_have_text(re.compile(re.escape(text)))


def test_a_token_reads_out_the_numbers_of_all_methods(parts, visit):
    there = visit(parts)
    view = host(there, "token_map")
    assert view.locator("[role=gridcell]").all_inner_texts() == ["·one", "⏎", "·three"] * 2
    view.locator("[role=gridcell]").nth(1).hover()
    says(view, "Position 1, “⏎”: gradients −1 logits; occlusion +2 logits")
    view.locator("[role=gridcell]").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowDown"):
        there.page.keyboard.press(key)
    says(view, "Position 2, “·three”: gradients +0.25 logits; occlusion −0.3 logits")
    assert view.locator(":focus").get_attribute("title") == "2: −0.3 logits"
    colors = view.locator("[role=gridcell]").evaluate_all(
        "(boxes) => boxes.map((box) => getComputedStyle(box).backgroundColor.match(/\\d+/g).map(Number))"
    )
    assert colors[4][0] > colors[4][2] and colors[1][2] > colors[1][0]  # red for plus, blue for minus
    assert there.complaints == []


def test_a_lens_cell_shows_its_choices_and_the_rank(parts, visit):
    there = visit(parts)
    view = host(there, "lens")
    assert view.locator("[role=gridcell]").all_inner_texts() == TOKENS[:, :, 0].reshape(-1).tolist()
    view.locator("[role=gridcell]").nth(6).click()
    says(view, f"layer 1, position 2: “{TOKENS[1, 2, 0]}” {LENS.probabilities[1, 2, 0]:.3g}; target “q” has rank 2")
    assert view.locator(".lens-choices bdi").all_inner_texts() == TOKENS[1, 2].tolist()
    for key in ("ArrowUp", "End"):
        there.page.keyboard.press(key)
    says(view, f"layer 0, position 3: “{TOKENS[0, 3, 0]}” {LENS.probabilities[0, 3, 0]:.3g}; target “r” has rank 1")
    there.page.keyboard.press("Home")
    there.page.keyboard.press("ArrowRight")
    says(view, f"layer 0, position 1: “{TOKENS[0, 1, 0]}”")
    assert view.locator("canvas").is_hidden()  # no target there
    assert view.locator("td.right").all_inner_texts() == [TOKENS[0, 3, 0], TOKENS[1, 3, 0], TOKENS[2, 0, 0]] and there.complaints == []


def test_a_node_reads_out_its_edges(parts, visit):
    there = visit(parts)
    view = host(there, "circuit")
    view.locator(".node").first.focus()
    there.page.keyboard.press("ArrowRight")
    says(view, "L0H1, node +0.5. From input +0.9. To L1H2 −0.3 (k −30%).")
    assert view.locator(".arc.near").count() == 2
    there.page.keyboard.press("ArrowRight")
    says(view, "L1H2, node −0.2. From L0H1 −0.3 (k −30%).")
    assert view.locator(".arc.near").count() == 1 and there.complaints == []


def test_rows_that_are_not_shown_come_when_asked_for_and_are_sorted(parts, visit):
    there = visit(parts)
    details = there.page.locator("details.table").filter(has_text="A table longer than what is shown")
    details.evaluate("(e) => { for (let at = e; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true; }")
    assert 0 < details.locator("tbody tr").count() < 300 and details.locator("th button").count() == 0
    details.get_by_role("button", name="Show all and sort").click()
    details.locator("tbody tr").nth(299).wait_for()
    frame = long_table().frame
    assert details.locator("tbody tr td:nth-child(2)").all_inner_texts() == [format_number(value) for value in frame["effect"].tolist()]
    assert details.locator("tbody tr td:nth-child(3)").all_inner_texts() == frame["token"].tolist()
    head = details.locator("th").nth(1)
    head.locator("button").focus()
    there.page.keyboard.press("Enter")
    there.page.keyboard.press("Enter")
    assert (
        head.get_attribute("aria-sort") == "descending"
        and there.page.locator(".aloud").inner_text() == "Sorted by effect (nats), descending: 300 rows."
    )
    shown = [float(cell.replace("−", "-")) for cell in details.locator("tbody tr td:nth-child(2)").all_inner_texts()]
    assert shown == sorted(shown, reverse=True) and there.complaints == []


@pytest.mark.parametrize("text", HOSTILE[:9])
def test_hostile_tokens_are_text_in_every_view(text, visit):
    tokens = np.full((2, 2, 2), text, dtype=object)
    figures = (
        TokenMap(name="tokens", **WORDS, rows={text: ([text, text], np.array([1.0, -1.0]))}, unit=text, notes={text: text}),
        LensGrid(
            name="lens",
            **WORDS,
            probabilities=np.full((2, 2, 2), 0.5),
            tokens=tokens,
            layers=[text, "1"],
            positions=[text, text],
            targets=[text, text],
            ranks=np.ones((2, 2)),
        ),
        CircuitGraph(
            name="circuit",
            **WORDS,
            nodes=[text, text],
            layers=np.arange(2),
            places=np.zeros(2),
            values=np.ones(2),
            senders=np.array([0]),
            receivers=np.array([1]),
            edge_values=np.ones(1),
            unit=text,
            node_label=text,
            edge_label=text,
            edge_notes=[text],
        ),
    )
    there = visit(page([result("Hostile", figures=figures, tables={})], title="Hostile"))
    assert there.page.locator(".view:visible").count() == 3
    for name, cell in (("token_map", "[role=gridcell]"), ("lens", "[role=gridcell]"), ("circuit", ".node")):
        host(there, name).locator(cell).first.focus()
    assert (
        there.complaints == [] and len(there.requests) == 1 and there.page.locator("main img[src=x], main script:not([type])").count() == 0
    )
