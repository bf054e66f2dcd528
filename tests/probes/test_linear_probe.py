"""Does a probe find what is there, nothing in noise, and never see a group on both sides?"""

from __future__ import annotations

import numpy as np
import pytest

from probes import linear_probe


def noise(n: int = 200, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, d))


def test_a_line_is_found_and_the_control_finds_none() -> None:
    labels = np.repeat([0, 1], 100)
    x = noise() + 12 * labels[:, None]
    row = linear_probe(x, labels).iloc[0]
    assert row["accuracy"] == row["low"] == row["high"] == 1.0
    assert abs(row["control_accuracy"] - 0.5) < 0.12 and row["selectivity"] == pytest.approx(1 - row["control_accuracy"])
    assert (row["n"], row["n_groups"], row["n_classes"], row["majority"], row["converged"]) == (200, 200, 2, 0.5, True)


def test_scale_and_shift_of_features_change_nothing() -> None:
    labels = np.where(noise()[:, 0] > 0, "warm", "cold")
    x = noise()
    a, b = linear_probe(x, labels), linear_probe(x * [1e-3, 1e4, 1, 1, 7, 1] + [0, 50, 1e3, 0, 0, 0], labels)
    np.testing.assert_allclose(a["accuracy"], b["accuracy"], atol=0.011)


def test_noise_covers_chance() -> None:
    covered = [(t["low"][0] <= 0.5 <= t["high"][0]) for t in (linear_probe(noise(seed=s), np.arange(200) % 2, seed=s) for s in range(12))]
    assert sum(covered) >= 10


def test_positions_of_an_example_do_not_straddle() -> None:
    """Rows of an example share a random vector and a random label: only a probe that saw the example knows the label."""
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 10)
    x = generator.normal(size=(40, 60))[groups] + 0.01 * generator.normal(size=(400, 60))
    labels = generator.integers(2, size=40)[groups]
    assert linear_probe(x, labels)["accuracy"][0] > 0.95
    row = linear_probe(x, labels, groups=groups).iloc[0]
    assert row["n_groups"] == 40 and row["low"] <= 0.55 and row["accuracy"] < 0.75 and row["control_accuracy"] < 0.75
    assert row["high"] - row["low"] > 0.15  # forty examples, not four hundred rows


def test_several_sites_three_classes_and_heads() -> None:
    labels = np.arange(90) % 3
    x = noise(90, 8) + 9 * np.eye(8)[labels]
    table = linear_probe({"good": x.reshape(90, 2, 4), "bad": noise(90, 8, seed=5)}, labels)
    assert (
        table["site"].tolist() == ["good", "bad"]
        and table["accuracy"][0] == 1
        and table["accuracy"][1] < 0.6
        and (table["n_classes"] == 3).all()
    )


def test_one_seed_one_answer() -> None:
    x, labels = noise(), np.arange(200) % 2
    assert linear_probe(x, labels, seed=3).equals(linear_probe(x, labels, seed=3))


def test_mistakes_are_sentences() -> None:
    x = noise(10)
    with pytest.raises(ValueError, match="one of labels for each of the 10 rows, got 9"):
        linear_probe(x, [0] * 9)
    with pytest.raises(ValueError, match="one of groups for each of the 10 rows, got 3"):
        linear_probe(x, [0, 1] * 5, groups=[1, 2, 3])
    with pytest.raises(ValueError, match="two classes apart or more, got 1"):
        linear_probe(x, ["a"] * 10)
    with pytest.raises(ValueError, match="every class needs two groups, .* but 'b' has one"):
        linear_probe(x, ["a"] * 9 + ["b"])
    with pytest.raises(ValueError, match=r"features are Float\[row d\], got shape \(10,\)"):
        linear_probe(x[:, 0], [0, 1] * 5)
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="must be finite, but 1 of 10 rows are not"):
        linear_probe(x, [0, 1] * 5)


@pytest.mark.parametrize(("x", "labels", "message"), [
    (np.zeros((0, 3)), [], "needs at least one row of features, got none"),
    (np.zeros((4, 3)), ["a", None, "b", "b"], "labels must all be there, but 1 of 4 are missing"),
    (np.zeros((4, 3)), [1.0, float("nan"), 2.0, 2.0], "labels must all be there, but 1 of 4 are missing"),
    (np.zeros((4, 3)), [[1, 0], [0, 1], [1, 0], [0, 1]], r"labels are a list with one for each row, got shape \(4, 2\)"),
])
def test_rows_and_labels_that_are_not_there(x: np.ndarray, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_probe(x, labels)
