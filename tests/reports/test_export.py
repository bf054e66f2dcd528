"""Do figures leave whole: the same picture in every form, the same bytes each time, and every number beside it?"""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from reports import KINDS, Bars, Figure, Heatmap, TokenMap, draw, export_figures, figure_data, load_result, save_result, save_run
from reports.drawing.canvas import INK, MUTED, PALETTE, RULE
from reports.drawing.outputs import style
from reports.export import export_run
from reports.text import visible_text
from tests.reports.samples import HOSTILE, WORDS, figures, provenance, result

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
FIGURES = figures()
ALL = ("svg", "png", "pdf", "csv", "parquet")


def heatmap(values: np.ndarray, **more) -> Heatmap:
    rows, columns = values.shape
    return Heatmap(name="map", **WORDS, values=values, rows=[str(i) for i in range(rows)], columns=[str(i) for i in range(columns)],
                   row_label="layer", column_label="head", unit="nats", **more)


def written(figure: Figure, folder: Path, *formats: str, **options) -> list[bytes]:
    return [path.read_bytes() for path in export_figures(figure, folder, formats or ALL, **options)]


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.name)
def test_every_kind_leaves_in_every_form(figure, tmp_path):
    svg, png, csv, parquet = written(figure, tmp_path, "svg", "png", "csv", "parquet")
    root = ET.fromstring(svg)
    assert (root.find(f"{SVG}title").text, root.find(f"{SVG}desc").text) == (figure.title, figure.alt)
    image = Image.open(io.BytesIO(png))
    assert image.size == tuple(pytest.approx(float(root.get(side)) * 200 / 72, abs=1) for side in ("width", "height"))
    assert image.info["Title"] == figure.title and image.info["Description"] == figure.alt and "Software" not in image.info
    assert len(np.unique(np.asarray(image.convert("L")))) > 10
    long = figure_data(figure)
    assert len(pd.read_csv(io.BytesIO(csv))) == len(long)
    kept = pd.read_parquet(io.BytesIO(parquet))
    pd.testing.assert_frame_equal(kept, long, check_dtype=False)
    assert kept.attrs["title"] == figure.title and kept.attrs["caption"] == figure.caption and kept.attrs["alt"] == figure.alt


def test_pdf_says_what_it_shows_and_not_when(tmp_path):
    pdf, = written(FIGURES[2], tmp_path, "pdf")
    assert pdf.startswith(b"%PDF") and b"CreationDate" not in pdf and b"Matplotlib" not in pdf
    assert f"/Title ({FIGURES[2].title})".encode() in pdf and f"/Subject ({FIGURES[2].alt})".encode() in pdf


def test_every_kind_is_among_the_samples():
    assert {type(figure) for figure in FIGURES} == set(KINDS)


def test_the_default_is_four_files_beside_each_other(tmp_path):
    paths = export_figures(result(), tmp_path / "new" / "folder")
    assert [path.name for path in paths[:4]] == [f"{FIGURES[0].name}.{form}" for form in ("svg", "png", "csv", "parquet")]
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == sorted(path.name for path in paths)
    assert len(paths) == 4 * len(FIGURES)


def test_the_bytes_are_the_same_in_fresh_processes(tmp_path):
    code = ("import sys; from reports import export_figures; from tests.reports.samples import figures;"
            "export_figures(figures('$x_1$ 日'), sys.argv[1], dpi=50); export_figures(figures()[2], sys.argv[1], ('pdf',)); print('matplotlib.pyplot' in sys.modules)")
    for seed in ("1", "2"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path / seed], cwd=ROOT, env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT), "PATH": ""},
                              capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / seed).iterdir()} for seed in ("1", "2"))
    assert one == two and len(one) == 4 * len(FIGURES) + 1


