"""Do the views show the sign of their numbers, are tables saved as they are, and does a view fail without taking the page along?"""

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


@pytest.fixture
def there(visit):
    return visit(views_page())


def view(there, name: str):
    return there.page.locator(f'[data-from="view-views-{name}"]')


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
