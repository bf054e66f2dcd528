"""Are estimates the slopes that they claim to be, where are they exact, and what do they miss? And does a screen say so?"""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch

from model import Transformer, TransformerConfig, wrap
from model.zoo.planted_induction import (
    INDUCTION_HEAD,
    PREVIOUS_TOKEN_HEAD,
    planted_induction,
)
from probes import (
    Edit,
    Metric,
    SiteError,
    UnknownSiteError,
    accuracy,
    intervene,
    kl_divergence,
    logit_difference,
    loss,
    patch,
    record,
    sweep,
    total_variation,
)
from probes.estimates import (
    FirstOrder,
    Screening,
    attribution_patching,
    recall,
    screen_then_verify,
)
from probes.estimates.qk_fix import of_one_key, of_rows
from probes.estimates.screen import most_exceeding
from tests.conftest import PADDING, example, hugging_face, interrupted, place_to_read

PLAIN = FirstOrder(qk_fix=False)
FAMILIES = ["gpt2", "qwen3", "gemma2", "bloom", "bert", "t5", "bart"]
"""Learned positions; grouped heads with QK-norm and rotation; soft caps; ALiBi; an encoder; relative biases and two stacks; two stacks."""


@cache
def family(name: str) -> Transformer:
    return wrap(hugging_face(name, 0)).requires_grad_(False).double()


def pair(model, padding: str, batch: int = 2) -> tuple[tuple, tuple]:
    """Two batches of random tokens with the same mask."""
    return example(model, padding, batch=batch, pos=6, seed=1), example(model, padding, batch=batch, pos=6, seed=2)


def values(table, name: str = "estimate") -> np.ndarray:
    return table[name].to_numpy(float)


def exact(model, clean, corrupt, metric, estimate):
    """The sweep over the nodes of an estimate, in its order."""
    nodes = estimate[estimate["example"] == 0]
    with torch.no_grad(), record(model, sorted(set(nodes["site"]))) as there:
        model(*corrupt)
    change = patch(there)
    some = lambda x: None if x is None or x != x else [int(x)]  # noqa: E731
    labels = nodes[["site", "head", "position"]].astype(object).where(nodes[["site", "head", "position"]].notna(), None)
    edits = [Edit(s, change, heads=some(h), positions=some(p)) for s, h, p in labels.itertuples(index=False)]
    return sweep(model, clean, edits, metric)


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("name", FAMILIES)
def test_is_the_central_difference_of_the_exact_patch(name: str, padding: str) -> None:
    model, step = family(name), 1e-4  # small beside the distance of a ReLU from its kink
    metric = logit_difference(3, 4, positions=place_to_read(model))
    clean, corrupt = pair(model, padding)
    sites = ["*attn.z", "*attn.q", "*attn.k", "*attn.v", "*attn_out", "*mlp_out"]
    sites = [s for s in sites if any(n.endswith(s[1:]) for n in model.sites())]
    by_position = padding == "left"
    estimate = attribution_patching(model, clean, corrupt, metric, sites, by_position=by_position, rule=PLAIN)
    nodes = estimate[estimate["example"] == 0].sample(40, random_state=0) if by_position else estimate[estimate["example"] == 0]
    runs = []
    for inputs in (clean, corrupt):
        with torch.no_grad(), record(model, sites) as run:
            model(*inputs)
        runs.append(run)
    edits = [
        Edit(
            site, lambda value, site=site, sign=sign: value + sign * step * (runs[1][site] - runs[0][site]), heads=None if head is None else [head],
            positions=None if place is None else [place],
        )
        for site, head, place in nodes[["site", "head", "position"]].astype(object).where(nodes[["site", "head", "position"]].notna(), None).itertuples(index=False)
        for sign in (1, -1)
    ]  # fmt: skip
    edited = values(sweep(model, clean, edits, metric), "edited").reshape(len(nodes), 2, 2)
    expected = (edited[:, 0] - edited[:, 1]) / (2 * step)  # nodes examples
    got = np.stack([values(estimate)[nodes.index + i] for i in range(2)], axis=1)
    assert np.abs(expected).max() > 1e-3
    assert np.abs(got - expected).max() < 1e-5 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_softmax_is_exact_for_queries_and_keys(name: str) -> None:
    """Against the definition: patch one node, look at the pattern of its own layer, multiply with the slope."""
    model = family(name)
    metric = logit_difference(3, 4, positions=place_to_read(model))
    clean, corrupt = pair(model, "left" if name != "gpt2" else "right")
    kinds = [kind for kind in ("q", "k", "rot_q", "rot_k") if any(site.endswith(f"attn.{kind}") for site in model.sites())]
    readout = metric.on(model, clean)
    with record(model, "*attn.pattern", gradients=True) as pattern:
        total = readout.measure(readout.of(model(*clean)), None).sum()
    slopes = dict(zip(pattern, torch.autograd.grad(total, list(pattern.values()), allow_unused=True), strict=True))
    for by_position in (False, True):
        table = attribution_patching(model, clean, corrupt, metric, [f"*attn.{kind}" for kind in kinds], by_position=by_position)
        nodes = table[table["example"] == 0].sample(12, random_state=1)
        for row in nodes.itertuples():
            with torch.no_grad(), record(model, row.site) as there:
                model(*corrupt)
            own = f"{row.site.rpartition('.')[0]}.pattern"
            edit = Edit(row.site, patch(there), heads=[int(row.head)], positions=[int(row.position)] if by_position else None)
            with torch.no_grad(), intervene(model, edit), record(model, own) as patched:
                model(*clean)
            slope = torch.zeros_like(pattern[own]) if slopes[own] is None else slopes[own]
            expected = ((patched[own] - pattern[own].detach()) * slope).sum((1, 2, 3))
            got = values(table)[[row.Index, row.Index + 1]]
            assert np.allclose(got, expected.numpy(), atol=1e-9), (row, got, expected)


