"""Do the views read out the numbers that they were given, let files be saved, and fail without taking the page along?"""

from __future__ import annotations

import io
import re
from functools import cache

import numpy as np
import pandas as pd
import pytest

from reports import CircuitGraph, LensGrid, TokenMap, page
from tests.browser.pages import long_table, words
from tests.reports.samples import WORDS, result

pytestmark = pytest.mark.browser
RANDOM = np.random.default_rng(3)
TOKENS = TokenMap(
    name="tokens", **WORDS, unit="nats", rows={method: (words(12), RANDOM.normal(size=12)) for method in ("gradients", "ablation")}
)
LENS = LensGrid(
    name="lens",
    **WORDS,
    probabilities=-np.sort(-RANDOM.dirichlet(np.ones(7), size=(4, 6)), axis=-1)[..., :5],
    tokens=np.array([[[f"choice{i}.{j}.{k}" for k in range(5)] for j in range(6)] for i in range(4)], dtype=object),
    layers=["0", "1", "2", "3"],
    positions=words(6),
)
CIRCUIT = CircuitGraph(
    name="circuit",
    **WORDS,
    nodes=["L0H1", "L1H3", "L2H2"],
    layers=np.array([0, 1, 2]),
    places=np.array([1, 3, 2]),
    values=np.array([0.5, -0.25, 0.75]),
    senders=np.array([0, 1]),
    receivers=np.array([2, 2]),
    edge_values=np.array([0.125, -0.0625]),
    unit="share",
)


@cache
def views_page() -> str:
    return page([result("Views", analysis="views", figures=(TOKENS, LENS, CIRCUIT), tables={"long": long_table()})], title="Views")


def number(text: str) -> float:
    return float(text.replace("\u2212", "-").replace("+", ""))


@pytest.fixture
def there(visit):
    return visit(views_page())


def view(there, name: str):
    return there.page.locator(f'[data-from="view-views-{name}"]')


def says(there, name: str, pattern: str) -> re.Match:
    """What the readout says, once it says something like this."""
    from playwright.sync_api import expect

    readout = view(there, name).locator("[aria-live]")
    expect(readout).to_have_text(re.compile(pattern))
    return re.search(pattern, readout.inner_text())


def test_a_token_in_focus_reads_out_its_number_in_every_row(there):
    grid = view(there, "tokens").get_by_role("grid")
    grid.locator("[tabindex='0']").focus()
    for i in range(1, 5):
        there.page.keyboard.press("ArrowRight")
        said = says(there, "tokens", rf"^Position {i}, .*gradients (\S+).*; ablation (\S+)")
        for text, (_, values) in zip(said.groups(), TOKENS.rows.values(), strict=True):
            assert number(text) == pytest.approx(values[i], rel=5e-3)


def test_tokens_have_the_colour_of_their_sign(there):
    """Red above zero, blue below: stronger than the other at every token that is far from zero."""
    colors = (
        view(there, "tokens")
        .get_by_role("gridcell")
        .evaluate_all("(all) => all.map((e) => getComputedStyle(e).backgroundColor.match(/\\d+/g).map(Number))")
    )
    values = np.concatenate([values for _, values in TOKENS.rows.values()])
    strong = np.abs(values) > 0.4 * np.abs(values).max()
    assert len(colors) == len(values) and strong.sum() >= 5
    assert all((red > blue) == (value > 0) for (red, _, blue), value, far in zip(colors, values, strong, strict=True) if far)


def test_a_cell_of_the_lens_lists_its_choices_in_their_order(there):
    lens = view(there, "lens")
    for layer, position in ((0, 0), (2, 4), (3, 5)):
        lens.get_by_role("gridcell").nth(layer * 6 + position).click()
        says(there, "lens", rf"layer {layer}, position {position}: .choice{layer}\.{position}\.0")
        items = lens.locator("ol li").all_inner_texts()
        assert [item.split()[0] for item in items] == list(LENS.tokens[layer, position])
        shown = [number(item.split()[1]) for item in items]
        assert shown == pytest.approx(LENS.probabilities[layer, position], rel=5e-3, abs=1e-3)


def test_a_node_reads_out_its_paths(there):
    view(there, "circuit").get_by_role("button").nth(2).click()
    said = says(there, "circuit", r"^L2H2, .*From (.*)\.")[1]
    paths = {node: number(value) for node, value in (path.split()[:2] for path in said.split(", "))}
    assert paths == {"L0H1": pytest.approx(0.125, rel=0.05), "L1H3": pytest.approx(-0.0625, rel=0.05)}


def test_a_view_that_fails_leaves_its_picture_and_the_others(visit):
    broken, cut = re.subn(
        r'(<script type="application/json" id="view-views-lens"[^>]*>).*?(</script>)', r"\1{}\2", views_page(), flags=re.S
    )
    assert cut == 1
    there = visit(broken)
    assert [complaint for complaint in there.complaints if complaint.startswith("error")]
    pictures = there.page.locator("figure", has=there.page.locator("[data-from]"))
    seen = {
        pictures.nth(i).locator("[data-from]").get_attribute("data-from"): pictures.nth(i).locator("img").is_visible() for i in range(3)
    }
    assert seen == {"view-views-tokens": False, "view-views-lens": True, "view-views-circuit": False}
    assert not view(there, "lens").is_visible() and view(there, "tokens").is_visible()


def saved(there, name: str) -> str:
    button = there.page.locator(f'button[data-file="{name}"]').first
    button.evaluate("(e) => { for (let at = e; at; at = at.parentElement) if (at.tagName === 'DETAILS') at.open = true; }")
    with there.page.expect_download() as waiting:
        button.click()
    assert waiting.value.suggested_filename == name
    return waiting.value.path().read_text(encoding="utf-8")


def test_a_table_is_saved_as_it_is(there):
    frame = pd.read_csv(io.StringIO(saved(there, "views-long.csv")))
    pd.testing.assert_frame_equal(frame, long_table().frame.astype({"token": frame["token"].dtype}))
    assert there.complaints == [] and there.elsewhere == []


def test_all_rows_of_a_long_table_come_on_demand(there):
    table = there.page.locator("details.table", has=there.page.locator("summary .code", has_text=re.compile("^long$"))).first
    table.evaluate("(e) => { e.open = true; }")
    assert table.locator("tbody tr").count() < 100
    table.get_by_role("button", name="Show all and sort").click()
    table.locator("tbody tr").nth(299).wait_for()
    cells = [row.split("\t") for row in table.locator("tbody").inner_text().splitlines()]
    frame = long_table().frame
    assert [cell[2] for cell in cells] == list(frame["token"])
    assert [number(cell[1]) for cell in cells] == pytest.approx(list(frame["effect"]), rel=1e-3, abs=1e-3)
