"""Does docs/families.md name every family with the sites that it has now, and keep the bounds?"""

from __future__ import annotations

import re

import pytest

from model.architectures import architectures
from tests.contracts.families import EXACT, LOWER, TABLE, TRAINED, pairs_of, trained_pair

COLUMNS = ("configs", "unpadded", "left", "right", "sites", "moved", "bf16")


def rows() -> dict[str, dict[str, float]]:
    """The numbers of the table, by the name in its first column."""
    cells = (re.findall(r"[^|\s]+", line) for line in TABLE.read_text().splitlines() if re.match(r"\| [a-z0-9_]+ \| \d", line))
    return {name: dict(zip(COLUMNS, map(float, numbers), strict=True)) for name, *numbers in cells}


def test_every_family_is_listed_and_in_order() -> None:
    names = list(rows())
    families = [name for name in names if name not in TRAINED]
    assert families == sorted(architectures())
    assert names[len(families) :] == sorted(set(names) & set(TRAINED))


def test_bounds_are_kept() -> None:
    for name, row in rows().items():
        assert max(row["unpadded"], row["left"], row["right"]) < EXACT, name
        assert row["moved"] == row["sites"] > 0, name
        assert row["bf16"] < LOWER, name


@pytest.mark.parametrize("name", sorted(architectures()))
def test_sites_are_those_of_now(name: str) -> None:
    counts = [len(pair.ours.sites()) for pair in pairs_of(name)]
    row = rows()[name]
    assert (row["configs"], row["sites"]) == (len(counts), sum(counts)), "run make families"


@pytest.mark.parametrize("name", [name for name in ("annalog", "glasslm", "minilm") if name in rows()])
def test_sites_of_trained_models_are_those_of_now(name: str) -> None:
    assert rows()[name]["sites"] == len(trained_pair(name).ours.sites()), "run make families"