INDUCTION = ("blocks.1.attn.k", INDUCTION_HEAD[1])


def swapped(pad: bool = False) -> tuple[tuple, tuple]:
    """After a second 7, the successor of the first: 3 in the clean text, 11 in the corrupt one. Keys alone tell which."""
    clean, corrupt = torch.tensor([[7, 3, 9, 11, 7], [7, 3, 20, 11, 7]]), torch.tensor([[9, 3, 7, 11, 7], [20, 3, 7, 11, 7]])
    if not pad:
        return (clean,), (corrupt,)
    mask = torch.ones(2, 7, dtype=torch.bool)
    mask[0, :2] = mask[1, 5:] = False
    wide = []
    for tokens in (clean, corrupt):
        padded = torch.zeros(2, 7, dtype=torch.long)
        padded[0, 2:], padded[1, :5] = tokens[0], tokens[1]
        wide.append((padded, mask))
    return tuple(wide)


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("sharpness", [2.0, 5.0, 10.0, 20.0, 50.0])
def test_a_saturated_softmax_is_seen_by_the_fix_alone(sharpness: float, pad: bool) -> None:
    model, metric = planted_induction(sharpness=sharpness), logit_difference(3, 11)
    clean, corrupt = swapped(pad)
    for by_position in (False, True):
        fixed = attribution_patching(model, clean, corrupt, metric, ["blocks.1.attn.k", "blocks.1.attn.q"], by_position=by_position)
        truth = values(exact(model, clean, corrupt, metric, fixed), "effect")
        assert np.abs(values(fixed) - truth).max() < 1e-3 * np.abs(truth).max()
    if sharpness < 20:
        return
    plain, fixed = (attribution_patching(model, clean, corrupt, metric, "blocks.1.attn.k", rule=rule) for rule in (PLAIN, FirstOrder()))
    truth = values(exact(model, clean, corrupt, metric, plain), "effect")
    of_head = (plain["head"] == INDUCTION[1]).to_numpy()
    assert (truth[of_head] < -1.9 * sharpness).all()
    assert (np.abs(values(plain)[of_head]) < 0.01 * np.abs(truth[of_head])).all(), "plain attribution patching should fail here"
    assert np.allclose(values(fixed)[of_head], truth[of_head], rtol=1e-3)
    heads = attribution_patching(
        model, clean, corrupt, metric, "*attn.z"
    )  # the fix is for queries and keys: an earlier head's z goes unseen
    layer, head = PREVIOUS_TOKEN_HEAD
    earlier = ((heads["layer"] == layer) & (heads["head"] == head)).to_numpy()
    truth = values(exact(model, clean, corrupt, metric, heads), "effect")
    assert (np.abs(truth[earlier]) > 1.9 * sharpness).all() and (np.abs(values(heads)[earlier]) < 0.01 * np.abs(truth[earlier])).all()


