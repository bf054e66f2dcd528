"""Does a reader's script get what the figure holds, whole or with a word about what was left out, and nothing that could harm?"""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

import reports
from reports import KINDS, AttentionMap, page
from reports.attention_bytes import pooled
from reports.views import as_json, discover, placed_views, view_of
from reports.views.attention import MAP_BYTES, VIEW
from tests.reports.samples import HOSTILE, WORDS, any_figure, figures, result
from tests.reports.test_attention_bytes import causal

SCRIPTS = Path(reports.__file__).parent / "assets" / "views"
NOT_VIEWS = {"downloads", "tables"}
"""scripts that work on other parts of the page"""


def tokens(n: int) -> list[str]:
    return [f" t{i}" for i in range(n)]


def attention(patterns: dict[str, np.ndarray], **more) -> AttentionMap:
    queries, keys = next(iter(patterns.values())).shape
    return AttentionMap(name="a", **WORDS, patterns=patterns, **{"queries": tokens(queries), "keys": tokens(keys), **more})


def decoded(data: dict, blob: str, shape: list[int]) -> np.ndarray:
    """What the script makes of the bytes, written down once more from the description, value by value."""
    flat, at = zlib.decompress(base64.b64decode(blob)), 0
    values = np.zeros(shape)
    for key in range(shape[1]):
        for query in range(key if data["triangle"] else 0, shape[0]):
            code, at = flat[at], at + 1
            root = code / 127 - 1 if data["code"]["signed"] else code / 254
            values[query, key] = np.nan if code == 255 else np.sign(root) * root**2 * data["code"]["top"]
    assert at == len(flat)
    return values


def stated_error(data: dict) -> float:
    return float(re.search(r"largest error ([\d.e−]+?)\.(?: |$)", data["said"])[1].replace("−", "-"))


def test_every_view_has_a_script_and_every_script_a_view():
    names = [view.name for view in discover()]
    assert len(set(names)) == len(names) and len({view.kind for view in discover()}) == len(names)
    assert {view.kind for view in discover()} <= set(KINDS)
    assert {path.stem for path in SCRIPTS.glob("*.js") if not path.stem.startswith("_")} - NOT_VIEWS == set(names)


@pytest.mark.parametrize("path", sorted(SCRIPTS.glob("*.js")), ids=lambda path: path.name)
def test_a_script_is_one_small_block_that_makes_elements_of_text_only(path):
    text = path.read_text(encoding="utf-8")
    code = re.sub(r"^//.*\n", "", text, flags=re.M).strip()
    assert code.startswith("{") and code.endswith("}"), "names must not leave a script: all are one text"
    assert len(text) < 10_000
    for unsafe in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "eval(",
        "Function(",
        "fetch(",
        "XMLHttp",
        "localStorage",
        "document.write",
        "import(",
    ):
        assert unsafe not in text
    if not path.stem.startswith("_") and path.stem not in NOT_VIEWS:
        assert f"views.{path.stem} = " in text


@pytest.mark.parametrize("text", HOSTILE)
def test_data_in_the_page_are_ascii_without_a_tag_and_come_back(text):
    inside = as_json({"token": text, "n": [1.5, None]})
    assert inside.isascii() and not set("<>&") & set(inside)
    assert json.loads(inside) == {"token": text, "n": [1.5, None]}
    for figure in figures(text):
        if view := view_of(figure):
            as_json(view.data(figure))


def test_a_number_that_is_missing_must_be_said_otherwise():
    with pytest.raises(ValueError, match="not JSON compliant"):
        as_json({"value": float("nan")})


def test_each_view_on_a_page_has_an_id_of_its_own():
    figure, place = figures()[-1] if isinstance(figures()[-1], AttentionMap) else attention({"L0H0": causal(4)}), placed_views()
    assert [place(figure, "head ablation").id for _ in range(2)] == [
        f"view-head-ablation-{figure.name}",
        f"view-head-ablation-{figure.name}-2",
    ]
    html = page([result(figures=(attention({"L0H0": causal(5)}),))], title="t")
    (inside,) = re.findall(r'<script type="application/json" id="view-head-ablation-a">(.*?)</script>', html)
    assert json.loads(inside) == json.loads(as_json(VIEW.data(attention({"L0H0": causal(5)}))))
    assert 'data-view="attention" data-from="view-head-ablation-a" hidden' in html


@pytest.mark.parametrize("shape", [(2, 2), (64, 64), (9, 30), (30, 9)])
def test_maps_are_the_patterns_within_the_stated_error(shape):
    rng = np.random.default_rng(0)
    patterns = {
        f"L{i}H{j}": causal(shape[0], i) if shape[0] == shape[1] else rng.dirichlet(np.ones(shape[1]), shape[0])
        for i in range(2)
        for j in range(2)
    }
    data = VIEW.data(attention(patterns))
    assert (
        data["triangle"] == (shape[0] == shape[1])
        and data["labels"] == list(patterns)
        and data["places"] == [[0, 0], [0, 1], [1, 0], [1, 1]]
    )
    for i, pattern in enumerate(patterns.values()):
        off = np.abs(decoded(data, data["maps"]["blobs"][str(i)], data["maps"]["shape"]) - pattern).max()
        assert off <= stated_error(data) * 1.05 < 0.0042


