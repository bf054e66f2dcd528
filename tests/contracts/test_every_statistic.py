"""Does every online statistic merge in any order, equal the direct computation, ignore padding, and keep its size?"""

from __future__ import annotations

import dataclasses
import inspect
import io
from collections.abc import Callable
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import EncoderDecoder, Transformer, wrap
from probes import read_stream, record, stream
from probes.inputs import sequence_at
from probes.statistics import Statistic, statistics
from tests.conftest import example, hugging_face
from tests.probes.statistics.test_attention_statistics import reference as attention_reference

MODELS = {"decoder with grouped heads": ("llama", 1), "post-norm encoder": ("bert", 0), "encoder-decoder": ("bart", 0)}
AT = {
    "Transformer": ("*.resid_post", "*.1.attn.z", "*.0.attn.k"),
    "EncoderDecoder": ("*.resid_post", "*.1.attn.z", "decoder.blocks.0.cross_attn.k", "decoder.blocks.0.cross_attn.z"),
}
Model = Transformer | EncoderDecoder
Values = dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]
"""site → values Float[token *axes d], number of the example, position"""


@cache
def model_of(kind: str) -> Model:
    """In float64, so that another batch shape moves nothing."""
    return wrap(hugging_face(*MODELS[kind])).requires_grad_(False).double()


def made(name: str, model: Model) -> Statistic:
    kind = statistics()[name]
    needs = inspect.signature(kind).parameters["at"].default is inspect.Parameter.empty
    return kind(at=AT[type(model).__name__]) if needs else kind()


@cache
def corpus(kind: str) -> tuple[tuple[Tensor, ...], ...]:
    """Six examples of one to eleven tokens, each a batch of its own without padding."""
    model, batches = model_of(kind), []
    for seed, pos in enumerate((11, 3, 7, 1, 8, 2)):
        inputs = example(model, batch=1, pos=pos, seed=seed)
        if isinstance(model, EncoderDecoder):
            source = slice(0, 13 - seed)
            inputs = (inputs[0][:, source], inputs[1], inputs[2][:, source], inputs[3])
        batches.append(inputs)
    return tuple(batches)


def together(batches: tuple[tuple[Tensor, ...], ...], side: str) -> tuple[Tensor, ...]:
    """One batch of several, padded."""
    padded = []
    for column in zip(*batches, strict=True):
        longest = max(x.shape[1] for x in column)
        widths = [(longest - x.shape[1], 0) if side == "left" else (0, longest - x.shape[1]) for x in column]
        padded.append(torch.cat([torch.nn.functional.pad(x, width) for x, width in zip(column, widths, strict=True)]))
    return tuple(padded)


def read(name: str, kind: str, batches: object, first_example: int = 0) -> Statistic:
    model = model_of(kind)
    return read_stream(model, batches, {name: made(name, model)}, first_example=first_example, progress=False).statistics[name]


@cache
def shards(name: str, kind: str) -> tuple[Statistic, ...]:
    return tuple(read(name, kind, [batch], i) for i, batch in enumerate(corpus(kind)))


@cache
def whole(name: str, kind: str) -> pd.DataFrame:
    return read(name, kind, corpus(kind)).finish()


def agree(a: pd.DataFrame, b: pd.DataFrame, rtol: float = 1e-6) -> None:
    pd.testing.assert_frame_equal(ordered(a), ordered(b), rtol=rtol, atol=1e-9)


def ordered(table: pd.DataFrame) -> pd.DataFrame:
    labels = [name for name in ("site", "head", "unit", "positions", "rank", "low", "quantile") if name in table]
    return table.sort_values(labels).reset_index(drop=True)


every = pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in statistics() for kind in MODELS])


def test_there_are_statistics() -> None:
    assert {"AttentionStatistics", "Covariance", "Histogram", "Moments", "Norms", "Quantiles", "TopExamples", "UpdateNorms"} <= set(
        statistics()
    )
    for kind in statistics().values():
        assert dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen and ">>>" in kind.__doc__ and "Columns:" in kind.__doc__
        assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(kind).parameters.values())


@every
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_shards_merge_in_any_order(name: str, kind: str, data: st.DataObject) -> None:
    parts = data.draw(st.permutations(shards(name, kind)))
    while len(parts) > 1:
        i = data.draw(st.integers(0, len(parts) - 2))
        parts = [*parts[:i], parts[i].merge(parts[i + 1]), *parts[i + 2 :]]
    agree(parts[0].finish(), whole(name, kind))