def test_one_key_at_a_time_is_one_softmax_each() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, patched, slope = (torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64) * size for size in (30, 30, 1))
    hidden = torch.ones(5, 7).tril(1) == 0
    scores, patched = (x.masked_fill(hidden, -torch.inf) for x in (scores, patched))
    scores[0, 0, 2], patched[0, 0, 2] = -torch.inf, -torch.inf  # a blind query
    scores[1, 2, 3, 0] = 200.0  # others have no weight left
    for key in range(7):
        one = torch.where(torch.arange(7) == key, patched, scores)
        assert torch.allclose(of_one_key(scores, patched, slope)[..., key], of_rows(scores, one, slope).sum(-1), atol=1e-12)


def linear(n_kv_heads: int = 2, **options) -> Transformer:
    """No norm, no MLP, and a pattern that does not depend on what is attended: ALiBi alone."""
    config = TransformerConfig(
        n_layers=3, d_model=12, n_heads=4, n_kv_heads=n_kv_heads, d_head=3, d_mlp=0, d_vocab=20, n_ctx=8, norm="none", final_norm=False,
        positions="alibi", tied_embeddings=False, **options,
    )  # fmt: skip
    model = Transformer(config, generator=torch.Generator().manual_seed(3)).requires_grad_(False).double()
    for parameter in model.parameters():
        parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    for block in model.blocks:
        block.attn.W_Q.weight.zero_(), block.attn.W_Q.bias.zero_()
    return model


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("causal", [True, False])
def test_a_linear_model_is_estimated_exactly(causal: bool, padding: str) -> None:
    model = linear(causal=causal)
    metric = logit_difference(3, 4, positions=place_to_read(model))
    clean, corrupt = pair(model, padding, batch=3)
    for by_position in (False, True):
        sites = ["embed", "*attn.z", "*attn.v", "*attn.k", "*attn_out", "*resid_post"]
        for rule in (PLAIN, FirstOrder(), FirstOrder(gradients="corrupt"), FirstOrder(gradients="path", n_steps=1)):
            table = attribution_patching(model, clean, corrupt, metric, sites, by_position=by_position, rule=rule)
            truth = values(exact(model, clean, corrupt, metric, table), "effect")
            assert np.allclose(values(table), truth, atol=1e-5 * np.abs(truth).max()), rule


@pytest.mark.parametrize("name", ["gpt2", "qwen3", "bart"])
def test_what_the_metric_cannot_see_is_exactly_zero(name: str) -> None:
    model = family(name)
    metric = logit_difference(3, 4, positions=place_to_read(model))
    clean, corrupt = pair(model, "left", batch=3)
    table = attribution_patching(
        model, clean, corrupt, metric, ["*attn.z", "*attn.q", "*attn.k", "*attn.v", "*resid_pre"], by_position=True
    )
    of_target = ~table["site"].str.startswith("encoder.") & ~table["site"].str.contains(r"cross_attn\.[kv]$")
    pads = table[of_target & (table["example"] == 1) & (table["position"] < 2)]
    assert len(pads) and (pads["estimate"] == 0).all()
    assert (table[of_target & (table["example"] == 0)]["estimate"] != 0).any()
    clean, corrupt = pair(model, "right", batch=3)
    table = attribution_patching(
        model, clean, corrupt, metric, ["*attn.z", "*attn.q", "*attn.k", "*attn.v", "*resid_pre"], by_position=True
    )
    of_target = ~table["site"].str.startswith("encoder.") & ~table["site"].str.contains(r"cross_attn\.[kv]$")
    after = table[of_target & (table["example"] == 1) & (table["position"] > 3)]
    assert len(after) and (after["estimate"] == 0).all()