@pytest.mark.parametrize("signed", [False, True])
def test_png_and_svg_show_the_planted_values(signed, tmp_path):
    """At the centre of every cell both have the colour of the value; the array of the Matplotlib figure is the value itself."""
    values = np.random.default_rng(0).normal(size=(3, 5))
    figure = heatmap(values, signed=signed)
    bound = np.abs(values).max()
    low, high = (-bound, bound) if signed else (values.min(), values.max())
    expected = matplotlib.colormaps["RdBu_r" if signed else "viridis"]((values - low) / (high - low))[..., :3]
    svg, png = written(figure, tmp_path, "svg", "png")
    place = next(image for image in ET.fromstring(svg).iter(f"{SVG}image") if "pixelated" in image.get("style", ""))
    href = place.get("{http://www.w3.org/1999/xlink}href").partition(",")[2]
    in_svg = np.asarray(Image.open(io.BytesIO(base64.b64decode(href))).convert("RGB")) / 255
    assert np.allclose(in_svg, expected, atol=1.1 / 255)
    left, top, width, height = (float(place.get(side)) * 200 / 72 for side in ("x", "y", "width", "height"))
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255
    rows = (top + (np.arange(3) + 0.5) / 3 * height).astype(int)
    columns = (left + (np.arange(5) + 0.5) / 5 * width).astype(int)
    assert np.allclose(pixels[np.ix_(rows, columns)], expected, atol=1.6 / 255)
    grid = figure.matplotlib().axes[0]
    assert np.array_equal(grid.images[0].get_array(), values)
    assert (grid.get_xlabel(), grid.get_ylabel()) == ("head", "layer")


@pytest.mark.parametrize("upright", [True, False])
def test_the_colour_bar_has_the_highest_value_on_top_or_right(upright, tmp_path):
    """In SVG, where it is a bitmap of our own, as in PNG, where matplotlib draws it."""
    tokens = TokenMap(name="t", **WORDS, rows={"r": (["a", "b"], np.array([0.0, 4.0]))}, unit="nats", signed=False)
    svg, png = written(heatmap(np.array([[0.0, 4.0], [1.0, 2.0]])) if upright else tokens, tmp_path, "svg", "png")
    bar = [image for image in ET.fromstring(svg).iter(f"{SVG}image") if "pixelated" not in image.get("style", "")][-1]
    steps = rgb(base64.b64decode(bar.get("{http://www.w3.org/1999/xlink}href").partition(",")[2]))
    assert (steps.shape[0] == 1) == (not upright) and (steps.shape[1] == 1) == upright
    left, top, width, height = (float(bar.get(side)) * 200 / 72 for side in ("x", "y", "width", "height"))
    places = [(left + width / 2, top + 2), (left + width / 2, top + height - 3)] if upright else [(left + width - 3, top + height / 2), (left + 2, top + height / 2)]
    painted = [rgb(png)[int(y), int(x)] for x, y in places]
    for high, low in ((steps[0, 0], steps[-1, 0]) if upright else (steps[0, -1], steps[0, 0]), painted):
        assert np.allclose([high, low], [matplotlib.colormaps["viridis"](share)[:3] for share in (1.0, 0.0)], atol=0.05)


