"""Do the views of tokens, layers and circuits get the figure's own numbers, in the figure's order, and say what is left out?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from reports import CircuitGraph, LensGrid, TokenMap, Waterfall, draw, figure_data
from reports.drawing.circuit_graph import shown_parts
from reports.drawing.waterfall import running_sum
from reports.views import as_json, view_of
from tests.contracts.test_every_figure import circuit, lens, texts, waterfall
from tests.reports.samples import WORDS


def data(figure):
    found = view_of(figure).data(figure)
    assert found is None or as_json(found)
    return found


def test_tokens_have_their_numbers_their_colours_and_their_line_breaks() -> None:
    rows = {"a": (["x\n", "y", "z"], np.array([-1.0, 0.0, np.nan])), "b": (["x\n"], np.array([2.0]))}
    got = data(TokenMap(name="t", **WORDS, rows=rows, unit="logits", notes={"b": "exact"}))
    first, second = got["rows"]
    assert (first["tokens"], first["breaks"], second["note"]) == (["x⏎", "y", "z"], [0], "exact")
    assert first["values"] == ["−1 logits", "0 logits", "no value"] and second["values"] == ["+2 logits"]
    assert (
        first["shares"] == [0.25, 0.5, None] and second["shares"] == [1.0] and got["range"].startswith("Colours from −2 logits to 2 logits")
    )
    long = data(TokenMap(name="t", **WORDS, rows={"r": (["a"] * 900, np.zeros(900))}, unit="1"))
    assert len(long["rows"][0]["tokens"]) == 400 and "The first 400 of 900 tokens" in long["rows"][0]["note"]
    assert data(TokenMap(name="t", **WORDS, rows={"r": ([], np.array([]))}, unit="1")) is None


def test_lens_cells_hold_the_choices_of_their_layer_and_position() -> None:
    rng = np.random.default_rng(0)
    tokens = np.array([f"t{i}" for i in range(3 * 4 * 2)], dtype=object).reshape(3, 4, 2)
    ranks = np.array([[5, np.nan, 7, 1], [4, np.nan, 2, 1], [1, np.nan, 3, 2]])
    figure = LensGrid(
        name="g",
        **WORDS,
        probabilities=rng.random((3, 4, 2)),
        tokens=tokens,
        layers=list("abc"),
        positions=list("wxyz"),
        targets=["p", "", "q", "r"],
        ranks=ranks,
    )
    got = data(figure)
    cell = 2 * 4 + 1  # layer c, position x
    assert [got["words"][i] for i in got["tokens"][2 * cell : 2 * cell + 2]] == tokens[2, 1].tolist()
    np.testing.assert_allclose(got["probabilities"], figure.probabilities.reshape(-1), rtol=0.01)
    assert got["ranks"] == [5, None, 7, 1, 4, None, 2, 1, 1, None, 3, 2] and got["targets"] == ["p", None, "q", "r"] and got["said"] == ""
    frame = figure_data(figure)
    assert frame[(frame.layer == "c") & (frame.position == 1)].token.tolist() == tokens[2, 1].tolist() and len(frame) == 24
    assert frame[(frame.layer == "b") & (frame.position == 2)].target_rank.tolist() == [2, 2]


def test_a_large_lens_keeps_both_ends_of_the_layers_and_the_last_positions() -> None:
    got = data(lens(100, 200))
    assert (len(got["layers"]), got["layers"][0], got["layers"][-1], got["numbers"][0], got["numbers"][-1]) == (48, "0", "99", 136, 199)
    assert got["said"] == "layers (48 of 100), positions (64 of 200)" and len(as_json(got)) < 150_000


def test_nodes_stand_in_the_order_of_layer_and_place_and_edges_keep_their_ends() -> None:
    figure = CircuitGraph(
        name="c", **WORDS, nodes=["late", "input", "early b", "early a"], layers=np.array([2, -1, 0, 0]), places=np.array([0, 0, 5, 1]),
        values=np.array([0.5, 1.0, np.nan, -0.25]), senders=np.array([1, 3]), receivers=np.array([3, 0]), edge_values=np.array([0.1, -0.4]), unit="share",
        edge_notes=["", "k only"],
    )  # fmt: skip
    got = data(figure)
    assert [node["label"] for node in got["nodes"]] == ["input", "early a", "early b", "late"]
    assert [(edge["from"], edge["to"], edge["value"], edge["sign"], edge["width"], edge["note"]) for edge in got["edges"]] == [
        (1, 3, "−0.4", -1, 1.0, "k only"), (0, 1, "+0.1", 1, 0.25, ""),
    ]  # fmt: skip
    assert [node["value"] for node in got["nodes"]] == ["+1", "−0.25", "no value", "+0.5"]
    frame = figure_data(figure)
    assert frame.iloc[4:].values.tolist() == [["input", "early a", 0.1], ["early a", "late", -0.4]] and len(frame) == 6


def test_of_a_large_circuit_the_largest_parts_are_shown() -> None:
    figure = dataclasses.replace(circuit(60, 900), values=np.arange(60.0, 0.0, -1.0))
    shown = shown_parts(figure)
    assert shown.nodes.tolist() == list(range(24)) and shown.cut == "24 of 60 nodes, 60 of 900 edges"
    assert data(figure)["said"] == "Drawn are 24 of 60 nodes, 60 of 900 edges."


def test_a_waterfall_runs_to_its_sum_and_names_the_error_of_closing() -> None:
    figure = waterfall([1.0, -0.25, 0.5], total=1.2)
    assert running_sum(figure.values).tolist() == [0, 1, 0.75, 1.25]
    assert any("parts add up to 1.25, measured 1.2: error 0.05" in one for one in texts(draw(figure)))
    assert figure_data(figure).values.tolist()[-1] == ["measured", "measured", 1.2] and figure_data(figure)["value"].iloc[:-1].sum() == 1.25
    assert view_of(figure) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(lens(2, 3), tokens=np.empty((2, 3, 1), dtype=object)), r"tokens must have shape \(2, 3, 2\), got \(2, 3, 1\)"),
        (lambda: dataclasses.replace(lens(2, 3), probabilities=np.ones((2, 3))), r"probabilities must have shape \(2, 3, 3\), got \(2, 3\)"),
        (lambda: dataclasses.replace(lens(2, 3), targets=["a", "b", "c"]), "targets and ranks belong together, got targets alone"),
        (lambda: dataclasses.replace(lens(2, 3), targets=["a"], ranks=np.ones((2, 3))), r"targets must have shape \(3,\), got \(1,\)"),
        (lambda: Waterfall(name="w", **WORDS, groups=["a"], kinds=[], values=np.ones(1), total=1.0, unit="1", group_label="l"), r"kinds must have shape \(1,\), got \(0,\)"),
        (lambda: dataclasses.replace(circuit(3, 2), receivers=np.array([0, 3])), "an edge joins two of 3 nodes, got ends from 0 to 3"),
        (lambda: dataclasses.replace(circuit(3, 2), edge_notes=["a"]), r"edge_notes must have shape \(2,\), got \(1,\)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