def test_batch_is_single() -> None:
    model, metric = family("qwen3"), logit_difference(3, 4)
    clean, corrupt = pair(model, "none", batch=3)
    sites = ["*attn.z", "*attn.k"]
    whole = attribution_patching(model, clean, corrupt, metric, sites, by_position=True)
    for i in range(3):
        one = attribution_patching(
            model, *(tuple(x[i : i + 1] for x in inputs) for inputs in (clean, corrupt)), metric, sites, by_position=True
        )
        assert np.allclose(values(one), values(whole[whole["example"] == i]), atol=1e-10)


def by_head(model: Transformer, change) -> None:
    """Change the weights of the heads of block 1: `change` takes and gives them heads first, their share of the output likewise."""
    attn = model.blocks[1].attn
    for made in (attn.W_Q, attn.W_K, attn.W_V):
        for weight in (made.weight, made.bias):
            weight.copy_(change(weight.unflatten(0, (4, -1)), False).flatten(0, 1))
    attn.W_O.weight.copy_(change(attn.W_O.weight.unflatten(1, (4, -1)).transpose(0, 1), True).transpose(0, 1).flatten(1))


@pytest.mark.parametrize("site", ["attn.z", "attn.q", "attn.k", "attn.v"])
def test_permuted_heads_permute_and_a_doubled_head_shares(site: str) -> None:
    config = TransformerConfig(n_layers=3, d_model=16, n_heads=4, d_head=4, d_mlp=20, d_vocab=20, n_ctx=8)
    clean, corrupt = ((torch.randint(20, (2, 6), generator=torch.Generator().manual_seed(i)),) for i in range(2))

    def scores(change=None) -> np.ndarray:
        model = Transformer(config, generator=torch.Generator().manual_seed(3)).requires_grad_(False).double()
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) / 4)
        if change:
            by_head(model, change)
        return values(attribution_patching(model, clean, corrupt, logit_difference(3, 4), f"blocks.1.{site}")).reshape(4, 2)

    before, order = scores(), [2, 0, 3, 1]
    permuted = scores(lambda weight, out: weight[order])
    assert np.allclose(permuted, before[order], atol=1e-10) and not np.allclose(permuted, before)
    alone = scores(lambda weight, out: weight * (torch.tensor([1.0, 0, 1, 1]).view(4, 1, 1) if out else 1))  # head 1 says nothing
    doubled = scores(
        lambda weight, out: torch.cat([weight[:1], weight[:1], weight[2:]]) * (torch.tensor([0.5, 0.5, 1, 1]).view(4, 1, 1) if out else 1)
    )
    assert (alone[1] == 0).all() and np.abs(alone[0]).min() > 1e-6
    assert np.allclose(doubled[:2], alone[:1] / 2, atol=1e-10) and np.allclose(doubled[2:], alone[2:], atol=1e-10)


def test_rules() -> None:
    model, metric = family("gpt2"), logit_difference(3, 4)
    clean, corrupt = pair(model, "left")
    run = lambda rule, a=clean, b=corrupt: values(attribution_patching(model, a, b, metric, ["*attn.z", "*attn.v"], rule=rule))  # noqa: E731
    here, there, both = (run(FirstOrder(gradients=kind)) for kind in ("clean", "corrupt", "both"))
    assert np.allclose(both, (here + there) / 2) and not np.allclose(here, there)
    assert np.allclose(there, -run(FirstOrder(), corrupt, clean))  # denoising, the other way round
    total = attribution_patching(model, clean, corrupt, metric, "embed", rule=FirstOrder(gradients="path", n_steps=40))
    whole = (metric(model, corrupt) - metric(model, clean)).numpy()
    assert np.allclose(values(total), whole, atol=1e-5)  # integrated gradients are complete
    assert str(FirstOrder(gradients="path")) == "first order, gradients on a path of 16 points, softmax exact for queries and keys"