def test_thumbnails_are_blocks_of_the_patterns():
    pattern = causal(100)
    data = VIEW.data(attention({"L0H0": pattern}))
    small = decoded(data, data["thumbnails"]["blob"], data["thumbnails"]["shape"])
    assert np.abs(small - pooled(pattern, 32)).max() < 0.004


def test_a_difference_keeps_its_sign_and_a_missing_value_is_missing():
    data = VIEW.data(attention({"d": np.array([[-0.5, 0.25], [np.nan, 3.0]])}))
    back = decoded(data, data["maps"]["blobs"]["0"], [2, 2])
    assert data["code"] == {"top": 3.0, "signed": True} and not data["triangle"] and not data["placed"]
    np.testing.assert_allclose(back, [[-0.5, 0.25], [np.nan, 3.0]], atol=0.02)


def test_flagged_heads_come_first_and_what_does_not_fit_is_named():
    patterns = {f"L0H{i}": causal(256, i) for i in range(40)}
    data = VIEW.data(attention(patterns, notes={"L0H39": "induction"}))
    kept = data["maps"]["blobs"]
    assert "39" in kept and 10 < len(kept) < 40 and sum(map(len, kept.values())) <= MAP_BYTES
    assert f"Full maps of {len(kept)} of 40 heads" in data["said"] and "Left out for the size of the page" in data["said"]
    assert data["notes"] == {"39": "induction"}


@pytest.mark.parametrize("layers, heads, n", [(1, 1, 2), (30, 9, 256), (48, 48, 2048)])
def test_every_size_stays_within_the_budget(layers, heads, n):
    pattern = np.tril(np.ones((n, n), dtype=np.float32)) / np.arange(1, n + 1, dtype=np.float32)[:, None]
    grid = np.broadcast_to(pooled(pattern, 32).astype(np.float32), (layers, heads, *pooled(pattern, 32).shape))
    text = tokens(n)
    figure = AttentionMap(
        name="a",
        **WORDS,
        patterns={"L0H0": pattern},
        queries=text,
        keys=text,
        sees="causal",
        thumbnails=grid,
        scores={"sink": np.zeros((layers, heads))},
        heads_per_kv=1,
    )
    data = VIEW.data(figure)
    assert len(as_json(data)) < 900_000 and len(data["labels"]) == layers * heads and max(data["maps"]["shape"]) <= 256
    assert ("longer than 256 tokens: a cell is the mean over 8 queries of the attention to 8 keys" in data["said"]) == (n == 2048)
    rows = decoded(data, data["maps"]["blobs"]["0"], data["maps"]["shape"])
    np.testing.assert_allclose(rows, pooled(pattern, 256), atol=0.0041)


def test_cross_attention_has_both_texts_and_self_attention_one():
    square = causal(3)
    assert VIEW.data(attention({"L0H0": square}))["keys"] is None
    cross = VIEW.data(attention({"L0H0": np.full((2, 3), 1 / 3)}, queries=["a", " b"], keys=["x", "", "\u202e"], sees="cross"))
    assert (cross["queries"], cross["keys"], cross["sees"]) == (["a", "·b"], ["x", "∅", "\\u{202e}"], "cross")


def test_nothing_to_show_is_no_view():
    assert VIEW.data(AttentionMap(name="a", **WORDS, patterns={}, queries=[], keys=[])) is None


@pytest.mark.parametrize(
    "more, message",
    [
        ({"sees": "all"}, "sees must be one of 'causal', 'full', 'cross', '', got 'all'"),
        ({"sees": "causal", "patterns": {"x": np.full((2, 2), 0.5)}}, "the pattern of 'x' gives up to 0.5"),
        ({"sees": "causal", "keys": ["a"], "patterns": {}}, "as many keys as queries, got 2 queries, 1 keys"),
        ({"thumbnails": np.zeros((2, 2))}, r"layer, head, query block, key block, got shape \(2, 2\)"),
        ({"scores": {"sink": np.zeros((1, 1))}}, "need their thumbnails, got none"),
        (
            {"thumbnails": np.zeros((2, 3, 2, 2)), "scores": {"sink": np.zeros((2, 2))}},
            r"score 'sink' must have shape \(2, 3\), got \(2, 2\)",
        ),
        ({"heads_per_kv": 0}, "heads_per_kv must be at least 1, got 0"),
    ],
)
def test_what_does_not_fit_together_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        AttentionMap(name="a", **WORDS, **{"patterns": {"x": np.eye(2)}, "queries": ["a", "b"], "keys": ["a", "b"], **more})


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(figure=any_figure(AttentionMap))
def test_any_attention_map_becomes_data(figure):
    data = VIEW.data(figure)
    if data is not None:
        assert json.loads(as_json(data))["labels"] == data["labels"]
        for i, blob in data["maps"]["blobs"].items():
            assert decoded(data, blob, data["maps"]["shape"]).shape == (len(figure.queries), len(figure.keys)) and int(i) < len(
                data["labels"]
            )
