"""Are attention statistics by rows those of the written-out pattern, in every family, and do planted heads get planted numbers?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from model import Span, Transformer, TransformerConfig, wrap
from probes import Edit, SiteError, intervene, observe, record, stream
from probes.inputs import sequence_at
from probes.statistics import AttentionStatistics
from tests.conftest import FAMILIES, PADDING, example, hugging_face

ALONG = ("previous", "same", "distance", "window")
COLUMNS = ("entropy", "effective_keys", "maximum", "first", "last", *ALONG)


def reference(pattern: Tensor, scores: Tensor, mask: Tensor, key_mask: Tensor, cross: bool) -> dict[tuple[int, str], dict[str, float]]:
    """Means over rows, (head, version) → quantity, row by row over the written-out pattern in float64."""
    means: dict[tuple[int, str], dict[str, float]] = {}
    for version in ("all", "without first"):
        rows: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
        for b in range(len(pattern)):
            real_keys, queries = (m[b].nonzero()[:, 0].tolist() for m in (key_mask, mask))
            rank = {place: i for i, place in enumerate(real_keys)}
            for i, place in enumerate(queries):
                keys = [k for k in real_keys if scores[b, 0, place, k].isfinite() and (version == "all" or k != real_keys[0])]
                if len(keys) < 2:
                    continue
                row = pattern[b, :, place, keys].double().numpy()  # head key
                row = row / row.sum(1, keepdims=True)
                at = dict(zip(keys, row.T, strict=True))
                entropy = -np.where(row > 0, row * np.log(np.where(row > 0, row, 1)), 0).sum(1)
                rows["entropy"].append(entropy)
                rows["effective_keys"].append(np.exp(entropy))
                rows["maximum"].append(row.max(1))
                targets = {"first": real_keys[0], "last": real_keys[-1]}
                if not cross:
                    targets |= {"same": place, "previous": queries[i - 1] if i else None}
                    apart = np.array([abs(i - rank[k]) for k in keys])
                    rows["distance"].append((row * apart).sum(1))
                    held = np.stack([row[:, apart < w].sum(1) >= 0.9 - 1e-7 for w in range(1, len(real_keys) + 1)])
                    rows["window"].append(held.argmax(0) + 1.0)
                for name, target in targets.items():
                    if target in at:
                        rows[name].append(at[target])
        for head in range(pattern.shape[1]):
            means[head, version] = {
                name: float(np.nanmean([v[head] for v in values])) if values else np.nan for name, values in rows.items()
            }
    return means


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_the_written_out_pattern(family: tuple[str, int]) -> None:
    model = wrap(hugging_face(*family)).requires_grad_(False)
    for padding in PADDING:
        inputs = example(model, padding, batch=2, pos=7)
        names = [name for name in model.sites() if name.endswith("attn.pattern")]
        names = [name for name in names if ".0." in name or ".1." in name]
        table = stream(model, [inputs], [AttentionStatistics(at=tuple(names), entries=60)])["AttentionStatistics"]
        with torch.no_grad(), record(model, [*names, *(name.replace("pattern", "scores") for name in names)]) as a:
            model(*inputs)
        for name in names:
            cross, mask = ".cross_attn." in name, sequence_at(name, inputs)[1]
            key_mask = sequence_at(name.replace("pattern", "k"), inputs)[1]
            expected = reference(a[name], a[name.replace("pattern", "scores")], mask, key_mask, cross)
            for row in table[table["site"] == name].to_dict("records"):
                truth = expected[row["head"], row["positions"]]
                np.testing.assert_allclose(
                    [row[c] for c in COLUMNS], [truth[c] for c in COLUMNS], rtol=1e-5, atol=1e-5, err_msg=f"{name} {padding} {row}"
                )


SHAPE = {"n_layers": 2, "d_model": 24, "n_heads": 6, "n_kv_heads": 2, "d_head": 4, "d_mlp": 32, "d_vocab": 50, "n_ctx": 64}
KINDS = {
    "window": {"positions": "rotary", "span": Span(kind="window", size=5)},
    "block": {"positions": "rotary", "span": Span(kind="block", size=4, n_global=1)},
    "alibi": {"positions": "alibi"},
    "shaw": {"positions": "shaw", "max_distance": 4},
    "t5": {"positions": "t5"},
    "additive": {"score": "additive"},
    "cap": {"score_cap": 2.0},
    "encoder": {"causal": False},
    "encoder window": {"causal": False, "span": Span(kind="window", size=4)},
}


def random_model(seed: int = 0, **changes: object) -> Transformer:
    model = Transformer(TransformerConfig(**SHAPE | changes), generator=torch.Generator().manual_seed(seed)).requires_grad_(False)
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return model


def tokens_of(model: Transformer, padding: str = "none", batch: int = 3, pos: int = 19) -> tuple[Tensor, Tensor]:
    return example(model, padding, batch=batch, pos=pos)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", ["none", "left", "holes"])
def test_every_design_choice_and_chunk(kind: str, padding: str) -> None:
    model = random_model(**KINDS[kind])
    tokens, mask = tokens_of(model, padding if padding != "holes" else "none")
    if padding == "holes":
        mask[1, [0, 3, 4, 9, 18]] = False
    names = ["blocks.0.attn.pattern", "blocks.1.attn.pattern"]
    tables = [stream(model, [(tokens, mask)], [AttentionStatistics(entries=entries)])["AttentionStatistics"] for entries in (1, 700, 10**6)]
    for other in tables[1:]:
        pd.testing.assert_frame_equal(tables[0], other, rtol=1e-5, atol=1e-6)
    with torch.no_grad(), record(model, [*names, *(name.replace("pattern", "scores") for name in names)]) as a:
        model(tokens, mask)
    for name in names:
        expected = reference(a[name], a[name.replace("pattern", "scores")], mask, mask, False)
        for row in tables[0][tables[0]["site"] == name].to_dict("records"):
            truth = expected[row["head"], row["positions"]]
            np.testing.assert_allclose([row[c] for c in COLUMNS], [truth[c] for c in COLUMNS], rtol=1e-5, atol=1e-5, err_msg=f"{row}")


def test_the_histogram_is_that_of_the_pattern_and_sums_to_one() -> None:
    model = random_model(positions="rotary", causal=False)
    tokens, mask = tokens_of(model, "left", pos=40)
    table = stream(model, [(tokens, mask)], [AttentionStatistics(which=("histogram",))])["AttentionStatistics"]
    bins = [name for name in table if name.startswith("mass_")]
    assert bins == ["mass_at_0", "mass_from_1", "mass_from_2", "mass_from_4", "mass_from_8", "mass_from_16", "mass_from_32"]
    np.testing.assert_allclose(table[bins].sum(axis=1), 1.0, atol=1e-5)
    with torch.no_grad(), record(model, "blocks.1.attn.pattern") as a:
        model(tokens, mask)
    pattern = a["blocks.1.attn.pattern"].double()
    place = (mask.long().cumsum(1) - 1).clamp(min=0)
    apart = (place[:, :, None] - place[:, None, :]).abs()[:, None]
    rows = table[(table["layer"] == 1) & (table["positions"] == "all")]
    for name, low, high in [("mass_at_0", 0, 1), ("mass_from_4", 4, 8), ("mass_from_16", 16, 32)]:
        mass = (pattern * ((apart >= low) & (apart < high))).sum(-1)  # batch head query
        expected = (mass * mask[:, None]).sum((0, 2)) / mask.sum()
        np.testing.assert_allclose(rows[name], expected, rtol=1e-5, atol=1e-6)


def test_planted_heads_have_planted_numbers() -> None:
    """Patterns are edited: every query looks at the token before it with 0.75, at the first with 0.25."""
    model, n = random_model(), 12

    def planted(pattern: Tensor) -> Tensor:
        new = torch.zeros_like(pattern)
        for i in range(n):
            new[:, :, i, max(i - 1, 0)] += 0.75
            new[:, :, i, 0] += 0.25
        return new

    with intervene(model, Edit("blocks.0.attn.pattern", planted)):
        table = stream(model, [(tokens_of(model, pos=n)[0],)], [AttentionStatistics(at="blocks.0.attn.pattern")])["AttentionStatistics"]
    whole, rest = (table[table["positions"] == version].iloc[0] for version in ("all", "without first"))
    assert (whole["n"], rest["n"]) == (3 * (n - 1), 3 * (n - 2))
    half = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert whole["entropy"] == pytest.approx(half * (n - 2) / (n - 1), abs=1e-6)
    assert whole["first"] == pytest.approx((0.25 * (n - 2) + 1) / (n - 1)) and whole["previous"] == pytest.approx(
        (0.75 * (n - 2) + 1) / (n - 1)
    )
    assert whole["distance"] == pytest.approx((1 + sum(0.75 + 0.25 * i for i in range(2, n))) / (n - 1))
    assert whole["same"] == 0 and whole["window"] == pytest.approx((2 + sum(i + 1 for i in range(2, n))) / (n - 1))
    assert (
        rest["entropy"] == pytest.approx(0, abs=1e-6)
        and rest["previous"] == pytest.approx(1)
        and rest["window"] == 2
        and np.isnan(rest["first"])
    )


def test_a_sequence_of_one_token_says_nothing() -> None:
    model = random_model()
    table = stream(model, [(torch.tensor([[3], [4]]),)], [AttentionStatistics()])["AttentionStatistics"]
    assert (table["n"] == 0).all() and table[list(COLUMNS)].isna().all(axis=None)


def test_a_foreign_module_that_writes_its_patterns_is_read_alike() -> None:
    model = random_model()

    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.eye = model, nn.Identity()

        def forward(self, tokens: Tensor) -> Tensor:
            with record(self.inner, "blocks.0.attn.pattern") as a:
                logits = self.inner(tokens)
            self.eye(a["blocks.0.attn.pattern"])
            return logits

    tokens = tokens_of(model)[0]
    theirs = observe(Foreign(), {"blocks.0.attn.pattern": "eye:output"}, n_heads=6)
    statistic = AttentionStatistics(at="blocks.0.attn.pattern")
    ours = stream(model, [(tokens,)], [statistic])["AttentionStatistics"]
    pd.testing.assert_frame_equal(stream(theirs, [(tokens,)], [statistic])["AttentionStatistics"], ours, rtol=1e-5, atol=1e-6)


def test_low_precision_is_measured_in_single_precision() -> None:
    model = random_model(positions="rotary")
    low = random_model(positions="rotary").to(torch.bfloat16)
    tokens = tokens_of(model)[0]
    table = stream(low, [(tokens,)], [AttentionStatistics()])["AttentionStatistics"]
    assert (table["entropy"] >= 0).all()
    expected = stream(model, [(tokens,)], [AttentionStatistics()])["AttentionStatistics"]
    assert (table["entropy"] - expected["entropy"]).abs().max() < 0.2


def test_mistakes_are_sentences() -> None:
    model = random_model()
    with pytest.raises(ValueError, match="which names some of entropy, .*, got 'entropie'"):
        AttentionStatistics(which=("entropie",))
    with pytest.raises(SiteError, match="blocks.0.attn.z has batch pos head d_head"):
        stream(model, [(torch.tensor([[1, 2]]),)], [AttentionStatistics(at="blocks.0.attn.z")])