def test_mistakes() -> None:
    model = family("gpt2")
    clean, corrupt = pair(model, "left")
    with pytest.raises(SiteError, match=r"must have the same shape, got \(2, 6\) and \(2, 5\)"):
        attribution_patching(model, clean, tuple(x[:, 1:] for x in corrupt), loss())
    with pytest.raises(SiteError, match="example 1 must have its tokens at the same places in clean and corrupt, it has 4 and 6"):
        attribution_patching(model, clean, (corrupt[0], torch.ones_like(corrupt[1])), loss())
    with pytest.raises(SiteError, match="accuracy has no gradient"):
        attribution_patching(model, clean, corrupt, accuracy(3))
    with pytest.raises(UnknownSiteError, match="no site matches"):
        attribution_patching(model, clean, corrupt, loss(), "blocks.9.attn.z")
    with pytest.raises(ValueError, match="at least one step, got n_steps=0"):
        FirstOrder(n_steps=0)
    with pytest.raises(ValueError, match="got 'middle'"):
        FirstOrder(gradients="middle")
    generator = torch.Generator()
    with pytest.raises(SiteError, match="between 1 and the number of nodes, .*, got k=0"):
        screen_then_verify(model, clean, corrupt, loss(), k=0, generator=generator)
    with pytest.raises(SiteError, match="got k=3, n_first=2 and "):
        screen_then_verify(model, clean, corrupt, loss(), k=3, generator=generator, screening=Screening(n_first=2))
    with pytest.raises(SiteError, match='by a FirstOrder or by "bfloat16", got .float16.'):
        screen_then_verify(model, clean, corrupt, loss(), k=1, generator=generator, screening=Screening(by="float16"))
    table = screen_then_verify(model, clean, corrupt, loss(), k=1, generator=generator)
    truth = exact(model, clean, corrupt, loss(), attribution_patching(model, clean, corrupt, loss()))
    with pytest.raises(SiteError, match="2 are missing"):
        recall(table, truth[truth["edit"] > 1])


def test_kl_needs_a_path() -> None:
    model = family("gpt2")
    clean, corrupt = pair(model, "none")
    flat, path = (
        attribution_patching(model, clean, corrupt, kl_divergence(), "embed", rule=FirstOrder(gradients=g, n_steps=40))
        for g in ("clean", "path")
    )
    assert np.abs(values(flat)).max() < 1e-9
    truth = values(exact(model, clean, corrupt, kl_divergence(), path), "effect")
    assert np.allclose(values(path), truth, atol=1e-4)


@pytest.mark.parametrize("by", [FirstOrder(), "bfloat16"])
def test_a_screen_finds_the_planted_head_and_bounds_the_rest(by) -> None:
    model, metric = planted_induction(sharpness=5.0), logit_difference(3, 11)
    clean, corrupt = swapped()
    sites = ["*attn.z", "*attn.k"]
    table = screen_then_verify(model, clean, corrupt, metric, sites, k=3, generator=torch.Generator().manual_seed(0), screening=Screening(n_checked=5, by=by))
    estimates = attribution_patching(model, clean, corrupt, metric, sites)
    truth = exact(model, clean, corrupt, metric, estimates)
    means = truth.groupby("edit")["effect"].mean().to_numpy()
    assert table["verified"].sum() == 8 and table["exact"].isna().sum() == 8
    known = table["verified"].to_numpy()
    assert np.allclose(table["exact"][known], means[known], atol=1e-4)
    assert table.attrs["threshold"] == pytest.approx(table[table["rank"] <= 3]["exact"].abs().min())
    first = table.sort_values("rank").iloc[0]
    assert (first["layer"], first["head"]) in ((1, INDUCTION_HEAD[1]), (0, PREVIOUS_TOKEN_HEAD[1]))
    assert recall(table, truth) >= 2 / 3