def rgb(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")) / 255


def test_the_background_is_white_or_none(tmp_path):
    for figure in FIGURES[:2]:
        white, clear = (Image.open(io.BytesIO(written(figure, tmp_path, "png", background=kind)[0])).convert("RGBA") for kind in ("white", "transparent"))
        assert white.getpixel((1, 1)) == (255, 255, 255, 255)
        assert clear.getpixel((1, 1))[3] == 0
        (paper,), (none,) = (written(figure, tmp_path, "svg", background=kind) for kind in ("white", "transparent"))
        assert b"fill: #ffffff" in paper.partition(b"</style>")[2][:2000]
        assert b'width="100%"' not in none


def test_a_saved_picture_keeps_dark_ink_for_a_dark_reader(tmp_path):
    svg, = written(FIGURES[2], tmp_path, "svg")
    assert b"prefers-color-scheme" not in svg and INK.encode() in svg
    assert "prefers-color-scheme" in draw(FIGURES[2])


def test_the_resolution_is_what_is_asked_for(tmp_path):
    sizes = [Image.open(io.BytesIO(written(FIGURES[2], tmp_path, "png", dpi=dpi)[0])).size for dpi in (72, 144)]
    assert sizes[1] == tuple(2 * side for side in sizes[0])


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_leaves_as_text(text, tmp_path):
    for figure in figures(text):
        csv, parquet = written(figure, tmp_path, "csv", "parquet")
        csv.decode("utf-8")
        assert pd.read_parquet(io.BytesIO(parquet)).attrs["title"] == visible_text(text)
    svg, = written(figures(text)[4], tmp_path, "svg")
    assert ET.fromstring(svg).find(f"{SVG}title").text == visible_text(text)
    assert b"<script" not in svg.lower() and b"<img" not in svg.lower()


def test_hostile_text_is_painted_and_kept_in_metadata(tmp_path):
    for figure in figures("".join(HOSTILE)[:300]):
        png, = written(figure, tmp_path, "png", dpi=50)
        assert Image.open(io.BytesIO(png)).info["Title"] == visible_text(figure.title)
    assert written(figures("".join(HOSTILE)[:300])[4], tmp_path, "pdf")[0].startswith(b"%PDF")


def test_numbers_of_a_large_map_are_all_there(tmp_path):
    values = np.random.default_rng(0).normal(size=(300, 400))
    csv, parquet = written(heatmap(values), tmp_path, "csv", "parquet")
    for frame in (pd.read_csv(io.BytesIO(csv)), pd.read_parquet(io.BytesIO(parquet))):
        assert np.array_equal(frame["value"].to_numpy().reshape(300, 400), values)


def test_pictures_lie_beside_the_saved_figures_and_leave_with_them(tmp_path):
    save_run(tmp_path, {"analyses": ["a", "never-ran"], "provenance": provenance()})
    save_result(result(analysis="a"), tmp_path / "a")
    before = (tmp_path / "a" / "result.json").read_bytes()
    paths = export_run(tmp_path, ("svg",))
    assert {path.relative_to(tmp_path).as_posix() for path in paths} == {f"a/figures/{figure.name}.svg" for figure in FIGURES}
    assert len(load_result(tmp_path / "a").figures) == len(FIGURES) and (tmp_path / "a" / "result.json").read_bytes() == before
    save_result(result(analysis="a", figures=()), tmp_path / "a")
    assert not list((tmp_path / "a" / "figures").iterdir())


def test_the_command_line_writes_them(tmp_path, capsys, monkeypatch):
    from analyses.__main__ import main

    save_run(tmp_path, {"title": "t", "analyses": ["a"], "provenance": provenance()})
    save_result(result(analysis="a", figures=FIGURES[2:3]), tmp_path / "a")
    monkeypatch.setattr(sys, "argv", ["prosect", "render", str(tmp_path), "--figures"])
    assert main() == 0
    assert str(tmp_path / "report.html") in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a" / "figures").glob("bars.*")) == ["bars.csv", "bars.npz", "bars.parquet", "bars.png", "bars.svg"]


def test_mistakes_are_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"the format of a figure must be one of svg, png, pdf, csv, parquet, got 'jpg'"):
        export_figures(FIGURES, tmp_path, ("svg", "jpg"))
    with pytest.raises(ValueError, match="must be 'white' or 'transparent', got 'red'"):
        export_figures(FIGURES, tmp_path, background="red")
    with pytest.raises(ValueError, match="dpi must be from 10 to 2400, got 0"):
        export_figures(FIGURES, tmp_path, dpi=0)
    with pytest.raises(ValueError, match="these must differ, got bars more than once"):
        export_figures([FIGURES[2], FIGURES[2]], tmp_path)
    with pytest.raises(TypeError, match="a figure must be one of Heatmap, .*, got Figure"):
        export_figures(Figure(name="f", **WORDS), tmp_path, ("svg",))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.name)
def test_the_matplotlib_figure_is_its_owners(figure):
    """Nothing of the user's is touched; what is drawn does not depend on the user's settings; and it can be changed and saved."""
    before = dict(matplotlib.rcParams)
    drawn = figure.matplotlib()
    assert dict(matplotlib.rcParams) == before
    assert type(drawn) is matplotlib.figure.Figure and drawn.get_suptitle().replace("\n", " ") == figure.title
    assert matplotlib.colors.to_hex(drawn.get_facecolor()) == "#ffffff"
    plain = figure.matplotlib(title=False)
    assert plain.get_suptitle() == "" and plain.get_size_inches()[1] < drawn.get_size_inches()[1]
    with matplotlib.rc_context({"font.size": 40, "axes.grid": True, "text.color": "red", "lines.linewidth": 9, "axes.facecolor": "black"}):
        other = figure.matplotlib(title=False)
        assert pixels(other) == pixels(plain)
    drawn.axes[0].set_title("mine")
    drawn.suptitle("ours")
    assert pixels(drawn) != pixels(figure.matplotlib())


