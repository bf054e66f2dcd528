"""Does every kind of figure keep the contract: drawn from any values and any text, safely, the same each time?"""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from importlib import import_module
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports import (
    KINDS,
    AttentionMap,
    Bars,
    CircuitGraph,
    Figure,
    Heatmap,
    Histogram,
    LensGrid,
    Lines,
    Series,
    TokenMap,
    Waterfall,
    draw,
    figure_data,
    visible_token,
)
from reports.text import visible_label, visible_text
from tests.reports.samples import HOSTILE, WORDS, any_figure, figures

ROOT = Path(__file__).parents[2]
NAN = float("nan")
LONG = np.tril(np.ones((130, 130))) / np.arange(1, 131)[:, None]
GRID = {"row_label": "layer", "column_label": "head", "unit": "nats"}


def heatmap(values: np.ndarray, **more) -> Heatmap:
    rows, columns = np.shape(values)
    return Heatmap(name="h", **WORDS, values=values, rows=[f"L{i}" for i in range(rows)], columns=[f"H{i}" for i in range(columns)], **{**GRID, **more})


def lens(layers: int, positions: int, k: int = 2) -> LensGrid:
    tokens = np.full((layers, positions, k), " word", dtype=object)
    return LensGrid(name="g", **WORDS, probabilities=np.full(tokens.shape, 0.5), tokens=tokens, layers=[str(i) for i in range(layers)], positions=["a"] * positions)


