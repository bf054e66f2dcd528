"""Does a stream show every statistic every real value once, keep little in memory, stop early, and say what went wrong?"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from model import Transformer, TransformerConfig
from probes import Edit, SiteError, UnknownSiteError, intervene, observe, read_stream, stream, zero
from probes.statistics import (
    AttentionStatistics,
    Covariance,
    Histogram,
    Moments,
    Norms,
    Quantiles,
    Seen,
    Statistic,
    TopExamples,
    UpdateNorms,
    log_edges,
)

CONFIG = TransformerConfig(n_layers=4, d_model=16, n_heads=4, n_kv_heads=2, d_head=4, d_mlp=32, d_vocab=30, n_ctx=40, positions="rotary")


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(CONFIG, generator=torch.Generator().manual_seed(0))


def batches(n: int = 3, batch: int = 2, pos: int = 9) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(batch, pos, dtype=torch.bool)
    mask[0, :2] = False
    return [(torch.randint(30, (batch, pos), generator=generator), mask) for _ in range(n)]


@dataclass(frozen=True, kw_only=True)
class Watched(Statistic):
    """Keeps weak references to what it was shown, to see what is still in memory."""

    log: list
    group: tuple[str, ...] = ()

    def sites(self, model: object) -> list[tuple[str, ...]]:
        return [(f"blocks.{i}.resid_pre", f"blocks.{i}.resid_post") for i in range(4)]

    def update(self, seen: Seen) -> Statistic:
        self.log.append((sum(ref() is not None for refs, _ in self.log for ref in refs), len(seen.values)))
        self.log[-1] = ([weakref.ref(value) for value in seen.values.values()], self.log[-1][0])
        return self

    def finish(self) -> pd.DataFrame:
        return pd.DataFrame({"alive": [alive for _, alive in self.log]})

    def _measure(self, seen: Seen) -> dict:
        return {}

    def _join(self, a: object, b: object) -> object:
        return a


def test_values_of_one_block_live_at_a_time(model: Transformer) -> None:
    alive = stream(model, batches(2), {"watched": Watched(log=[])}, progress=False)["watched"]["alive"]
    assert len(alive) == 8 and alive.max() == 0  # those of the block before are gone when the next are shown


def test_no_logits_unless_asked_for_and_nothing_behind_the_last_site(model: Transformer) -> None:
    fired = []
    removes = [
        model.sites()[name].watch(lambda value, name=name: fired.append(name))
        for name in ("blocks.1.resid_post", "blocks.2.resid_pre", "logits")
    ]
    try:
        stream(model, batches(1), [Norms(at="blocks.1.attn_out")], progress=False)
        assert fired == ["blocks.1.resid_post"]
        stream(model, batches(1), [Norms(at="blocks.3.resid_post")], progress=False)
        assert "logits" not in fired
        stream(model, batches(1), [Histogram(at="logits")], progress=False)
        assert fired[-1] == "logits"
    finally:
        for remove in removes:
            remove()


def test_no_square_matrix_is_made(model: Transformer) -> None:
    """The largest tensor that any operation gives stays linear in the length."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, f, types, args=(), kwargs=None):
            out = f(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, Tensor):
                    Largest.seen = max(Largest.seen, x.numel())
            return out

    wide = Transformer(
        TransformerConfig(
            **{**CONFIG.to_dict(), "rotary": CONFIG.rotary, "span": CONFIG.span, "dropout": CONFIG.dropout, "n_ctx": 900, "n_layers": 1}
        )
    )
    tokens = torch.randint(30, (1, 900), generator=torch.Generator().manual_seed(0))
    with Largest():
        stream(wide, [(tokens,)], [AttentionStatistics(entries=2**16)], progress=False)
    assert Largest.seen < 900 * 900 / 4


@pytest.mark.parametrize("stop", ["before the second", "inside the third"])
def test_interrupted_streams_give_what_is_complete(model: Transformer, stop: str) -> None:
    def interrupted() -> Iterator[tuple[Tensor, Tensor]]:
        yield batches()[0]
        if stop == "before the second":
            raise KeyboardInterrupt
        yield from batches()[1:]

    statistics = {"norms": Norms(at="*.resid_post"), "heads": AttentionStatistics()}
    with pytest.warns(RuntimeWarning, match="interrupted: the tables are of the"):
        if stop == "before the second":
            tables = stream(model, interrupted(), statistics, progress=False)
        else:
            count = []

            def stop_in_third(value: Tensor) -> None:
                count.append(1)
                if len(count) == 3:
                    raise KeyboardInterrupt

            remove = model.sites()["blocks.2.resid_post"].watch(stop_in_third)
            try:
                tables = stream(model, interrupted(), statistics, progress=False)
            finally:
                remove()
    n = 1 if stop == "before the second" else 2
    expected = stream(model, batches()[:n], statistics, progress=False)
    for name, table in tables.items():
        assert table.attrs == {"batches": n, "examples": 2 * n, "complete": False}
        assert expected[name].attrs["complete"] is True
        pd.testing.assert_frame_equal(table, expected[name], check_exact=True)


