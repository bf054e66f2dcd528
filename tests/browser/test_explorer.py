"""Does the attention explorer say what the numbers say: the strongest key as numpy finds it, its value within the printed error?"""

from __future__ import annotations

import re
from urllib.parse import urlencode

import numpy as np
import pytest

from reports import AttentionMap, page
from reports.attention_bytes import pooled
from tests.browser.pages import attention, cross_map, decoder_map, whole_page, words
from tests.browser.test_page import SLOW
from tests.reports.samples import WORDS, result

pytestmark = pytest.mark.browser
FIGURES = {"view-attention-patterns": decoder_map(), "view-attention-cross-patterns": cross_map()}
SAID = re.compile(
    r"(?P<head>.+), (query|key) (?P<line>\d+) '(?P<token>.*?)': (strongest|largest difference,) (query|key) (?P<best>\d+) '(?P<other>.*?)', (?P<value>\S+?)(;.*)?"
)
HEAD_SWITCHES = """async ([id, presses]) => {
  const host = document.querySelector(`[data-from="${id}"]`), list = host.querySelector("[role=listbox]"), name = host.querySelector(".head-name");
  const times = [];
  for (let i = 0; i < presses; i++) {
    const before = name.textContent, start = performance.now();
    list.dispatchEvent(new KeyboardEvent("keydown", { key: i % 3 ? "ArrowRight" : "ArrowDown", bubbles: true }));
    while (name.textContent === before && performance.now() - start < 2000) await new Promise((resolve) => setTimeout(resolve, 1));
    times.push(performance.now() - start);
  }
  return times;
}"""


class Explorer:
    """One explorer on an open page, worked with through the page's address and through its readout."""

    def __init__(self, there, view: str) -> None:
        self.page, self.view = there.page, view
        self.host = there.page.locator(f'[data-from="{view}"]')

    def error(self) -> float:
        """The largest error of the encoding, as the page prints it."""
        return float(re.search(r"largest error ([0-9.e\u2212]+[0-9])", self.host.inner_text())[1].replace("\u2212", "-"))

    def told(self, head: str, line: int, by: str = "row", **options: object) -> re.Match:
        """What the readout says of a row or a column."""
        from playwright.sync_api import expect

        state = {"head": head, "query" if by == "row" else "key": line, "by": by, **options}
        self.page.evaluate("(hash) => { location.hash = hash; }", f"#{self.view}?{urlencode(state)}")
        name = f"{head} \u2212 {options['minus']}" if "minus" in options else head
        readout = self.host.locator("[aria-live]")
        expect(readout).to_contain_text(f"{name}, {'query' if by == 'row' else 'key'} {line} ")
        said = SAID.fullmatch(readout.inner_text())
        assert said, readout.inner_text()
        return said


def check(said: re.Match, values: np.ndarray, tokens: tuple[list[str], list[str]], error: float) -> None:
    """The place is that of numpy's largest, where the encoding can tell it apart; the number is that of the place."""
    best, value = int(said["best"]), float(said["value"].replace("\u2212", "-"))
    size = np.abs(values)
    first, second = np.sort(size)[::-1][:2]
    assert abs(value - values[best]) <= error + 6e-4 * abs(value) + 5e-4
    assert size[best] >= first - 2 * error
    if first - second > 2 * error:
        assert best == int(np.argmax(size))
    assert said["token"] == tokens[0][int(said["line"])].replace(" ", "\u00b7") and said["other"] == tokens[1][best].replace(" ", "\u00b7")


@pytest.fixture(params=FIGURES)
def explorer(request: pytest.FixtureRequest, visit) -> tuple[Explorer, AttentionMap]:
    there = visit(whole_page())
    return Explorer(there, request.param), FIGURES[request.param]


