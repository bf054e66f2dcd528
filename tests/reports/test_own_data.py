"""Do a researcher's own numbers reach the page as they are, and is a mistake one sentence?"""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
import torch

from reports import Bars, Column, Heatmap, Lines, Table, figure_data, render
from reports.embedded import read_embedded
from reports.own_data import own
from reports.text import visible_text
from tests.reports.samples import HOSTILE, figures, result
from tests.reports.test_page import checked

FRAME = pd.DataFrame({"layer": [0, 1], "effect": [0.25, -1.5], "token": ["a", "<b>"]})


def files(path) -> dict[str, pd.DataFrame]:
    return {one.name: pd.read_csv(io.BytesIO(one.content)) for one in read_embedded(path)}


def test_every_shape_reaches_the_page_with_every_number(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 6))
    data = {"Effects": FRAME, "Entropy": values, "Loss": {"train": [3.0, 2.5, 2.25], "test": np.array([3.5, 3.0, 2.75])}, "Shares": {"attn": 0.75, "mlp": 0.25},
            "Course": values[0], "A map": figures()[0]}
    path = render(data, tmp_path / "mine.html", title="My numbers")
    parsed = checked(path.read_text())
    assert parsed.text["h1"] == ["My numbers"] and parsed.text["h2"] == list(data)
    assert [link["href"] for link in parsed.all("a") if link["href"].startswith("#part")] == [f"#part-{i}" for i in range(1, 7)]
    held = files(path)
    pd.testing.assert_frame_equal(held["Effects.csv"], FRAME, check_dtype=False)
    assert np.allclose(held["entropy.csv"]["value"].to_numpy().reshape(4, 6), values, rtol=1e-5)
    assert held["loss.csv"].values.tolist() == [[name, x, y] for name in ("train", "test") for x, y in enumerate(data["Loss"][name])]
    assert dict(held["shares.csv"].values.tolist()) == data["Shares"]
    assert np.allclose(held["course.csv"]["y"], values[0], rtol=1e-5)
    assert "id=\"verdicts\"" not in path.read_text()


def test_the_same_data_give_the_same_bytes(tmp_path):
    one, two = (render({"a": FRAME, "b": np.eye(3)}, tmp_path / name).read_bytes() for name in ("1.html", "2.html"))
    assert one == two


@pytest.mark.parametrize("alone", [FRAME, np.eye(3), [1.0, 2.0], {"x": {"a": 1, "b": 2}}, figures()[0], figures(), result(), [result(), result(analysis="b")],
                                   Table(frame=FRAME[["layer"]], columns={"layer": Column(unit="", meaning="number of the block")}, caption="c")])
def test_one_thing_alone_is_a_page_too(alone, tmp_path):
    checked(render(alone, tmp_path / "page.html").read_text())


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_names_and_cells_are_text(text, tmp_path):
    frame = pd.DataFrame({visible_text(text): pd.Series([text], dtype=object)})  # pandas has no column names with lone surrogates
    checked(render({text: frame, text + "2": {text: [1.0]}, text + "3": np.eye(2)}, tmp_path / "page.html", title=text).read_text())


def test_a_frame_keeps_its_index_and_says_that_units_are_not_known():
    frame = FRAME.set_index("token").groupby("token").mean()
    table = own("t", frame)
    assert list(table.frame.columns) == ["token", "layer", "effect"]
    assert set(table.columns.values()) == {Column(unit="", meaning="unit and meaning are not said")}
    assert list(own("t", FRAME.pivot_table(index="layer", columns=["token"], values=["effect"])).frame.columns) == ["layer", "effect · <b>", "effect · a"]


def test_series_are_lines_over_their_index_and_bars_over_words():
    course = own("loss", pd.Series([3.0, 2.0], index=pd.Index([10, 100], name="step")))
    assert isinstance(course, Lines) and course.x.tolist() == [10, 100] and course.x_label == "step"
    assert isinstance(own("share", pd.Series([0.5, 0.25], index=["attn", "mlp"])), Bars)


def test_colours_are_centred_on_zero_where_values_are_on_both_sides():
    assert own("m", np.array([[-1.0, 2.0]])).signed and not own("m", np.array([[1.0, 2.0]])).signed


def test_words_say_what_the_numbers_are():
    figure = own("Entropy", np.array([[0.5, np.nan], [2.0, 1.0]]))
    assert isinstance(figure, Heatmap)
    assert figure.alt == "Entropy: 2 rows × 2 columns, from 0.5 to 2, the largest in row 1, column 0; 1 without a value."
    assert figure.title in figure.alt and figure.caption == "Entropy, as it was given; unit and meaning are not said."
    assert own("…", np.full((1, 1), np.nan)).alt == "…: 1 rows × 1 columns, none of them a number."


def test_tensors_are_arrays():
    weights = torch.arange(6.0).reshape(2, 3).to(torch.bfloat16).requires_grad_()
    assert np.array_equal(own("W", weights).values, np.arange(6.0).reshape(2, 3))
    assert figure_data(own("b", {"a": torch.tensor(1), "b": torch.tensor(2.5)}))["value"].tolist() == [1, 2.5]


@pytest.mark.parametrize(("value", "error", "said"), [
    ([[1.0, 2.0], [3.0]], ValueError, r"'x' must have rows of one length, got lengths 2, 1"),
    (np.zeros((2, 3, 4)), ValueError, r"'x' must be an array of one or two axes, got shape \(2, 3, 4\)"),
    (["a", "b"], TypeError, r"'x' must hold numbers, got <U1"),
    ("text", TypeError, r"'x' must be a DataFrame, an array .* or a Table, got builtins.str"),
    (None, TypeError, r"got builtins.NoneType"),
    ({"a": [1, 2], "b": [1]}, ValueError, r"the series of 'x' must have one axis and one length, got shapes a \(2,\), b \(1,\)"),
    ({"a": [1, 2], "b": 1}, ValueError, r"got shapes a \(2,\), b \(\)"),
    ({}, ValueError, r"'x' must hold at least one number or series, got an empty mapping"),
    ({"a": "text"}, TypeError, r"'x: a' must hold numbers, got <U4"),
    (pd.DataFrame([[1, 2]], columns=["a", "a"]), ValueError, r"the columns of 'x' need different names, got a more than once"),
    ({"a": pd.Series([1.0], index=[0]), "b": pd.Series([1.0], index=[1])}, ValueError, r"the series of 'x' must share one index"),
])
def test_mistakes_are_one_sentence(value, error, said, tmp_path):
    with pytest.raises(error, match=said) as raised:
        render({"x": value}, tmp_path / "page.html")
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_a_column_without_a_meaning_is_a_mistake_where_others_have_one():
    with pytest.raises(ValueError, match=r"every column of a table needs a unit and a meaning: without one \['effect', 'token'\]"):
        Table(frame=FRAME, columns={"layer": Column(unit="", meaning="number of the block")}, caption="c")


def test_where_the_page_goes_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"a page of your own data needs a path: render\(data, 'page.html'\)"):
        render(FRAME)
    with pytest.raises(ValueError, match="the path must be that of a file, got the folder"):
        render(FRAME, tmp_path)
    with pytest.raises(ValueError, match="a run is rendered into its own folder under its own title, got path='x.html'"):
        render(tmp_path, "x.html")
    with pytest.raises(ValueError, match="there is nothing to show, got an empty mapping"):
        render({}, tmp_path / "page.html")