def test_interrupted_before_anything_is_complete(model: Transformer) -> None:
    def none() -> Iterator[tuple[Tensor, Tensor]]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        stream(model, none(), [Norms(at="embed")], progress=False)


def test_edits_are_seen_and_handles_leave(model: Transformer) -> None:
    with intervene(model, Edit("blocks.1.mlp_out", zero())):
        table = stream(model, batches(), [UpdateNorms(at="blocks.1.mlp_out")], progress=False)["UpdateNorms"]
    assert (table["ratio"] == 0).all() and table["cosine"].isna().all()
    sites = model.sites()
    assert not any(site.observed for site in sites.values()) and not sites["blocks.0.attn.pattern"]._row_watchers


def test_a_foreign_module_streams_whole_passes() -> None:
    tower = nn.Sequential(nn.Embedding(30, 8), nn.Linear(8, 8), nn.ReLU(inplace=True), nn.Linear(8, 30))
    mine = observe(tower, {"blocks.0.mlp_out": "1:output", "blocks.1.mlp_out": "2:output"})
    table = stream(mine, [tokens for tokens, _ in batches()], [Moments(at="blocks.0.mlp_out", pooled=True)], progress=False)["Moments"]
    assert table["n"].tolist() == [54 * 8, 48 * 8] and table["mean"].abs().max() > 0


def test_planted_numbers() -> None:
    """Embeddings are known: a Gaussian of spread 3 in every coordinate but one, where it is 50."""
    config = TransformerConfig(n_layers=1, d_model=24, n_heads=2, d_head=4, d_mlp=8, d_vocab=4000, n_ctx=500, positions="none")
    model = Transformer(config).requires_grad_(False)
    model.embedding.weight.copy_(3 * torch.randn(4000, 24, generator=torch.Generator().manual_seed(1)))
    model.embedding.weight[:, 5] = 50.0
    tokens = torch.arange(4000).view(8, 500)
    statistics = [
        Moments(at="embed"),
        Covariance(at="embed"),
        Quantiles(at="embed"),
        Histogram(at="embed", edges=log_edges(1, 100, 1)),
        TopExamples(at="embed", k=3),
    ]
    tables = stream(model, [(row,) for row in tokens.split(3)], statistics, progress=False)
    whole = {name: table[table["positions"] == "all"] for name, table in tables.items()}
    ordinary, planted = whole["Moments"][whole["Moments"]["unit"] != 5], whole["Moments"].set_index("unit").loc[5]
    assert (planted["mean"], planted["variance"], planted["largest"]) == (50, 0, 50) and np.isnan(planted["kurtosis"])
    np.testing.assert_allclose(ordinary["variance"], 9, rtol=0.1)
    np.testing.assert_allclose(ordinary["kurtosis"], 3, atol=0.4)
    covariance = whole["Covariance"].iloc[0]
    assert (
        22.8 < covariance["effective_rank"] <= 23
        and 22.5 < covariance["participation_ratio"] <= 23
        and 18 < covariance["stable_rank"] <= 23
    )
    quantile = whole["Quantiles"].set_index("quantile")["value"]
    assert quantile[1.0] == 50 and abs(quantile[0.5] - 0.12) < 0.1 and quantile[0.99] == pytest.approx(50, rel=0.005)
    assert whole["Histogram"].set_index("low")["count"][10.0] >= 4000 and whole["Histogram"]["share"].sum() == pytest.approx(1)
    norms = model.embedding.weight.double().norm(dim=1)
    assert whole["TopExamples"]["token"].tolist() == norms.topk(3).indices.tolist()
    assert (whole["TopExamples"]["example"] * 500 + whole["TopExamples"]["position"]).tolist() == whole["TopExamples"]["token"].tolist()


def test_one_top_token_per_example_and_lists_of_each_unit(model: Transformer) -> None:
    statistics = {
        "one": TopExamples(at="blocks.1.mlp.post", k=4, one_per_example=True),
        "each": TopExamples(at="blocks.1.mlp.post", k=2, reduction="each"),
    }
    tables = stream(model, batches(), statistics, progress=False)
    one = tables["one"][tables["one"]["positions"] == "all"]
    assert one["example"].is_unique and len(one) == 4 and one["value"].is_monotonic_decreasing
    each = tables["each"][tables["each"]["positions"] == "all"]
    assert len(each) == 64 and each.groupby("unit")["value"].apply(lambda v: v.is_monotonic_decreasing).all()