def test_a_screen_of_a_trained_model(glasslm) -> None:
    texts = [["“I never saw such a thing!” said the Queen, as"], ["“I never saw such a thing!” said the King, as"]]
    clean, corrupt = (glasslm.tokenize(text) for text in texts)
    metric = logit_difference(" she", " he")
    sites = ["*attn.z", "*mlp_out"]
    table = screen_then_verify(glasslm, clean, corrupt, metric, sites, k=10, generator=torch.Generator().manual_seed(0), screening=Screening(by_position=True))
    truth = exact(glasslm, clean, corrupt, metric, attribution_patching(glasslm, clean, corrupt, metric, sites, by_position=True))
    assert recall(table, truth) >= 0.8
    others = table[table["rank"] > 10].merge(truth.rename(columns={"effect": "truth"}), on=["site", "head", "position"])
    missed = float((others["truth"].abs() > table.attrs["threshold"]).mean())
    assert missed <= table.attrs["missed_at_most"] < 0.2


def test_the_bound_covers() -> None:
    """Whatever the truth is, in at most 5 % of draws it lies above the bound; and none exceeding of m gives at most 1 − 0.05^(1/m)."""
    generator = np.random.default_rng(0)
    for n, kind, drawn in ((200, 0, 20), (200, 10, 20), (200, 60, 40), (50, 25, 10), (30, 3, 29)):
        found = generator.hypergeometric(kind, n - kind, drawn, size=4000) if kind else np.zeros(10, dtype=int)
        bounds = {int(x): most_exceeding(int(x), drawn, n) for x in np.unique(found)}
        covered = np.mean([bounds[int(x)] >= kind for x in found])
        assert covered > 0.94, (n, kind, drawn, covered)
        assert most_exceeding(0, drawn, n) / n <= 1 - 0.05 ** (1 / drawn)
    assert most_exceeding(0, 0, 7) == 7 and most_exceeding(4, 7, 7) == 4


@pytest.mark.filterwarnings("ignore:the sweep was interrupted")
@pytest.mark.parametrize("call", range(1, 12))
def test_ctrl_c_leaves_what_is_verified_where_it_belongs(call: int) -> None:
    model = planted_induction()
    clean, corrupt = ((torch.tensor([[7, x, 9, 8, 3], [7, 9, x, 8, 3]]),) for x in (3, 5))

    def screened(metric: Metric) -> pd.DataFrame:
        generator = torch.Generator().manual_seed(0)
        return screen_then_verify(model, clean, corrupt, metric, k=2, generator=generator, screening=Screening(n_checked=3))

    metric, whole = logit_difference(9, 8), screened(logit_difference(9, 8))
    try:
        table = screened(interrupted(metric, call))
    except KeyboardInterrupt:
        assert call <= 3  # before there is a ranking
        return
    assert whole.attrs["complete"] and whole["verified"].sum() == 5
    assert table.attrs["complete"] == (table["verified"].sum() == 5)
    done = table[table["verified"]]
    assert done["exact"].tolist() == whole.loc[done.index, "exact"].tolist() and table[~table["verified"]]["exact"].isna().all()
    # what is done of an interrupted sweep is done in the order of the blocks: no random draw, so no bound
    assert table.attrs["missed_at_most"] == (whole.attrs["missed_at_most"] if table.attrs["complete"] else 1.0)
    assert whole.attrs["missed_at_most"] < 1.0


@pytest.mark.parametrize("metric", [kl_divergence(), total_variation()])
def test_a_distance_from_the_clean_run_has_no_slope_to_rank_by(metric: Metric) -> None:
    model = planted_induction()
    clean, corrupt = ((torch.tensor([[7, x, 9, 8, 3]]),) for x in (3, 5))
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(SiteError, match=r'is 0 at the clean run and has no slope there .* FirstOrder\(gradients="path"\)'):
        screen_then_verify(model, clean, corrupt, metric, k=2, generator=generator)
    by = Screening(by=FirstOrder(gradients="path"))
    found = screen_then_verify(model, clean, corrupt, metric, k=2, generator=generator, screening=by)
    assert set(found[found["rank"] <= 2]["layer"]) == {0, 1}
