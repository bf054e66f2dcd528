"""Are extracted activations those of the model, token by token, and does a killed run go on?"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from model import Transformer, TransformerConfig, wrap
from probes import SiteError, extract, load_extracted, record
from tests.conftest import example, hugging_face

SITES = ["blocks.0.attn.z", "blocks.1.resid_post"]
CONFIG = TransformerConfig(n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=32, d_vocab=30, n_ctx=40)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(CONFIG, generator=torch.Generator().manual_seed(0))


def batches(model: Transformer, side: str = "left") -> list:
    return [example(model, side, seed=seed) for seed in range(3)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pool", [None, "mean", "first", "last"])
def test_values_are_those_of_the_model(model: Transformer, tmp_path: Path, side: str, pool: str | None) -> None:
    found = load_extracted(extract(model, batches(model, side), SITES, tmp_path, pool=pool, labels=list("abcdefghi")))
    assert found.complete and list(found.values) == SITES
    expected, rows = {name: [] for name in SITES}, []
    for number, (tokens, mask) in enumerate(batches(model, side)):
        with torch.no_grad(), record(model, SITES) as a:
            model(tokens, mask)
        for b in range(3):
            real = mask[b].nonzero()[:, 0]
            chosen = {None: real, "mean": real, "first": real[:1], "last": real[-1:]}[pool]
            for name in SITES:
                x = a[name][b, chosen]
                expected[name].append(x.mean(0, keepdim=True) if pool == "mean" else x)
            for place in chosen.tolist() if pool != "mean" else [None]:
                position, token = (None, None) if place is None else (int((real < place).sum()), int(tokens[b, place]))
                rows.append((number, 3 * number + b, position, token, "abcdefghi"[3 * number + b]))
    for name in SITES:
        np.testing.assert_allclose(found.values[name], torch.cat(expected[name]).numpy(), rtol=1e-5, atol=1e-6)
    truth = pd.DataFrame(rows, columns=["shard", "example", "position", "token", "label"]).astype({"position": "Int64", "token": "Int64"})
    pd.testing.assert_frame_equal(found.index[list(truth)], truth, check_dtype=False)
    assert (
        found.index.groupby("shard")["row"].apply(lambda row: row.tolist() == list(range(len(row)))).all()
        and found.index["text"].isna().all()
    )


def test_a_killed_run_goes_on_where_it_was(model: Transformer, tmp_path: Path) -> None:
    def killed():
        yield batches(model)[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(model, killed(), SITES, tmp_path / "a")
    assert not load_extracted(tmp_path / "a").complete
    (tmp_path / "a" / "values-000001.safetensors").write_bytes(b"half")  # killed between the values and their index
    before = (tmp_path / "a" / "values-000000.safetensors").stat().st_mtime_ns
    found = load_extracted(extract(model, batches(model), SITES, tmp_path / "a"))
    assert (tmp_path / "a" / "values-000000.safetensors").stat().st_mtime_ns == before
    whole = load_extracted(extract(model, batches(model), SITES, tmp_path / "b"))
    assert found.complete and not list((tmp_path / "a").glob(".*"))
    assert all(np.array_equal(found.values[name], whole.values[name]) for name in SITES)
    pd.testing.assert_frame_equal(found.index, whole.index)


def test_text_of_tokens_and_some_sites(glasslm: Transformer, tmp_path: Path) -> None:
    found = load_extracted(
        extract(glasslm, [glasslm.tokenize(["Hello", "a small house"])], "blocks.*.resid_post", tmp_path), "blocks.0.resid_post"
    )
    assert "".join(found.index.loc[found.index["example"] == 1, "text"]) == "a small house" and list(found.values) == [
        "blocks.0.resid_post"
    ]


def test_low_precision_and_two_stacks(model: Transformer, tmp_path: Path) -> None:
    low = Transformer(CONFIG, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    found = load_extracted(extract(low, batches(low), SITES, tmp_path / "low"))
    assert found.values[SITES[0]].dtype == np.float32
    both = wrap(hugging_face("bart", 0))
    inputs = example(both, "right")
    found = load_extracted(extract(both, [inputs], ["encoder.blocks.0.resid_post", "decoder.blocks.0.cross_attn.k"], tmp_path / "source"))
    assert len(found.index) == int(inputs[2].sum()) and found.index["token"].tolist() == inputs[0][inputs[2]].tolist()
    with pytest.raises(SiteError, match="stand over two sequences; extract them into two folders"):
        extract(both, [inputs], ["encoder.blocks.0.resid_post", "decoder.blocks.0.resid_post"], tmp_path / "two")


def test_mistakes_are_sentences(model: Transformer, tmp_path: Path) -> None:
    extract(model, batches(model), SITES, tmp_path)
    with pytest.raises(ValueError, match=r"holds activations with pool=None, asked for were 'mean'; choose another folder"):
        extract(model, batches(model), SITES, tmp_path, pool="mean")
    with pytest.raises(ValueError, match="holds activations with sites="):
        extract(model, batches(model), SITES[:1], tmp_path)
    with pytest.raises(ValueError, match="holds another batch in shard 0"):
        extract(model, batches(model)[::-1], SITES, tmp_path)
    with pytest.raises(ValueError, match="holds 3 shards, but these batches make 2"):
        extract(model, batches(model)[:2], SITES, tmp_path)
    with pytest.raises(ValueError, match="a label for each example, got 4 for at least 6 examples"):
        extract(model, batches(model), SITES, tmp_path / "new", labels=[1, 2, 3, 4])
    with pytest.raises(ValueError, match="at least one batch to extract from, got none"):
        extract(model, [], SITES, tmp_path / "none")
    with pytest.raises(ValueError, match="pool is 'mean', 'last', 'first' or None, got 'max'"):
        extract(model, batches(model), SITES, tmp_path / "pool", pool="max")
    with pytest.raises(SiteError, match="blocks.0.attn.scores has batch head query key"):
        extract(model, batches(model), "blocks.0.attn.scores", tmp_path / "scores")
    with pytest.raises(ValueError, match="holds no activations"):
        load_extracted(tmp_path / "nowhere")


def stopped(given: list, n: int):
    yield from given[:n]
    raise KeyboardInterrupt


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_stopped_anywhere_and_continued_it_is_the_same_folder(family: str, tmp_path: Path) -> None:
    model = wrap(hugging_face(family, 0)).eval()
    site = "decoder.blocks.0.resid_post" if family == "t5" else "blocks.0.resid_post"
    given = [example(model, "left", batch=2, pos=6, seed=seed) for seed in range(3)]
    extract(model, given, site, tmp_path / "whole", labels=[*"abcdef"])
    for n in range(3):
        with pytest.raises(KeyboardInterrupt):
            extract(model, stopped(given, n), site, tmp_path / f"{n}", labels=[*"abcdef"])
        extract(model, given, site, tmp_path / f"{n}", labels=[*"abcdef"])
        for name in ("values-000000.safetensors", "values-000001.safetensors", "values-000002.safetensors", "parameters.json"):
            assert (tmp_path / f"{n}" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_nothing_else_continues_a_folder(family: str, tmp_path: Path) -> None:
    model = wrap(hugging_face(family, 0)).eval()
    site = "decoder.blocks.0.resid_post" if family == "t5" else "blocks.0.resid_post"
    batch = example(model, "none", batch=2, pos=6)
    extract(model, [batch], site, tmp_path, labels=[1, 2])
    with torch.no_grad():
        other = copy.deepcopy(model)
        next(other.parameters()).add_(1e-3)
    with pytest.raises(ValueError, match="holds activations with weights="):
        extract(other, [batch], site, tmp_path, labels=[1, 2])
    with pytest.raises(ValueError, match="holds activations with weights="):
        extract(copy.deepcopy(model).double(), [batch], site, tmp_path, labels=[1, 2])
    with pytest.raises(ValueError, match="holds other labels in shard 0"):
        extract(model, [batch], site, tmp_path, labels=[2, 1])
    with pytest.raises(ValueError, match="holds another batch in shard 0"):
        extract(model, [(batch[0].flip(1), *batch[1:])], site, tmp_path, labels=[1, 2])  # of t5 it is the source alone that differs
    with pytest.raises(ValueError, match="a label for each example, got 3 for 2 examples"):
        extract(model, [batch], site, tmp_path, labels=[1, 2, 3])


def test_labels_go_by_their_order(model: Transformer, tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": list("abcd")}).iloc[[2, 0, 3, 1]]
    tokens = [torch.arange(12).reshape(4, 3)]
    for name, labels in (("series", frame["label"]), ("array", frame["label"].to_numpy()), ("list", list("cadb"))):
        found = load_extracted(extract(model, tokens, SITES[0], tmp_path / name, pool="last", labels=labels))
        assert found.index["label"].tolist() == list("cadb")
    assert load_extracted(extract(model, tokens, SITES[0], tmp_path / "t", pool="last", labels=torch.arange(4))).index["label"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("labels", [[1, "a", 2, 3], ["\ud800", "b", "c", "d"], [2**70, 1, 2, 3], [object(), 1, 2, 3]])
def test_labels_that_no_table_holds_are_refused_before_anything_is_written(model: Transformer, tmp_path: Path, labels: list) -> None:
    with pytest.raises(ValueError, match="labels must be of one kind"):
        extract(model, [torch.arange(12).reshape(4, 3)], SITES[0], tmp_path / "a", labels=labels)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("damage", [lambda place: place.unlink(), lambda place: place.write_bytes(place.read_bytes()[:50])])
def test_a_damaged_shard_is_named_and_made_again(model: Transformer, tmp_path: Path, damage: Callable) -> None:
    extract(model, batches(model), SITES, tmp_path)
    whole = load_extracted(tmp_path)
    damage(tmp_path / "values-000001.safetensors")
    with pytest.raises(ValueError, match="values-000001.safetensors is missing or damaged: run extract again"):
        load_extracted(tmp_path)
    again = load_extracted(extract(model, batches(model), SITES, tmp_path))
    assert all(np.array_equal(again.values[name], whole.values[name]) for name in SITES)


@pytest.mark.parametrize("content", ["", "[1]", '{"sites": 1}', "{"])
def test_a_foreign_folder_is_refused(model: Transformer, tmp_path: Path, content: str) -> None:
    (tmp_path / "parameters.json").write_text(content)
    with pytest.raises(ValueError, match="parameters.json is not one that extract wrote"):
        extract(model, batches(model), SITES, tmp_path)