@every
@pytest.mark.parametrize("side", ["left", "right"])
def test_one_padded_batch_is_its_examples_alone(name: str, kind: str, side: str) -> None:
    agree(read(name, kind, [together(corpus(kind), side)]).finish(), whole(name, kind))


@every
def test_equal_to_the_direct_computation(name: str, kind: str) -> None:
    assert name in REFERENCES, f"{name} needs a direct computation to be compared with"
    REFERENCES[name](made(name, model_of(kind)), whole(name, kind), kind)


@every
def test_the_state_keeps_its_size_and_passes_through_a_file(name: str, kind: str) -> None:
    twice, often = (read(name, kind, corpus(kind) * n) for n in (2, 6))
    sizes = [{key: values.nbytes for key, values in one.state_dict().items()} for one in (twice, often)]
    assert sizes[0] == sizes[1]
    file = io.BytesIO()
    np.savez(file, **often.state_dict())
    file.seek(0)
    agree(made(name, model_of(kind)).load(np.load(file)).finish(), often.finish(), rtol=1e-12)


@every
def test_no_data_is_never_zero(name: str, kind: str) -> None:
    """Examples of one token have nothing behind the first."""
    model = model_of(kind)
    batch = tuple(x[:, :1] for x in corpus(kind)[0])
    table = stream(model, [batch], {name: made(name, model)}, progress=False)[name]
    rest = table[table["positions"] == "without first"]
    measured = [
        c
        for c in rest
        if c not in ("site", "layer", "head", "unit", "positions", "n", "count", "n_undefined", "d", "low", "high", "quantile")
    ]
    assert rest[measured].isna().all(axis=None)
    assert (rest.get("n", rest.get("count", pd.Series([0]))) == 0).all()


@every
def test_reading_leaves_the_statistic_as_it_was(name: str, kind: str) -> None:
    first = shards(name, kind)[0]
    before = {key: values.copy() for key, values in first.state_dict().items()}
    first.merge(shards(name, kind)[1])
    assert all(np.array_equal(values, before[key], equal_nan=True) for key, values in first.state_dict().items())
    assert not made(name, model_of(kind)).state
    with pytest.raises(ValueError, match="only equal statistics can be merged"):
        first.merge(dataclasses.replace(first, at="*.resid_pre"))


# Direct computations over the values of all examples, run one by one.


@cache
def recorded(kind: str, sites: tuple[str, ...]) -> Values:
    model, parts = model_of(kind), {site: [] for site in sites}
    for number, inputs in enumerate(corpus(kind)):
        with torch.no_grad(), record(model, sites) as activations:
            model(*inputs)
        for site in sites:
            values = activations[site][0].numpy()
            parts[site].append((values, np.full(len(values), number), np.arange(len(values))))
    return {site: tuple(np.concatenate(column) for column in zip(*rows, strict=True)) for site, rows in parts.items()}


def values_of(statistic: Statistic, kind: str) -> Values:
    return recorded(kind, tuple(dict.fromkeys(name for group in statistic.sites(model_of(kind)) for name in group)))


def chosen(values: Values, row: dict) -> np.ndarray:
    """The values at a row's site, of its positions and head: token, …, d."""
    x, _, position = values[row["site"]]
    x = x[position > 0] if row["positions"] == "without first" else x
    return x if pd.isna(row.get("head", np.nan)) else x[:, row["head"]]


def close(got: float, expected: float, what: object) -> None:
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9, err_msg=str(what))


def rows_of(table: pd.DataFrame, n: int = 150) -> list[dict]:
    return table.sample(min(n, len(table)), random_state=0).to_dict("records")


