"""Is the smaller picture the same picture? Every drawn element in its order, place and style; only what nobody sees is gone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from reports import draw
from reports.drawing import outputs
from reports.drawing.compact import as_address, compact
from tests.reports.samples import HOSTILE, figures

SVG, HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def pair(figure, monkeypatch) -> tuple[str, str]:
    """The picture as Matplotlib writes it, and the small one."""
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "compact", lambda svg: svg)
        whole = draw(figure)
    return whole, compact(whole)


def declared(style: str) -> dict[str, str]:
    return {side.strip(): value.strip() for side, _, value in (part.partition(":") for part in style.split(";") if ":" in part)}


def drawn(svg: str) -> list[tuple]:
    """Of each element that leaves a mark: kind, style, words, what it refers to, and its numbers, in the order of the picture."""
    root = ET.fromstring(svg)
    sheet = (root.find(f"{SVG}style").text or "").partition("@media")[0]
    classes = {name: declared(style) for name, style in re.findall(r"\.(\w+)\{([^}]*)\}", sheet)}
    inside = {id(node) for defs in root.iter(f"{SVG}defs") for node in defs.iter()}
    shapes = {node.get("id"): node.get("d") for node in root.iter(f"{SVG}path") if node.get("id")}
    marks = []
    for node in root.iter():
        kind = node.tag.removeprefix(SVG)
        style = {**declared(node.get("style", "")), **classes.get(node.get("class"), {})}
        if kind not in ("text", "path", "use", "image", "rect") or id(node) in inside or style == {"fill": "none"}:
            continue
        target = node.get(HREF, "")
        shape = numbers(shapes[target[1:]]) if target.startswith("#") else []
        places = [numbers(node.get(name, "")) for name in ("x", "y", "width", "height", "d", "transform")]
        marks.append((kind, style, node.text or "", target if target.startswith("data:") else "", [shape, *places]))
    return marks


def numbers(text: str) -> list[float]:
    return [float(number) for number in NUMBER.findall(text)]


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.name)
def test_the_small_picture_draws_the_same(figure, monkeypatch):
    whole, small = pair(figure, monkeypatch)
    assert len(small) < 0.75 * len(whole)
    before, after = drawn(whole), drawn(small)
    assert len(before) == len(after) > 3
    for a, b in zip(before, after, strict=True):
        assert a[:4] == b[:4]
        for x, y in zip(a[4], b[4], strict=True):
            assert len(x) == len(y) and all(abs(m - n) <= 0.0501 for m, n in zip(x, y, strict=True)), (a, b)


def test_the_comparison_notices_what_moves_or_fades(monkeypatch):
    whole, small = pair(figures()[2], monkeypatch)
    for old, new in (("M", "M9 9L"), (">word</text>", ">words</text>"), ("fill:#3f7fc8", "fill:#3f7fc9")):
        assert drawn(small.replace(old, new, 1)) != drawn(small), old
    assert compact(whole) == small


@pytest.mark.parametrize("text", HOSTILE)
def test_a_text_that_looks_like_a_style_or_a_tag_stays_a_text(text, monkeypatch):
    night = '[style*="fill: #1f2328"]{fill:#e6e8eb !important}'
    for figure in figures(f"{night}@media (prefers-color-scheme: dark){{{text}"[:90])[1:3]:
        whole, small = pair(figure, monkeypatch)
        assert [mark[2] for mark in drawn(whole)] == [mark[2] for mark in drawn(small)]
        assert ET.fromstring(whole).find(f"{SVG}title").text == ET.fromstring(small).find(f"{SVG}title").text


class _Source(HTMLParser):
    def handle_starttag(self, tag, attrs):
        self.found = (tag, dict(attrs))


@pytest.mark.parametrize("text", ["word", "100 % of #1", *HOSTILE])
def test_an_address_holds_the_picture_whole(text):
    for figure in figures(text)[:3]:
        svg = draw(figure)
        parser = _Source()
        parser.feed(f'<img src="{as_address(svg)}" alt="a">')
        tag, attributes = parser.found
        assert tag == "img" and list(attributes) == ["src", "alt"] and "\n" not in attributes["src"]
        head, _, body = attributes["src"].partition(",")
        assert head == "data:image/svg+xml;charset=utf-8" and "#" not in body
        same = [ET.canonicalize(one) for one in (svg, unquote(body))]
        assert same[0] == same[1]
