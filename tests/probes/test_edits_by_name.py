"""Do the edits that make up an experiment say what they should, and are patching and curves what they are by definition?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from model import EncoderDecoder, Transformer, wrap
from model.zoo.planted_induction import planted_induction
from probes import (
    Edit,
    SiteError,
    UnknownSiteError,
    ablate_heads,
    add,
    constant,
    cumulative_sweep,
    greedy_sweep,
    intervene,
    log_probability,
    logit_difference,
    loss,
    mean,
    patch_sites,
    patching,
    positional_mean,
    record,
    resample,
    sets_of,
    steer,
    stream,
    sweep,
    zero,
)
from probes.inputs import sequence_at
from probes.statistics import Moments
from tests.conftest import example, hugging_face, interrupted, place_to_read

GRIDS = [
    ("resid_pre", None),
    ("resid_mid", "each"),
    ("attn_out", [1, -1]),
    ("mlp_out", "each"),
    ("q", None),
    ("k", "each"),
    ("v", None),
    ("z", "each"),
    ("pattern", None),
    ("pattern", "each"),
]


def model_of(name: str) -> Transformer | EncoderDecoder:
    family, _, number = name.partition("-")
    return wrap(hugging_face(family, int(number or 0))).double().requires_grad_(False)


def both(model: Transformer | EncoderDecoder, padding: str) -> tuple[tuple, tuple]:
    """Two inputs with the same masks; in an encoder-decoder the source alone differs."""
    clean, corrupt = example(model, padding, pos=6, seed=1), example(model, padding, pos=6, seed=2)
    return clean, corrupt if isinstance(model, Transformer) else (corrupt[0], *clean[1:])


@pytest.mark.parametrize(("name", "padding"), [("llama-1", "left"), ("bert", "right"), ("t5", "left"), ("gemma2", "right")])
def test_a_patched_grid_is_each_patch_alone(name: str, padding: str) -> None:
    """Of each grid three cells, beside the same by indexing."""
    model = model_of(name)
    clean, corrupt = both(model, padding)
    metric = log_probability(3, positions=place_to_read(model))
    sites, readout = model.sites(), metric.on(model, corrupt)
    with torch.no_grad(), record(model, [n for n in sites if "blocks.0." in n]) as values:
        model(*clean)
    grids = (patch_sites(model, values, word, positions=positions, layers=[0], inputs=clean) for word, positions in GRIDS)
    edits = [edit for grid in grids for edit in {id(e): e for e in (grid[0], grid[len(grid) // 2], grid[-1])}.values()]
    table = sweep(model, corrupt, edits, metric)
    for number, edit in enumerate(edits):
        axes, stored = sites[edit.site].axes, values[edit.site]
        at = [slice(None)] * stored.dim()
        if edit.heads is not None:
            at[next(i for i, axis in enumerate(axes) if axis in ("head", "kv_head"))] = edit.heads[0]
        if edit.positions is not None:
            at[next(i for i, axis in enumerate(axes) if axis in ("pos", "query"))] = edit.positions[0]

        def put(value: torch.Tensor, at: list = at, stored: torch.Tensor = stored) -> torch.Tensor:
            value[tuple(at)] = stored[tuple(at)]
            return value

        with intervene(model, Edit(edit.site, put)), torch.no_grad():
            expected = readout.measure(readout.of(model(*corrupt)), None)
        rows = table[table["edit"] == number]
        torch.testing.assert_close(torch.tensor(rows["edited"].to_numpy()), expected, rtol=0, atol=1e-9)
        label = (edit.site, 0, edit.heads and edit.heads[0], edit.positions and edit.positions[0])
        assert [None if pd.isna(rows.iloc[0][c]) else rows.iloc[0][c] for c in ("site", "layer", "head", "position")] == list(label)
    moved = table.groupby(table["site"].str.rpartition(".")[2])["effect"].agg(lambda effect: effect.abs().max())
    assert set(moved.index) == {word for word, _ in GRIDS} and (moved > 1e-7).all()


def test_a_grid_has_a_cell_for_each_head_and_each_real_place() -> None:
    model = model_of("llama-1")
    tokens, mask = example(model, "left", pos=6)
    mask = mask.clone()
    mask[:, 0] = False
    with torch.no_grad(), record(model, ["*attn.z", "*attn.k", "*resid_pre", "*attn.pattern"]) as values:
        model(tokens, mask)
    n, kv, layers = model.config.n_heads, model.config.n_kv_heads, model.n_layers
    assert kv < n
    assert len(patch_sites(model, values, "z")) == n * layers and len(patch_sites(model, values, "k")) == kv * layers
    assert len(patch_sites(model, values, ["z", "k"], heads=None)) == 2 * layers
    assert {e.positions for e in patch_sites(model, values, "resid_pre", positions="each", inputs=(tokens, mask))} == {
        (p,) for p in range(1, 6)
    }
    assert len(patch_sites(model, values, "resid_pre", positions="each")) == 6 * layers
    grid = patch_sites(model, values, "pattern", positions=[2, (3, 4, 5)], heads=[1], layers=[1])
    assert [(e.heads, e.positions) for e in grid] == [((1,), (2,)), ((1,), ((3,), (4,), (5,)))]


def test_words_stand_for_one_kind_of_site_in_every_stack() -> None:
    model = model_of("t5")
    inputs = example(model, "right", pos=6)
    with torch.no_grad(), record(model, ["*attn_out", "*attn.z", "*attn.v"]) as values:
        model(*inputs)
    parts = {
        edit.site.rpartition("blocks.")[0] + edit.site.partition("blocks.0.")[2]
        for edit in patch_sites(model, values, "attn_out", layers=[0])
    }
    assert parts == {"encoder.attn_out", "decoder.attn_out"}
    assert {e.site for e in patch_sites(model, values, "decoder.*.cross_attn.z", layers=[1])} == {"decoder.blocks.1.cross_attn.z"}
    source = patch_sites(model, values, "decoder.*.cross_attn.v", positions="each", layers=[0], heads=None, inputs=inputs)
    assert len(source) == int(sequence_at("decoder.blocks.0.cross_attn.v", inputs)[1].any(0).sum()) == 13


@pytest.mark.parametrize("direction", ["denoise", "noise"])
@pytest.mark.parametrize("name", ["llama-1", "t5"])
def test_the_whole_stream_carries_everything_and_clean_into_clean_nothing(name: str, direction: str) -> None:
    model = model_of(name)
    clean, corrupt = both(model, "right")
    side = "encoder." if isinstance(model, EncoderDecoder) else ""
    table = patching(model, clean, corrupt, loss(), f"{side}blocks.*.resid_pre", direction=direction, least_gap=0)
    readout = loss().on(model, corrupt if direction == "denoise" else clean)
    expected = {key: readout.measure(readout.of(model(*x)), None).tolist() for key, x in (("clean", clean), ("corrupt", corrupt))}
    for key, values in expected.items():
        assert table[key].tolist() == pytest.approx(values * (len(table) // 3), abs=1e-10)
    run = "corrupt" if direction == "denoise" else "clean"
    assert (table["share"] - 1).abs().max() < 1e-6 and (table["effect"] - (table["edited"] - table[run])).abs().max() < 1e-12
    if direction == "noise":
        return
    with torch.no_grad(), record(model, "*blocks.0.*") as own:
        model(*clean)
    words = ("resid_pre", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern")
    cells = [edit for word in words for edit in patch_sites(model, own, word, heads=None, layers=[0])]
    assert sweep(model, clean, cells, loss())["effect"].abs().max() < 1e-12


def test_noise_and_denoise_find_the_planted_heads() -> None:
    """Both find L0H1 and L1H2, one for the lack of the other: restored alone, each restores all that it writes."""
    model, generator = planted_induction(), torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(48, generator=generator)[:12] for _ in range(4)])
    clean = torch.cat([rows[:, :8], rows[:, 3:4]], 1)
    corrupt = clean.clone()
    corrupt[:, 3] = rows[:, 8]
    metric = logit_difference(rows[:, 4].tolist(), rows[:, 9].tolist())
    for direction in ("denoise", "noise"):
        table = patching(model, (clean,), (corrupt,), metric, "z", direction=direction)
        share = table.pivot_table(index="layer", columns="head", values="share")
        assert share.loc[0, 1] == pytest.approx(1, abs=0.01) and share.loc[1, 2] == pytest.approx(1, abs=0.01)
        share.loc[0, 1] = share.loc[1, 2] = 0
        assert share.abs().max().max() < 1e-3
        assert table.attrs["direction"] == direction and table.attrs["unit"] == "logits"
    where = patching(
        model,
        (clean,),
        (corrupt,),
        metric,
        "resid_pre",
        grid=lambda values: patch_sites(model, values, "resid_pre", positions="each", layers=[1]),
    )
    found = where.groupby("position")["share"].mean()
    assert found[4] == pytest.approx(1, abs=0.01) and found.drop(4).abs().max() < 0.01  # the token behind the changed one


def test_curves_are_sweeps_over_growing_sets() -> None:
    model = model_of("llama-1")
    inputs = example(model, "left", pos=6)
    edits = ablate_heads(model, mean(inputs), layers=[0, 1])[:5]
    alone = sweep(model, inputs, [*edits, tuple(edits[:3])], loss())
    ordered = cumulative_sweep(model, inputs, edits, loss())
    assert ordered["step"].tolist() == [s for s in range(1, 6) for _ in range(3)] and ordered["layer"].tolist()[0] == 0
    third = ordered[ordered["step"] == 3]["edited"].to_numpy()
    assert third == pytest.approx(alone[alone["edit"] == 5]["edited"].to_numpy(), abs=1e-10)
    greedy = greedy_sweep(model, inputs, edits, loss())
    order = greedy["edit"].drop_duplicates().tolist()
    assert sorted(order) == list(range(5))
    again = cumulative_sweep(model, inputs, [edits[i] for i in order], loss())
    assert again["edited"].to_numpy() == pytest.approx(greedy["edited"].to_numpy(), abs=1e-10)
    before = float(alone["clean"].iloc[:3].mean())
    for step, best in enumerate(order):  # no other edit would have changed the mean more
        means = [
            sweep(model, inputs, [tuple(edits[i] for i in [*order[:step], other])], loss())["edited"].mean()
            for other in range(5)
            if other not in order[:step]
        ]
        own = greedy[greedy["step"] == step + 1]["edited"].mean()
        assert abs(own - before) == pytest.approx(max(abs(m - before) for m in means), abs=1e-12)
        assert greedy[greedy["step"] == step + 1]["head"].iloc[0] == edits[best].heads[0]
        before = own
    assert greedy_sweep(model, inputs, edits, loss(), n_steps=2).equals(greedy[greedy["step"] < 3])


def test_greedy_finds_what_leaving_one_out_does_not() -> None:
    """Two copies of the induction head, each with half the weight, in a model where one would do: alone, each looks half as important."""
    model = planted_induction(sharpness=10.0)
    attn, d = model.blocks[1].attn, model.config.d_head
    with torch.no_grad():
        for projection in (attn.W_Q, attn.W_K, attn.W_V):
            projection.weight[:d] = projection.weight[2 * d : 3 * d]
            if projection.bias is not None:
                projection.bias[:d] = projection.bias[2 * d : 3 * d]
        attn.W_O.weight[:, 2 * d : 3 * d] /= 2
        attn.W_O.weight[:, :d] = attn.W_O.weight[:, 2 * d : 3 * d]
    tokens = torch.tensor([[7, 3, 9, 4, 8, 3], [5, 11, 2, 6, 1, 11]])
    metric = logit_difference([9, 2], [4, 6])
    pairs = sets_of(ablate_heads(model, zero(), layers=[1]))
    effects = sweep(model, (tokens,), pairs, metric).groupby("edit")["effect"].mean()
    names = [tuple(edit.heads[0] for edit in pair) for pair in pairs]
    assert names[int(effects.argmin())] == (0, 2) and effects.min() == pytest.approx(-10, abs=0.3)
    curve = greedy_sweep(model, (tokens,), ablate_heads(model, zero()), metric, n_steps=3).groupby("step", sort=True)
    heads = [(int(part["layer"].iloc[0]), int(part["head"].iloc[0])) for _, part in curve]
    assert heads[0] == (0, 1) and curve["effect"].mean().iloc[0] < -9
    second = greedy_sweep(model, (tokens,), ablate_heads(model, zero(), layers=[1]), metric, n_steps=2)
    assert set(second["head"]) == {0, 2} and second.groupby("step")["effect"].mean().round().tolist() == [-5, -10]


@pytest.mark.parametrize("padding", ["left", "right"])
def test_the_positional_mean_counts_real_tokens_at_each_place(padding: str) -> None:
    model = model_of("llama-1")
    tokens, mask = example(model, padding, pos=6)
    mask = mask.clone()
    mask[:, 0 if padding == "left" else -1] = False  # a place where nothing is real
    with torch.no_grad(), record(model, "blocks.0.attn.z") as values:
        model(tokens, mask)
    z = values["blocks.0.attn.z"]
    expected = torch.stack([z[mask[:, p], p].mean(0) if mask[:, p].any() else z[:, p].mean(0) for p in range(6)])
    for change in (positional_mean((tokens, mask)), positional_mean(values, mask=mask)):
        with intervene(model, Edit("blocks.0.attn.z", change)), record(model, "blocks.0.attn.z") as got:
            model(tokens, mask)
        torch.testing.assert_close(got["blocks.0.attn.z"], expected.expand_as(z))
    with intervene(model, Edit("blocks.0.attn.pattern", positional_mean((tokens, mask)))), record(model, "blocks.0.attn.pattern") as got:
        model(tokens, mask)
    assert torch.equal(got["blocks.0.attn.pattern"][0], got["blocks.0.attn.pattern"][1])


def test_constants_and_vectors_stand_where_they_are_put() -> None:
    model = model_of("gpt2")
    (tokens, mask), d = example(model, pos=6), model.config.d_model
    whole = torch.arange(6 * d, dtype=torch.float64).view(6, d) / 100
    for tensor, expected in (
        (whole[0], whole[0].expand(3, 6, d)),
        (whole, whole.expand(3, 6, d)),
        (torch.tensor(2.0), torch.full((3, 6, d), 2.0)),
    ):
        with intervene(model, Edit("blocks.1.mlp_out", constant(tensor))), record(model, "blocks.1.mlp_out") as got:
            model(tokens, mask)
        assert torch.equal(got["blocks.1.mlp_out"], expected.double())
    clean = record_of(model, "blocks.1.resid_pre", tokens, mask)
    with intervene(model, Edit("blocks.1.resid_pre", add(whole), positions=[4])), record(model, "blocks.1.resid_pre") as got:
        model(tokens, mask)
    moved = got["blocks.1.resid_pre"] - clean
    torch.testing.assert_close(moved[:, 4], whole[4].expand(3, d))
    assert not moved[:, :4].any() and not moved[:, 5:].any()
    with pytest.raises(
        SiteError, match=r"constant\(tensor\) needs a tensor that can be broadcast to the value: it has shape \(5,\), the value"
    ):
        sweep(model, (tokens, mask), [Edit("blocks.0.mlp_out", constant(torch.zeros(5)))], loss())
    with pytest.raises(SiteError, match="constant takes a tensor, got float"):
        constant(1.0)


def record_of(model: Transformer, site: str, *inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), record(model, site) as got:
        model(*inputs)
    return got[site]


def test_mistakes() -> None:
    model = model_of("gpt2")
    clean, corrupt = both(model, "none")
    with torch.no_grad(), record(model, ["*resid_pre", "*attn.z"]) as values:
        model(*clean)
    edits = ablate_heads(model, zero())
    with pytest.raises(UnknownSiteError, match="no site matches 'blocks.0.attn.k'"):
        patch_sites(model, values, "k")
    with pytest.raises(UnknownSiteError, match="no site matches 'resid'"):
        patch_sites(model, values, "resid")
    with pytest.raises(SiteError, match="there is no layer 9 with a site resid_pre"):
        patch_sites(model, values, layers=[0, 9])
    with pytest.raises(SiteError, match="blocks.0.resid_pre has 6 positions, got 6"):
        patch_sites(model, values, positions=[6])
    with pytest.raises(SiteError, match="a place of each example must be 3 numbers, got 2"):
        patch_sites(model, values, positions=[(1, 2)])
    with pytest.raises(SiteError, match=r"blocks.0.attn.z has \d heads, got 40"):
        patch_sites(model, values, "z", heads=[40])
    with pytest.raises(SiteError, match=r"blocks.0.resid_pre has no head axis, but heads \[1\] are named"):
        patch_sites(model, values, heads=[1])
    with pytest.raises(SiteError, match=r"a set must have from 1 to \d+ edits, the number that is given, got 99"):
        sets_of(edits, 99)
    with pytest.raises(SiteError, match=r"n_steps must be from 1 to \d+, the number of edits, got 0"):
        greedy_sweep(model, clean, edits, loss(), n_steps=0)
    with pytest.raises(SiteError, match="direction must be denoise or noise, got 'both'"):
        patching(model, clean, corrupt, loss(), direction="both")
    with pytest.raises(SiteError, match="example 1 must have its tokens at the same places in clean and corrupt, it has 6 and 4"):
        patching(model, clean, example(model, "left", pos=6), loss())
    with pytest.raises(
        SiteError,
        match="nothing to restore in example 0: the metric is .* clean and .* corrupt, which differ by less than 10 % of the clean one",
    ):
        patching(model, clean, clean, loss())


@pytest.mark.filterwarnings("ignore:the sweep was interrupted")
@pytest.mark.parametrize("curve", [cumulative_sweep, greedy_sweep])
@pytest.mark.parametrize("call", [1, 2, 3, 5, 6, 8])
def test_ctrl_c_ends_a_curve_with_the_steps_that_are_done(curve: Callable, call: int) -> None:
    model, inputs = wrap(hugging_face("gpt2", 0)), (torch.arange(6).reshape(2, 3),)
    edits = ablate_heads(model, zero(), layers=[0])[:3]
    whole, table = curve(model, inputs, edits, loss()), curve(model, inputs, edits, interrupted(loss(), call))
    in_all = 4 if curve is cumulative_sweep else 4 + 3 + 2
    assert whole.attrs["complete"] and table.attrs["complete"] == (call > in_all)
    assert table["edited"].tolist() == whole["edited"].tolist()[: len(table)] and table["edit"].tolist() == whole["edit"].tolist()[: len(table)]
    assert len(table) < len(whole) or call > in_all


def test_one_number_and_numbers_of_other_libraries_are_taken_and_other_things_named() -> None:
    model, inputs = wrap(hugging_face("gpt2", 0)), (torch.arange(6).reshape(2, 3),)
    with torch.no_grad(), record(model, ["*resid_pre", "*attn.z"]) as values:
        model(*inputs)

    def labels(edits: list[Edit]) -> list[tuple]:
        return [(edit.site, edit.heads, edit.positions) for edit in edits]

    assert labels(ablate_heads(model, zero(), layers=1)) == labels(ablate_heads(model, zero(), layers=np.array([1])))
    assert labels(patch_sites(model, values, "z", heads=1)) == labels(patch_sites(model, values, "z", heads=[np.int64(1)]))
    for positions in (1, [np.int64(1)], np.array([1]), torch.tensor([1])):
        assert labels(patch_sites(model, values, "resid_pre", positions=positions)) == labels(patch_sites(model, values, "resid_pre", positions=[1]))
    assert labels(patch_sites(model, values, "resid_pre", positions=np.array([[0, 2]])))[0][2] == ((0,), (2,))
    with pytest.raises(SiteError, match='positions are "each", whole numbers, or a list of them for every example, got \'all\''):
        patch_sites(model, values, "resid_pre", positions="all")
    with pytest.raises(SiteError, match=r"zero makes a change, and is none: call it, as in zero\(…\)"):
        Edit("embed", zero)
    with pytest.raises(SiteError, match="resample draws from a torch.Generator, got 0"):
        resample(inputs, 0)
    one, listed = (steer(model, inputs, {"blocks.0.resid_pre": torch.ones(model.config.d_model)}, loss(), by) for by in (2.0, [2.0]))
    assert one.equals(listed)
    with pytest.raises(ValueError, match="statistics are a list or a mapping of them, got one Moments"):
        stream(model, [inputs], Moments(at="embed"), progress=False)