def test_equal_values_rank_by_place_whatever_the_batches() -> None:
    model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=50, positions="none"))
    tokens = torch.full((6, 10), 4)
    tables = [
        stream(model, [(part,) for part in tokens.split(n)], [TopExamples(at="embed", k=7)], progress=False)["TopExamples"]
        for n in (1, 2, 6)
    ]
    for table in tables:
        whole = table[table["positions"] == "all"]
        assert whole["example"].tolist() == [0] * 7 and whole["position"].tolist() == list(range(7))


def test_numbers_that_are_none_are_counted_apart() -> None:
    model = Transformer(
        TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=8, d_vocab=9, n_ctx=50, positions="none")
    ).requires_grad_(False)
    model.embedding.weight[3, 2], model.embedding.weight[3, 3] = torch.nan, torch.inf
    tables = stream(model, [(torch.tensor([[1, 3, 2]]),)], [Quantiles(at="embed"), Histogram(at="embed")], progress=False)
    quantiles = tables["Quantiles"]
    assert (
        quantiles["n_undefined"].unique().tolist() == [2]
        and quantiles["n"].unique().tolist() == [22, 14]
        and quantiles["value"].notna().all()
    )
    histogram = tables["Histogram"]
    assert histogram[histogram["low"].isna()]["count"].tolist() == [1, 1] and histogram[histogram["high"] == np.inf]["count"].tolist() == [
        1,
        1,
    ]


def test_mistakes_are_sentences(model: Transformer) -> None:
    norms = Norms(at="*.resid_post")
    with pytest.raises(ValueError, match="a stream needs at least one batch, got none"):
        stream(model, [], [norms])
    with pytest.raises(ValueError, match="stream needs at least one statistic, got none"):
        stream(model, batches(), [])
    with pytest.raises(ValueError, match="two statistics are called Norms; name them in a mapping"):
        stream(model, batches(), [norms, norms])
    with pytest.raises(ValueError, match="statistics must be Statistic, got str"):
        stream(model, batches(), ["norms"])
    with pytest.raises(UnknownSiteError, match="no site matches 'resid_posst'"):
        stream(model, batches(), [Norms(at="resid_posst")])
    with pytest.raises(SiteError, match="Norms reads sites with axes batch pos …, but blocks.0.attn.pattern has batch head query key"):
        stream(model, batches(), [Norms(at="blocks.0.attn.pattern")])
    with pytest.raises(SiteError, match="got blocks.0.mlp.post"):
        stream(model, batches(), [UpdateNorms(at="blocks.0.mlp.post")])
    with pytest.raises(SiteError, match="the covariance of 32 coordinates needs 32 × 32 numbers, the widest site may have 20"):
        stream(model, batches(), [Covariance(at="blocks.0.mlp.post", widest=20)])
    with pytest.raises(ValueError, match=r"edges must be two numbers or more, each larger than the one before, got \(2.0, 1.0\)"):
        Histogram(at="embed", edges=(2, 1))
    with pytest.raises(ValueError, match="0 < low < high, got low=3, high=2"):
        log_edges(3, 2)
    with pytest.raises(ValueError, match="quantiles lie between 0 and 1, got 1.5"):
        Quantiles(at="embed", quantiles=(0.5, 1.5))
    with pytest.raises(ValueError, match="accuracy must lie between 0.0001 and 0.1, got 0.5"):
        Quantiles(at="embed", accuracy=0.5)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        TopExamples(at="embed", k=0)
    with pytest.raises(KeyError, match="embed .all. was not seen"):
        Covariance(at="embed").covariance("embed")


def test_a_site_that_fires_twice_or_never(model: Transformer) -> None:
    shared = nn.Linear(8, 8)
    twice = observe(nn.Sequential(nn.Embedding(30, 8), shared, shared), {"blocks.0.mlp_out": "1:output"})
    with pytest.raises(SiteError, match="blocks.0.mlp_out fired a second time in one batch"):
        stream(twice, [batches()[0][0]], [Norms(at="blocks.0.mlp_out")], progress=False)

    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Embedding(30, 8), nn.Linear(8, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.used(tokens)

    with pytest.raises(SiteError, match="blocks.0.mlp_out did not fire"):
        stream(observe(Skips(), {"blocks.0.mlp_out": "idle:output"}), [batches()[0][0]], [Norms(at="blocks.0.mlp_out")], progress=False)


def test_reading_on_equals_reading_all(model: Transformer) -> None:
    statistic = Moments(at="blocks.0.resid_post")
    first = read_stream(model, batches()[:1], [statistic], progress=False)
    on = read_stream(model, batches()[1:], dict(first.statistics), first_example=first.examples, progress=False)
    pd.testing.assert_frame_equal(on.statistics["Moments"].finish(), stream(model, batches(), [statistic], progress=False)["Moments"])