def waterfall(values, total: float = 1.0) -> Waterfall:
    groups = [str(i // 2) for i in range(len(values))]
    kinds = ["attention" if i % 2 else "MLP" for i in range(len(values))]
    return Waterfall(name="w", **WORDS, groups=groups, kinds=kinds, values=np.asarray(values, dtype=float), total=total, unit="logits", group_label="layer")


def circuit(nodes: int, edges: int) -> CircuitGraph:
    ends = np.arange(edges)
    return CircuitGraph(
        name="c", **WORDS, nodes=[f"L{i}H0" for i in range(nodes)], layers=np.arange(nodes), places=np.zeros(nodes), values=np.ones(nodes), unit="share",
        senders=ends % max(1, nodes), receivers=(ends // max(1, nodes)) % max(1, nodes), edge_values=np.where(ends % 2, 1.0, -0.5),
    )


EDGES: dict[str, Figure] = {
    "heatmap of one": heatmap(np.array([[3.0]])),
    "heatmap of groups": heatmap(np.arange(12.0).reshape(2, 6), column_groups=["KV 0"] * 3 + ["a long name that does not fit"] * 3),
    "heatmap of narrow groups": heatmap(np.arange(800.0).reshape(2, 400), column_groups=[f"KV {i // 2}" for i in range(400)]),
    "heatmap of none": heatmap(np.zeros((0, 0))),
    "heatmap of NaN": heatmap(np.full((2, 3), NAN)),
    "heatmap of infinities": heatmap(np.array([[np.inf, -np.inf], [0.0, 1.0]])),
    "heatmap of equal values": heatmap(np.ones((2, 2))),
    "heatmap of zeros, signed": heatmap(np.zeros((2, 2)), signed=True),
    "heatmap 48 × 48": heatmap(np.arange(2304.0).reshape(48, 48), signed=True, low=-10, high=10),
    "heatmap 5 × 900": heatmap(np.arange(4500.0).reshape(5, 900)),
    "heatmap of whole numbers": heatmap(np.array([[1, 2]])),
    "lines without series": Lines(name="l", **WORDS, x=np.array([1.0]), series={}, x_label="x", y_label="y"),
    "lines without points": Lines(name="l", **WORDS, x=np.array([]), series={"a": Series(y=np.array([]))}, x_label="x", y_label="y"),
    "lines of one point": Lines(name="l", **WORDS, x=np.array([0]), series={"a": Series(y=np.array([2.0]))}, x_label="x", y_label="y", log_x=True, log_y=True),
    "lines of NaN": Lines(name="l", **WORDS, x=np.arange(3), series={"a": Series(y=np.full(3, NAN))}, x_label="x", y_label="y"),
    "thirty lines": Lines(name="l", **WORDS, x=np.arange(3), series={f"layer {i}": Series(y=np.full(3, i)) for i in range(30)}, x_label="x", y_label="y"),
    "lines with negative values on a log axis": Lines(name="l", **WORDS, x=np.arange(2), series={"a": Series(y=-np.ones(2))}, x_label="x", y_label="y", log_y=True),
    "no bar": Bars(name="b", **WORDS, labels=[], values=np.array([]), unit="nats"),
    "bars of NaN": Bars(name="b", **WORDS, labels=["a"], values=np.array([NAN]), unit="nats"),
    "bars of zeros": Bars(name="b", **WORDS, labels=["a", "b"], values=np.zeros(2), unit="nats", signed=True),
    "300 bars": Bars(name="b", **WORDS, labels=[f"L{i}" for i in range(300)], values=np.r_[np.arange(299.0), NAN], unit="nats"),
    "no bin": Histogram(name="i", **WORDS, counts=np.array([]), edges=np.array([0.0]), x_label="x"),
    "open bins": Histogram(name="i", **WORDS, counts=np.array([1, 2, 3]), edges=np.array([-np.inf, 0.0, 1.0, np.inf]), x_label="x"),
    "empty bins on a log axis": Histogram(name="i", **WORDS, counts=np.zeros(2), edges=np.arange(3.0), x_label="x", log_y=True),
    "no row of tokens": TokenMap(name="t", **WORDS, rows={}, unit="nats"),
    "one token": TokenMap(name="t", **WORDS, rows={"": (["a"], np.array([1.0]))}, unit="nats"),
    "tokens of NaN": TokenMap(name="t", **WORDS, rows={"r": (["a", "b"], np.full(2, NAN))}, unit="nats"),
    "900 tokens": TokenMap(name="t", **WORDS, rows={"r": (["word"] * 900, np.arange(900.0))}, unit="nats"),
    "lens of no layer": lens(0, 3),
    "lens of no choice": lens(2, 3, 0),
    "lens of NaN": dataclasses.replace(lens(2, 3), probabilities=np.full((2, 3, 2), NAN)),
    "lens of 100 × 200": lens(100, 200),
    "waterfall of nothing": waterfall([]),
    "waterfall of NaN": waterfall([NAN, NAN]),
    "waterfall of infinities": waterfall([np.inf, -1.0], total=np.inf),
    "waterfall of 900 parts": waterfall(np.tile([1.0, -0.9], 450)),
    "waterfall of zeros": waterfall([0.0, 0.0], total=0.0),
    "circuit of no node": circuit(0, 0),
    "circuit of one node": circuit(1, 0),
    "circuit of one node that feeds itself": circuit(1, 1),
    "circuit of NaN": dataclasses.replace(circuit(3, 2), values=np.full(3, NAN), edge_values=np.full(2, NAN)),
    "circuit of 60 nodes and 900 edges": circuit(60, 900),
    "no head": AttentionMap(name="a", **WORDS, patterns={}, queries=[], keys=[]),
    "one head, one token": AttentionMap(name="a", **WORDS, patterns={"L0H0": np.ones((1, 1))}, queries=["a"], keys=["a"]),
    "attention of NaN": AttentionMap(name="a", **WORDS, patterns={"L0H0": np.full((2, 2), NAN)}, queries=["a", "b"], keys=["a", "b"]),
    "difference of heads": AttentionMap(name="a", **WORDS, patterns={"d": np.array([[-0.5, 0.5]])}, queries=["a"], keys=["a", "b"]),
    "thumbnails of all heads": AttentionMap(
        name="a", **WORDS, patterns={"L1H0": np.eye(2)}, queries=["a", "b"], keys=["a", "b"], sees="causal", thumbnails=np.full((2, 3, 2, 2), 0.5),
        scores={"sink": np.ones((2, 3))}, heads_per_kv=3,
    ),
    "thumbnails alone": AttentionMap(
        name="a", **WORDS, patterns={}, queries=["a"] * 70, keys=["a"] * 70, sees="causal", thumbnails=np.full((9, 9, 32, 32), 0.1),
    ),
    "no token, causal": AttentionMap(name="a", **WORDS, patterns={"L0H0": np.zeros((0, 0))}, queries=[], keys=[], sees="causal"),
    "60 heads, 130 tokens": AttentionMap(name="a", **WORDS, patterns={f"L0H{i}": LONG for i in range(60)}, queries=["a"] * 130, keys=["a"] * 130),
}


def texts(svg: str) -> list[str]:
    return ["".join(node.itertext()) for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def checked(figure: Figure) -> str:
    """The drawn figure, after everything that holds for all of them."""
    svg = draw(figure)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    width, height = float(root.get("width")), float(root.get("height"))
    assert 100 < width <= 940 and 50 < height < 8000
    for node in root.iter():
        assert node.tag.rpartition("}")[2] in {"svg", "title", "desc", "style", "defs", "g", "path", "text", "tspan", "image", "use", "clipPath", "rect"}, node.tag
        for name, value in node.attrib.items():
            assert not name.lower().startswith("on")
            if name.rpartition("}")[2] == "href":
                assert value.startswith(("data:image/png;base64,", "#"))
            assert "url(" not in value or re.fullmatch(r"url\(#\w+\)", value)
    assert "<!DOCTYPE" not in svg and "<?xml" not in svg and "dc:date" not in svg
    assert root.find("{http://www.w3.org/2000/svg}title").text == visible_text(figure.title)
    return svg


def test_every_kind_has_a_file_and_no_file_is_left_over():
    kinds = {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower() for kind in KINDS}
    drawings = {p.stem for p in (ROOT / "reports" / "drawing").glob("*.py") if "\ndef picture(" in p.read_text()}
    assert kinds == drawings
    assert all(import_module(f"reports.drawing.{name}").__doc__.partition("\n")[0].count("?") == 1 for name in kinds)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_values_and_any_text_are_drawn(kind, data):
    figure = data.draw(any_figure(kind))
    checked(figure)
    figure_data(figure)


@pytest.mark.parametrize("figure", EDGES.values(), ids=list(EDGES))
def test_edges_are_drawn(figure):
    assert len(checked(figure)) < 250_000
    figure_data(figure)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_shown_literally(text):
    """No formula is set, no tag is opened, nothing hidden stays hidden: the first characters stand there as they are."""
    for figure in figures(text):
        svg = checked(figure)
        start = visible_label(text)[:9]
        token = visible_token(text)[:9]
        assert any(start in shown or token in shown for shown in texts(svg)), (figure.name, texts(svg))
        assert "<script" not in svg.lower() and "<img" not in svg.lower()


@pytest.mark.parametrize("figure", [f for f in figures() if not isinstance(f, Histogram)], ids=lambda f: f.name)
def test_a_missing_value_is_named(figure):
    said = " ".join(texts(draw(figure)))
    assert "NaN" in said or "without a value" in said


def test_a_missing_value_is_grey_and_not_the_colour_of_any_number():
    from reports.drawing.canvas import GREY
    from reports.drawing.scale import scale_of

    for signed in (False, True):
        scale = scale_of(np.array([-1.0, NAN, 2.0]), signed)
        grey = np.array([int(GREY[i:i + 2], 16) / 255 for i in (1, 3, 5)])
        colors = scale(np.r_[NAN, np.linspace(-3, 3, 500)])[:, :3]
        assert np.allclose(colors[0], grey)
        assert np.abs(colors[1:] - grey).max(axis=1).min() > 0.02


def test_signed_colours_are_centred_on_zero_and_run_from_blue_to_red():
    from reports.drawing.scale import scale_of

    scale = scale_of(np.array([-0.1, 4.0]), signed=True)
    assert (scale.low, scale.high) == (-4.0, 4.0)
    blue, middle, red = scale(np.array([-4.0, 0.0, 4.0]))[:, :3]
    assert blue[2] > blue[0] and red[0] > red[2]
    assert middle.min() > 0.95


def test_a_cut_range_says_so_on_the_colour_bar():
    said = texts(draw(heatmap(np.array([[-5.0, 0.0, 7.0]]), low=-1, high=1)))
    assert "≤ −1" in said and "≥ 1" in said
    assert not any("≤" in one or "≥" in one for one in texts(draw(heatmap(np.array([[-1.0, 1.0]]), low=-1, high=1))))


def test_what_is_left_out_is_said():
    assert any("the first 400 of 900 tokens" in one for one in texts(draw(EDGES["900 tokens"])))
    assert "48 of 60 heads are drawn" in texts(draw(EDGES["60 heads, 130 tokens"]))
    assert {"layer (48 of 100)", "token (64 of 200)"} <= set(texts(draw(EDGES["lens of 100 × 200"])))
    assert any("the first 400 of 900 parts are drawn" in one for one in texts(draw(EDGES["waterfall of 900 parts"])))
    assert any("24 of 60 nodes, 60 of 900 edges" in one for one in texts(draw(EDGES["circuit of 60 nodes and 900 edges"])))
    assert "1 of 300 bars have no value (NaN)" in texts(draw(EDGES["300 bars"]))
    assert any("2 of 3 bins without finite edges" in one for one in texts(draw(EDGES["open bins"])))


def test_the_bitmap_holds_one_pixel_per_value():
    import base64
    import io

    from matplotlib.image import imread

    svg = draw(heatmap(np.array([[0.0, 1.0, NAN], [1.0, 0.0, 0.5]])))
    maps = [base64.b64decode(data) for data in re.findall(r"image-rendering:pixelated.*?base64,([^\"]+)", svg)]
    pixels = imread(io.BytesIO(maps[0]))[..., :3]
    assert pixels.shape[:2] == (2, 3)
    assert np.allclose(pixels[0, 0], pixels[1, 1]) and np.allclose(pixels[0, 1], pixels[1, 0])
    assert np.allclose(pixels[0, 0], matplotlib.colormaps["viridis"](0.0)[:3], atol=0.005)


def test_a_large_map_is_averaged_and_stays_small():
    values = np.zeros((3000, 3000))
    values[:, :1500] = 1
    assert len(draw(heatmap(values))) < 100_000


@pytest.mark.parametrize("figure", figures(), ids=lambda f: f.name)
def test_drawing_twice_gives_the_same_bytes_and_changes_no_setting(figure):
    before = dict(matplotlib.rcParams)
    first = draw(figure)
    with matplotlib.rc_context({"font.size": 40, "axes.grid": True, "text.color": "red"}):
        assert draw(figure) == first
    assert dict(matplotlib.rcParams) == before


def test_fresh_processes_give_the_same_bytes_and_never_import_pyplot():
    code = ("import hashlib, sys; from tests.reports.samples import figures; from reports import draw;"
            "print(hashlib.sha256(''.join(map(draw, figures('$x_1$'))).encode()).hexdigest(), 'matplotlib.pyplot' in sys.modules)")
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
            for seed in ("1", "2")]
    assert all(run.returncode == 0 for run in runs), runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.endswith("False\n")


def test_the_ink_follows_a_dark_reader():
    """Every class that has a colour of ink by day has another one by night, and no ink stands outside the classes."""
    svg = draw(figures()[2])
    sheet, body = svg.partition("</style>")[::2]
    day, night = sheet.split("@media (prefers-color-scheme: dark)")
    inked = {(name, side, ink) for name, style in re.findall(r"\.(\w+)\{([^}]*)\}", day) for side, ink in re.findall(r"(fill|stroke):(#1f2328|#57606a|#d0d7de)", style)}
    assert {"#1f2328", "#57606a"} <= {ink for _, _, ink in inked} and {name for name, _, _ in inked} <= set(re.findall(r'class="(\w+)"', body))
    turned = {(name, side) for name, style in re.findall(r"\.(\w+)\{([^}]*)\}", night) for side in re.findall(r"(fill|stroke):#(?:e6e8eb|a3adb8|3d4550)", style)}
    assert turned == {(name, side) for name, side, _ in inked}
    assert not re.search("#(1f2328|57606a|d0d7de)", body)


def test_an_unknown_kind_is_refused():
    class Pie(Bars):
        pass
    pie = Pie(name="p", **WORDS, labels=["a"], values=np.array([1.0]), unit="1")
    with pytest.raises(TypeError, match="a figure must be one of Heatmap, Lines, .*, got Pie"):
        draw(pie)
    with pytest.raises(TypeError, match="got Figure"):
        figure_data(Figure(name="f", **WORDS))


def test_figure_data_has_every_value():
    long = {figure.name: figure_data(figure) for figure in figures("w")}
    assert long["heatmap"]["value"].isna().tolist() == [False, True, False, False]
    assert long["heatmap"][["row", "column"]].values.tolist() == [["w", "c"], ["w", "w"], ["b", "c"], ["b", "w"]]
    assert list(long["lines"].columns) == ["series", "x", "y", "low", "high"] and len(long["lines"]) == 4
    assert list(long["bars"].columns) == ["label", "value", "low"]
    assert long["histogram"].values.tolist() == [[0, 1, 3], [1, 2, 0], [2, 3, 1]]
    assert long["token-map"]["position"].tolist() == [0, 1, 0]
    attention = long["attention-map"]
    assert attention[["query", "key", "value"]].head(4).values.tolist() == [[0, 0, 1.0], [0, 1, 0.0], [1, 0, 0.25], [1, 1, 0.75]]
    assert attention["query_token"].head(4).tolist() == ["w", "w", "b", "b"] and attention["key_token"].head(4).tolist() == ["a", "w", "a", "w"]


def test_neighbouring_columns_of_one_group_are_bracketed_once():
    said = texts(draw(heatmap(np.arange(12.0).reshape(2, 6), column_groups=["KV 0"] * 3 + ["KV 1"] * 3)))
    assert [one for one in said if one.startswith("KV")] == ["KV 0", "KV 1"]
    with pytest.raises(ValueError, match="figure 'h': there must be a group for each of its 2 columns, got 1"):
        heatmap(np.ones((1, 2)), column_groups=["KV 0"])


def test_what_a_mask_hides_has_no_colour_of_a_number():
    """Keys behind the query are clear in the bitmap, and what is seen through them is a quiet grey that follows a dark reader."""
    import base64
    import io

    from matplotlib.image import imread

    pattern = np.tril(np.ones((5, 5))) / np.arange(1, 6)[:, None]
    shown = AttentionMap(name="a", **WORDS, patterns={"L0H0": pattern}, queries=list("abcde"), keys=list("abcde"))
    svg = draw(shown)
    pixels = imread(io.BytesIO(base64.b64decode(re.findall(r"base64,([^\"]+)", svg)[0])))
    assert (pixels[..., 3] == (np.tril(np.ones((5, 5))) > 0)).all() and "masked" in texts(svg)
    assert svg.index("<rect") < svg.index("<image") and "#d0d7de" in svg and "#3d4550" in svg
    full = dataclasses.replace(shown, patterns={"L0H0": np.full((5, 5), 0.2)})
    assert "<rect" not in draw(full) and "masked" not in texts(draw(full))


@pytest.mark.parametrize(("low", "high"), [(1.1, 9.5), (0.45, 0.55), (3, 40), (1, 1e6), (0.0021, 0.0034), (12.0, 12.1)])
def test_a_logarithmic_axis_has_two_labels_at_least(low, high):
    lines = Lines(name="l", **WORDS, x=np.arange(9), series={"": Series(y=np.geomspace(low, high, 9))}, x_label="x", y_label="y", log_y=True)
    plot = lines.matplotlib().axes[0]
    labelled = [tick for tick in plot.get_yticks() if plot.get_ylim()[0] <= tick <= plot.get_ylim()[1]]
    shown = [text for text in texts(draw(lines)) if text not in {str(i) for i in range(9)} | {"x", "y"}]
    assert 2 <= len(labelled) <= 12 and len(set(labelled)) == len(labelled) and set(shown) | {str(i) for i in range(9)} >= {f"{t:g}" for t in labelled if 0.001 < t < 1000}


def test_a_small_grid_is_drawn_small_enough_for_a_telephone():
    assert float(ET.fromstring(draw(heatmap(np.zeros((3, 4))))).get("width")) <= 360
    assert float(ET.fromstring(draw(heatmap(np.zeros((3, 4)), text=np.full((3, 4), "a longer text", dtype=object)))).get("width")) > 400