def test_the_readout_is_numpys_argmax(explorer):
    """Rows and columns of several heads, of a decoder and of cross-attention."""
    view, figure = explorer
    error, told = view.error(), 0
    assert 0 < error <= 1 / 254 + 1e-4
    for head, pattern in list(figure.patterns.items())[::2]:
        for query in (3, len(figure.queries) // 2, len(figure.queries) - 1):
            seen = pattern[query, : query + 1] if figure.name == "patterns" else pattern[query]
            check(view.told(head, query), seen, (figure.queries, figure.keys), error)
            told += 1
        key = 2
        check(view.told(head, key, by="column"), pattern[:, key], (figure.keys, figure.queries), error)
    assert told >= 6


def test_without_the_sink_the_rest_sums_to_one(explorer):
    view, figure = explorer
    head, pattern = list(figure.patterns.items())[1]
    kept = pattern[-1].copy()
    kept[[0] if figure.name == "patterns" else [0, -1]] = 0
    said = view.told(head, len(figure.queries) - 1, hide="true")
    check(said, kept / kept.sum(), (figure.queries, figure.keys), view.error() / kept.sum() * 2)


def test_the_difference_of_two_heads_is_signed(explorer):
    view, figure = explorer
    (head, one), (minus, other) = list(figure.patterns.items())[:2]
    for query in (4, len(figure.queries) - 1):
        check(view.told(head, query, minus=minus), (one - other)[query], (figure.queries, figure.keys), 2 * view.error())


def test_the_table_behind_the_map_holds_the_row(explorer):
    view, figure = explorer
    head, pattern = list(figure.patterns.items())[-1]
    query = len(figure.queries) - 1
    view.told(head, query)
    view.host.locator("details summary").last.click()
    view.host.locator("table tbody tr").last.wait_for()  # it is built when it is opened, and that is told a moment later
    cells = [row.split("\t") for row in view.host.locator("table tbody").last.inner_text().splitlines() if row.strip()]
    shown = {int(key): float(value) for key, _, value in cells}
    assert len(shown) == len(figure.keys)
    assert max(abs(shown[k] - pattern[query, k]) for k in shown) <= view.error() + 1e-3


def test_the_address_keeps_the_view(explorer, visit):
    view, figure = explorer
    head = list(figure.patterns)[-1]
    said = view.told(head, 5, scale="linear")
    address = view.page.url
    assert f"head={head}" in address and "query=5" in address
    again = visit(whole_page(), fragment="#" + address.partition("#")[2])
    assert again.page.locator(f'[data-from="{view.view}"] [aria-live]').inner_text() == said[0]
    assert again.page.locator(f'[data-from="{view.view}"] select').first.input_value() == "linear"


@pytest.mark.parametrize(
    "fragment", ["?head=L9H9&query=-3&key=1e99&by=x&scale=nothing&score=nothing", "?head=%3Cscript%3E&minus=%00&query=NaN", "?", "?%"]
)
def test_an_address_that_makes_no_sense_is_harmless(fragment, visit):
    there = visit(whole_page(), fragment="#view-attention-patterns" + fragment)
    readout = there.page.locator('[data-from="view-attention-patterns"] [aria-live]')
    assert SAID.fullmatch(readout.inner_text()) and there.complaints == []


def test_arrow_keys_walk_over_heads_and_cells(explorer):
    from playwright.sync_api import expect

    view, figure = explorer
    view.told("L0H0", 4)
    readout = view.host.locator("[aria-live]")
    view.host.get_by_role("listbox", name="Heads").focus()
    view.page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("L0H1, query 4 ")
    view.page.keyboard.press("ArrowDown")
    expect(readout).to_contain_text("L1H1, query 4 ")
    view.host.get_by_role("application").focus()
    view.page.keyboard.press("ArrowUp")
    expect(readout).to_contain_text("L1H1, query 3 ")
    view.page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("; key 1 ")
    value = float(readout.inner_text().rpartition(": ")[2])
    assert abs(value - figure.patterns["L1H1"][3, 1]) <= view.error() + 1e-3


PIXELS = """([id, places]) => {
  const canvas = document.querySelector(`[data-from="${id}"] .map canvas`), context = canvas.getContext("2d"), ratio = devicePixelRatio;
  const rule = getComputedStyle(document.documentElement).getPropertyValue("--rule").match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));
  return places.map(([x, y]) => {
    const at = [...context.getImageData(Math.round((canvas.clientWidth + x) * ratio), Math.round((canvas.clientHeight + y) * ratio), 1, 1).data];
    return rule.every((one, i) => one === at[i]);
  });
}"""


@pytest.mark.parametrize("dark", [False, True])
def test_what_a_mask_hides_is_grey_and_not_the_colour_of_zero(dark, visit):
    there = visit(whole_page(), dark=dark)
    # from the lower right corner: a cell of the last key far above the diagonal, one of the last query, one of an early key
    hidden = there.page.evaluate(PIXELS, ["view-attention-patterns", [[-12, -200], [-12, -12], [-200, -12]]])
    assert hidden == [True, False, False]
    assert there.page.evaluate(PIXELS, ["view-attention-cross-patterns", [[-12, -100], [-12, -12]]]) == [False, False]


def test_the_strongest_key_is_in_sight(large_page, visit):
    there = visit(large_page, fragment="#view-attention-large?head=L0H0&query=255&by=row")
    best = int(SAID.fullmatch(there.page.locator('[data-from="view-attention-large"] [aria-live]').inner_text())["best"])
    seen = """([id]) => { const box = document.getElementById(id), frame = box.parentElement;
      return [frame.scrollHeight > frame.clientHeight, box.offsetTop >= frame.scrollTop && box.offsetTop + box.offsetHeight <= frame.scrollTop + frame.clientHeight]; }"""
    assert there.page.evaluate(seen, [f"view-attention-large-both-{best}"]) == [True, True]


def large_map() -> AttentionMap:
    """As large as a small real model's: 30 layers of 9 heads, 256 tokens, 24 flagged."""
    n = 256
    flagged = {f"L{i}H{j}" for i in range(0, 30, 5) for j in range(0, 8, 2)}
    patterns, thumbnails = {}, np.empty((30, 9, 32, 32))
    for place in np.ndindex(30, 9):
        pattern = attention(n, n, place[0] * 9 + place[1], causal=True)
        thumbnails[place] = pooled(pattern, 32)
        if f"L{place[0]}H{place[1]}" in flagged:
            patterns[f"L{place[0]}H{place[1]}"] = pattern
    scores = {"entropy": np.random.default_rng(0).random((30, 9))}
    return AttentionMap(
        name="large",
        **WORDS,
        patterns=patterns,
        queries=words(n),
        keys=words(n),
        notes=dict.fromkeys(flagged, "flagged"),
        sees="causal",
        thumbnails=thumbnails,
        scores=scores,
        heads_per_kv=3,
    )


@pytest.fixture(scope="module")
def large_page() -> str:
    return page([result("Attention", analysis="attention", figures=(large_map(),), tables={})], title="Large")


def test_a_head_is_there_at_once(large_page, visit, record_property):
    """The specification's limits: 100 ms for another head, 2 s until ready, 5,000 nodes, 2 MB."""
    there = visit(large_page)
    ready = there.page.evaluate("() => performance.now()") / 1000
    times = there.page.evaluate(HEAD_SWITCHES, ["view-attention-large", 12])
    nodes = there.page.evaluate("() => document.getElementsByTagName('*').length")
    measured = f"head switch {np.median(times):.0f} ms (at most {max(times):.0f}), ready before {ready:.2f} s, {nodes} nodes, {len(large_page):,} bytes"
    record_property("budget", measured)
    print(measured)
    assert np.median(times) < 100 * SLOW and ready < 2 * SLOW and nodes < 5_000 and len(large_page) <= 2_000_000, measured
    assert there.complaints == []
