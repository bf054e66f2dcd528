"""Are means, errors and intervals those of the examples, and is a gap that is none refused?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from model import wrap
from probes import (
    SiteError,
    ablate_heads,
    log_probability,
    logit_difference,
    patching,
    sweep,
    zero,
)
from probes.effects import check_gap, recovery, summarise
from probes.estimates import attribution_patching
from tests.conftest import hugging_face


def rows(values: np.ndarray, **columns) -> pd.DataFrame:
    """A table as a sweep gives it, node by node."""
    nodes, n = values.shape
    table = pd.DataFrame(
        {"edit": np.repeat(np.arange(nodes), n), "site": "blocks.0.attn.z", "layer": 0, "head": np.repeat(np.arange(nodes), n)}
    )
    table["position"], table["example"] = pd.array([pd.NA] * len(table), dtype="Int64"), np.tile(np.arange(n), nodes)
    return table.assign(effect=values.ravel(), edited=values.ravel(), **columns)


def test_mean_and_error_are_those_of_pandas() -> None:
    values = np.random.default_rng(0).normal(size=(5, 9)) + np.arange(5)[:, None]
    table = summarise(rows(values).sample(frac=1, random_state=1))  # the order of rows does not matter
    table = table.sort_values("head").reset_index(drop=True)
    direct = rows(values).groupby("head")["effect"].agg(["mean", "sem"])
    assert np.allclose(table[["mean", "standard_error"]], direct) and (table["n"] == 9).all()
    assert ((table["low"] < table["mean"]) & (table["mean"] < table["high"])).all()
    assert summarise(rows(values), seed=3).equals(summarise(rows(values), seed=3))
    assert not summarise(rows(values), seed=3).equals(summarise(rows(values), seed=4))


@pytest.mark.parametrize(("n", "least", "most"), [(8, 0.85, 0.92), (40, 0.92, 0.96)])
def test_how_often_an_interval_covers(n: int, least: float, most: float) -> None:
    """The figure in the docstring: at 8 normal examples about 88 %."""
    values = np.random.default_rng(0).normal(size=(3000, n)) + 2.0
    table = summarise(rows(values))
    covered = ((table["low"] <= 2.0) & (2.0 <= table["high"])).mean()
    assert least < covered < most


def test_tables_of_a_model() -> None:
    model = wrap(hugging_face("gpt2", 0)).requires_grad_(False)
    tokens, other = (torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(i)) for i in range(2))
    exact = sweep(model, (tokens,), ablate_heads(model, zero()), logit_difference(3, 4))
    table = summarise(exact)
    assert len(table) == len(exact) / 4 and table.attrs["exact"] is True and table.attrs["unit"] == "logits"
    estimate = attribution_patching(model, (tokens,), (other,), logit_difference(3, 4), ["*attn.z", "*mlp_out"])
    table = summarise(estimate, value="estimate")
    assert table["head"].isna().sum() == model.n_layers and table.attrs["exact"] is False
    assert np.isclose(table["mean"].sum() * 4, estimate["estimate"].sum())


def test_recovery_is_one_at_the_clean_end() -> None:
    clean, corrupt = np.array([4.0, 3.0, 5.0, 4.5]), np.array([-1.0, 0.0, -2.0, -1.5])
    values = np.stack([clean, corrupt, (clean + corrupt) / 2, [4.0, 3.0, 5.0, -1.5]])
    table = recovery(rows(values), clean, corrupt)
    gap = (clean - corrupt).sum()
    assert np.allclose(table["recovery"], [1, 0, 0.5, (gap - 6.0) / gap]) and table.attrs["unit"] == "1"
    assert np.allclose(table["per_example"], [1, 0, 0.5, 0.75])
    assert np.allclose(table[["low", "high"]][:3], [[1, 1], [0, 0], [0.5, 0.5]])
    assert table["low"][3] < table["recovery"][3] < table["high"][3]
    assert recovery(rows(values * 10 + 3), clean * 10 + 3, corrupt * 10 + 3)["recovery"].round(9).equals(table["recovery"].round(9))


def test_recovery_of_a_patching_table() -> None:
    model = wrap(hugging_face("gpt2", 0)).requires_grad_(False)
    batches = [(torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(i)),) for i in range(2)]
    table = patching(model, *batches, log_probability(3), "resid_pre", least_gap=0.0)
    assert table["corrupt"].nunique() == 3
    table[["clean", "edited"]] += 100.0  # a gap that no example can hide
    found = recovery(table)
    expected = table.groupby("layer")[["clean", "corrupt", "edited"]].mean()
    assert np.allclose(found["recovery"], (expected["edited"] - expected["corrupt"]) / (expected["clean"] - expected["corrupt"]))


def test_a_degenerate_task_is_refused() -> None:
    with pytest.raises(SiteError, match=r"differ by 0.1 logits, less than 10 % of the clean 3$"):
        check_gap([3.0, 3.0], [2.9, 2.9], unit="logits")
    with pytest.raises(SiteError, match=r"differ by 1, less than 5 standard errors of 1 \(n=2\)"):
        check_gap([2.0, 4.0], [2.0, 2.0])
    with pytest.raises(SiteError, match="differ by 0, less than 10 %"):
        check_gap([0.0], [0.0])
    check_gap([1.0], [0.0])
    values = np.array([[1.0, 1.0]])
    with pytest.raises(SiteError, match="differ by 0.05 nats, less than 10 % of the clean 1"):
        table = rows(values)
        table.attrs = {"unit": "nats"}
        recovery(table, [1.0, 1.0], [0.95, 0.95])


def test_mistakes() -> None:
    values = np.ones((2, 3))
    with pytest.raises(SiteError, match="no column 'estimate'; it has edit, site"):
        summarise(rows(values), value="estimate")
    with pytest.raises(SiteError, match="2 rows of one example share site=blocks.0.attn.z; name the column that tells them apart"):
        summarise(rows(values), by=["site"])
    with pytest.raises(SiteError, match="the same 3 examples, one has 2"):
        summarise(rows(values).iloc[:-1])
    with pytest.raises(SiteError, match="at least one row"):
        summarise(rows(values).iloc[:0])
    with pytest.raises(SiteError, match=r"one number for each of 3 examples, got \(2,\) and \(3,\)"):
        recovery(rows(values), [1.0, 2.0], [0.0, 0.0, 0.0])
    one = summarise(rows(np.ones((2, 1))))
    assert one[["standard_error", "low", "high"]].isna().all(axis=None) and (one["mean"] == 1).all()