def check_moments(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    for row in rows_of(table):
        x = chosen(values, row)[:, row["unit"]]
        apart = x - x.mean()
        kurtosis = np.nan if not x.var() > 0 else (apart**4).mean() / x.var() ** 2
        close([row[c] for c in ("n", "mean", "variance", "kurtosis", "largest")], [len(x), x.mean(), x.var(), kurtosis, abs(x).max()], row)


def check_covariance(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    for row in rows_of(table):
        x = chosen(values, row)
        sigma = np.linalg.svd((x - x.mean(0)) / np.sqrt(len(x)), compute_uv=False)
        sigma = sigma[sigma > 1e-7 * sigma.max()]
        share = sigma / sigma.sum()
        power = sigma**2
        expected = [power.sum(), np.exp(-(share * np.log(share)).sum()), power.sum() ** 2 / (power**2).sum(), power.sum() / power.max()]
        np.testing.assert_allclose(
            [row[c] for c in ("variance", "effective_rank", "participation_ratio", "stable_rank")], expected, rtol=1e-5
        )


def check_histogram(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    for row in rows_of(table):
        x = np.abs(chosen(values, row))
        expected = np.isnan(x).sum() if pd.isna(row["low"]) else ((x >= row["low"]) & (x < row["high"])).sum()
        assert row["count"] == expected
        close(row["share"], expected / x.size, row)


def check_quantiles(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    for row in rows_of(table):
        x = np.sort(chosen(values, row).ravel())
        assert row["n"] == x.size
        below, above = (x[int(f(row["quantile"] * (x.size - 1)))] for f in (np.floor, np.ceil))
        slack = statistic.accuracy * max(abs(below), abs(above)) + 1e-12
        assert below - slack <= row["value"] <= above + slack, row


def check_norms(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    for row in rows_of(table):
        x, _, position = values[row["site"]]
        label = row["positions"]
        low, high = (
            (0, 99) if label == "all" else (1, 99) if label == "without first" else (int(label.split("–")[0]), int(label.split("–")[-1]))
        )
        x = x[(position >= low) & (position <= high)]
        x = x if pd.isna(row.get("head", np.nan)) else x[:, row["head"]]
        norm = np.linalg.norm(x, axis=-1)
        expected = [len(norm), norm.mean(), norm.std(), norm.max(), np.log(norm).mean()]
        close([row[c] for c in ("n", "mean", "std", "largest", "mean_log")], expected, row)


def check_updates(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values, pairs = values_of(statistic, kind), dict(statistic.sites(model_of(kind)))
    for row in rows_of(table):
        u, x = chosen(values, row), chosen(values, row | {"site": pairs[row["site"]]})
        ratio = np.linalg.norm(u, axis=1) / np.linalg.norm(x, axis=1)
        cosine = (u * x).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(x, axis=1)
        expected = [ratio.mean(), ratio.std(), ratio.max(), cosine.mean(), cosine.std()]
        close([row[c] for c in ("ratio", "ratio_std", "ratio_largest", "cosine", "cosine_std")], expected, row)


def check_top(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    values = values_of(statistic, kind)
    labels = [name for name in ("site", "head", "positions") if name in table]
    for key, rows in table.groupby(labels, dropna=False):
        x, number, position = values[key[0]]
        kept = position > 0 if key[-1] == "without first" else position >= 0
        vectors = x[kept] if len(key) < 3 or pd.isna(key[1]) else x[kept][:, key[1]]
        norm = np.linalg.norm(vectors, axis=-1)
        ranked = sorted(zip(-norm, number[kept], position[kept], strict=True))[: statistic.k]
        assert rows["rank"].tolist() == list(range(len(ranked)))
        assert list(zip(rows["example"], rows["position"], strict=True)) == [(e, p) for _, e, p in ranked]
        close(rows["value"], [-v for v, _, _ in ranked], key)
        for row in rows.to_dict("records"):
            assert row["token"] == sequence_at(key[0], corpus(kind)[row["example"]])[0][0, row["position"]]


def check_attention(statistic: Statistic, table: pd.DataFrame, kind: str) -> None:
    """Weighted by rows, example by example."""
    model = model_of(kind)
    (site,) = statistic.sites(model)[-1]
    total: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for inputs in corpus(kind):
        with torch.no_grad(), record(model, [site, site.replace("pattern", "scores")]) as a:
            model(*inputs)
        mask, key_mask = (sequence_at(name, inputs)[1] for name in (site, site.replace("pattern", "k")))
        found = attention_reference(a[site], a[site.replace("pattern", "scores")], mask, key_mask, ".cross_attn." in site)
        visible = a[site.replace("pattern", "scores")][0, 0].isfinite().sum(-1)
        for (head, version), numbers in found.items():
            n = int((visible >= (2 if version == "all" else 3)).sum())
            total.setdefault((head, version), []).append((n, numbers["entropy"] if n else 0.0))
    for row in table[table["site"] == site].to_dict("records"):
        parts = total[row["head"], row["positions"]]
        assert row["n"] == sum(n for n, _ in parts)
        close(row["entropy"], sum(n * x for n, x in parts) / row["n"], row)


REFERENCES: dict[str, Callable[[Statistic, pd.DataFrame, str], None]] = {
    "AttentionStatistics": check_attention, "Covariance": check_covariance, "Histogram": check_histogram, "Moments": check_moments,
    "Norms": check_norms, "Quantiles": check_quantiles, "TopExamples": check_top, "UpdateNorms": check_updates,
}  # fmt: skip