def pixels(drawn: matplotlib.figure.Figure) -> bytes:
    buffer = io.BytesIO()
    drawn.savefig(buffer, format="rgba", dpi=72)
    return buffer.getvalue()


def test_the_title_stands_above_and_moves_nothing():
    figure = FIGURES[2]
    drawn, plain = figure.matplotlib(), figure.matplotlib(title=False)
    heights = [one.get_size_inches()[1] for one in (drawn, plain)]
    for a, b in zip(drawn.axes, plain.axes, strict=True):
        left, bottom, width, height = a.get_position().bounds
        assert np.allclose([left, bottom * heights[0], width, height * heights[0]],
                           np.array(b.get_position().bounds) * [1, heights[1], 1, heights[1]])
    assert drawn._suptitle.get_window_extent().y0 >= max(panel.get_window_extent().y1 for panel in drawn.axes)


def test_the_colour_bar_follows_the_map():
    drawn = heatmap(np.arange(6.0).reshape(2, 3)).matplotlib()
    grid, bar = drawn.axes
    grid.images[0].set_cmap("magma")
    assert grid.images[0].colorbar.cmap.name == "magma" and bar.get_ylabel() == "nats"


def test_it_is_the_picture_of_the_page(tmp_path):
    """The PNG is what the Matplotlib figure without its title shows, pixel by pixel."""
    for figure in FIGURES:
        png, = written(figure, tmp_path, "png", dpi=72)
        assert np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).tobytes() == pixels(figure.matplotlib(title=False)), figure.name


def test_it_works_beside_pyplot_and_leaves_it_alone():
    code = ("import matplotlib; matplotlib.use('svg'); import matplotlib.pyplot as plt; from tests.reports.samples import figures\n"
            "mine = plt.figure(); drawn = [f.matplotlib() for f in figures()]; [d.canvas.draw() for d in drawn]\n"
            "import io; [d.savefig(io.BytesIO(), format='png') for d in drawn]; drawn[0].savefig(io.BytesIO(), format='svg'); drawn[2].savefig(io.BytesIO(), format='pdf')\n"
            "print(plt.get_fignums(), plt.gcf() is mine, matplotlib.get_backend())")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[1] True svg\n"), done.stderr


def test_the_style_sheet_can_be_used_for_ones_own_figures():
    import matplotlib.style

    with matplotlib.style.context("reports.prosect"):
        assert (matplotlib.rcParams["text.color"], matplotlib.rcParams["axes.labelcolor"], matplotlib.rcParams["grid.color"]) == (INK, MUTED, RULE)
    assert tuple("#" + color.removeprefix("#") for color in style()["axes.prop_cycle"].by_key()["color"]) == PALETTE


def test_reports_is_imported_without_matplotlib():
    code = "import sys, reports; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_bars_picture_is_readable_text():
    bars = Bars(name="b", **WORDS, labels=["full", "ablated"], values=np.array([2.0, 2.5]), unit="nats")
    assert {"full", "ablated", "nats"} <= {one for one in re.findall(r">([^<>]+)</text>", draw(bars))}


@pytest.mark.parametrize("values, zero", [([2.0, 2.1], False), ([0.1, 2.1], True), ([2.0, np.nan], True), ([-2.0, -2.1], True), ([2.0], True)])
def test_values_that_lie_close_together_are_dots_on_an_axis_of_their_own(values, zero):
    """Bars begin at zero and would hide what tells them apart; dots need not."""
    picture = draw(Bars(name="b", **WORDS, labels=[f"arm {i}" for i in range(len(values))], values=np.array(values), unit="nats"))
    ticks = re.findall(r">([^<>]+)</text>", picture)
    assert ("0" in ticks) == zero, ticks
