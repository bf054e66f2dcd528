"""Does path patching follow exactly the edges it is given: a planted one, all, none, a node's, and those that hooks would follow?"""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch

from model import EncoderDecoder, Transformer, TransformerConfig, wrap
from model.zoo.planted_induction import planted_induction
from probes import (
    Edge,
    Edit,
    Metric,
    SiteError,
    ablate_heads,
    edges_between,
    intervene,
    kl_divergence,
    logit_difference,
    loss,
    patch,
    record,
)
from probes import path_patch as checked_path_patch
from tests.conftest import example, hugging_face, interrupted

path_patch = partial(checked_path_patch, least_gap=0.0)
"""random models differ by little between random inputs"""

EXACT = ["gpt2", "llama-1", "qwen3", "gpt_neox", "gptj", "bloom", "phi3", "granite", "t5", "opt"]
"""pre-norm and parallel blocks, grouped heads, rotations, biases, a norm of queries and keys, a norm behind the embedding, two stacks"""
WHOLE_LAYERS = ["gemma2", "olmo2"]
"""a norm between the sub-layer and the stream: heads write no term of a sum, whole layers do"""


def model_of(name: str) -> Transformer | EncoderDecoder:
    family, _, number = name.partition("-")
    return wrap(hugging_face(family, int(number or 0))).double().requires_grad_(False)


def both(model: Transformer | EncoderDecoder, padding: str) -> tuple[tuple, tuple]:
    """Two inputs with the same masks; of two stacks both sequences differ."""
    clean, other = example(model, padding, pos=7, seed=1), example(model, padding, pos=7, seed=2)
    return clean, other


def value(metric: Metric, model: Transformer | EncoderDecoder, inputs: tuple, like: tuple) -> torch.Tensor:
    """The metric of a whole pass, read as in the pass `like`."""
    readout = metric.on(model, like)
    return readout.measure(readout.of(model(*inputs)), readout.of(model(*like)))


PADDED = [(name, ("left", "right")[i % 2]) for i, name in enumerate(EXACT + WHOLE_LAYERS)] + [("t5", "left"), ("gpt2", "right")]


@pytest.mark.parametrize(("name", "padding"), PADDED)
def test_every_edge_is_the_corrupt_run_and_none_the_clean_one(name: str, padding: str) -> None:
    model = model_of(name)
    clean, corrupt = both(model, padding)
    senders = None if name in EXACT else ["*blocks.0.resid_pre", "*attn_out", "*mlp_out"]
    edges = tuple(edges_between(model, senders))
    metric = kl_divergence() if name == "gpt2" else loss()
    table = path_patch(model, clean, corrupt, [edges, ()], metric)
    assert len(table) == 2 * len(clean[0])
    whole, none = table[table["set"] == 0], table[table["set"] == 1]
    torch.testing.assert_close(torch.tensor(whole["corrupt"].to_numpy()), value(metric, model, corrupt, clean), rtol=0, atol=1e-9)
    assert (whole["edited"] - whole["corrupt"]).abs().max() < 1e-9 and (whole["share"] - 1).abs().max() < 1e-7
    assert (none["effect"].abs() < 1e-12).all() and none["effect"].abs().max() < (whole["effect"].abs().min())


@pytest.mark.parametrize("name", EXACT)
def test_a_part_to_all_that_reads_it_is_its_activation_patch(name: str) -> None:
    model = model_of(name)
    clean, corrupt = both(model, "right")
    sides = ["encoder.", "decoder."] if isinstance(model, EncoderDecoder) else [""]
    nodes = [(f"{side}blocks.0.attn.z", 1) for side in sides] + [(f"{side}blocks.1.mlp_out", None) for side in sides]
    nodes += [("decoder.blocks.0.cross_attn.z", 2)] * (len(sides) == 2)
    sets = [tuple(edge for edge in edges_between(model, site) if edge.sender.head == head) for site, head in nodes]
    with torch.no_grad(), record(model, [site for site, _ in nodes]) as values:
        model(*corrupt)
    table = path_patch(model, clean, corrupt, sets, loss())
    for number, (site, head) in enumerate(nodes):
        with intervene(model, Edit(site, patch(values), heads=head)):
            expected = loss()(model, clean)
        got = table[table["set"] == number]
        torch.testing.assert_close(torch.tensor(got["edited"].to_numpy()), expected, rtol=0, atol=1e-9)
        assert got["effect"].abs().max() > 1e-6


def test_the_planted_edge_carries_everything() -> None:
    """The truth: L0H1 → L1H2 through K, and L1H2 → logits. No other edge between heads matters, nor do queries and values."""
    model, generator = planted_induction(), torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randperm(48, generator=generator)[:12] for _ in range(4)])
    clean = torch.cat([rows[:, :8], rows[:, 3:4]], 1)  # the token at 3 comes again: what followed it is the answer
    corrupt = clean.clone()
    corrupt[:, 3] = rows[:, 8]
    metric = logit_difference(rows[:, 4].tolist(), rows[:, 9].tolist())
    edges = edges_between(model, "blocks.0.attn.z", ["blocks.1.attn.q", "blocks.1.attn.k", "blocks.1.attn.v", "logits"])
    share = path_patch(model, (clean,), (corrupt,), edges, metric).groupby("set")["share"].mean()
    by_name = {str(edge): share[i] for i, edge in enumerate(edges)}
    planted = by_name.pop("blocks.0.attn.z[1] → blocks.1.attn.k[2]")
    assert len(edges) == 4 * (3 * 4 + 1) and abs(planted - 1) < 0.01
    assert max(abs(share) for share in by_name.values()) < 1e-3
    onward = path_patch(model, (clean,), (corrupt,), [Edge(("blocks.1.attn.z", h), "logits") for h in range(4)], metric)
    assert onward.groupby("set")["share"].mean().round(2).tolist() == [0, 0, 1, 0]


def by_hooks(model: Transformer, clean: tuple, corrupt: tuple, edges: list[Edge]) -> torch.Tensor:
    """The logits of a patched pass of a GPT-2, written down a second time: weights alone, one head and one position after another."""
    layers = range(model.n_layers)
    parts = [f"blocks.{i}.{word}" for i in layers for word in ("attn.result", "mlp_out")] + ["blocks.0.resid_pre"]
    with torch.no_grad(), record(model, parts) as there:
        model(*corrupt)
    tokens, mask = clean
    written = {"blocks.0.resid_pre": model.start(tokens, mask).resid}
    terms = [written["blocks.0.resid_pre"]]

    def read(receiver: str, head: int | None) -> torch.Tensor:
        stream = sum(terms)
        for edge in edges:
            if (edge.receiver.site, edge.receiver.head) == (receiver, head):
                site, number = edge.sender.site.replace("attn.z", "attn.result"), edge.sender.head
                stream = stream + (there[site] if number is None else there[site][:, :, number]) - written[edge.sender.site, number]
        return stream

    written["blocks.0.resid_pre", None] = written["blocks.0.resid_pre"]
    config, ones = model.config, torch.ones(tokens.shape[1], tokens.shape[1], dtype=torch.bool).tril()
    seen = ones & mask[:, None]
    for i, block in enumerate(model.blocks):
        heads = []
        for h in range(config.n_heads):
            rows = slice(h * config.d_head, (h + 1) * config.d_head)
            q, k, v = (
                block.ln1(read(f"blocks.{i}.attn.{word}", h)) @ matrix.weight[rows].T + matrix.bias[rows]
                for word, matrix in (("q", block.attn.W_Q), ("k", block.attn.W_K), ("v", block.attn.W_V))
            )
            scores = (q @ k.mT / config.d_head**0.5).masked_fill(~seen, -torch.inf)
            heads.append(scores.softmax(-1).nan_to_num() @ v @ block.attn.W_O.weight[:, rows].T)
            written[f"blocks.{i}.attn.z", h] = heads[-1]
        terms += [*heads, block.attn.W_O.bias]
        written[f"blocks.{i}.mlp_out", None] = block.mlp(block.ln2(read(f"blocks.{i}.mlp_out", None)))
        terms.append(written[f"blocks.{i}.mlp_out", None])
    return model.unembed(model.ln_final(read("logits", None)))


@pytest.mark.parametrize("padding", ["left", "right"])
def test_any_edges_are_those_of_a_slow_second_implementation(padding: str) -> None:
    config = TransformerConfig(n_layers=3, d_model=16, n_heads=3, d_head=5, d_mlp=20, d_vocab=30, n_ctx=12, positions="learned")
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).double().eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()), dtype=parameter.dtype)
    clean, corrupt = both(model, padding)
    every, generator = edges_between(model), torch.Generator().manual_seed(3)
    sets = [tuple(every[i] for i in torch.randperm(len(every), generator=generator)[:n]) for n in (1, 4, 20, 90, len(every) // 2)]
    metric = logit_difference(3, 5)
    table = path_patch(model, clean, corrupt, sets, metric)
    readout = metric.on(model, clean)
    for number, edges in enumerate(sets):
        logits = readout.of(by_hooks(model, clean, corrupt, list(edges)))
        got = torch.tensor(table[table["set"] == number]["edited"].to_numpy())
        torch.testing.assert_close(got, readout.measure(logits, logits), rtol=0, atol=1e-9)
    assert table.groupby("set")["effect"].apply(lambda effect: effect.abs().max()).iloc[1:].min() > 1e-4
    assert not any(site.observed for site in model.sites().values())


def test_all_heads_of_a_site_are_one_node_and_the_rest_is_each() -> None:
    model = model_of("llama-1")
    clean, corrupt = both(model, "left")
    together = (Edge("blocks.0.attn.z", "blocks.1.attn.k"),)
    single = tuple(edges_between(model, "blocks.0.attn.z", "blocks.1.attn.k"))
    assert len(single) == model.config.n_heads * model.config.n_kv_heads < model.config.n_heads**2
    table = path_patch(model, clean, corrupt, [together, single, (*single, *together)], loss())
    values = table.pivot(index="example", columns="set", values="edited")
    assert (values[0] - values[1]).abs().max() < 1e-12 > (values[0] - values[2]).abs().max() and table["effect"].abs().min() > 1e-9
    assert table["sender"].unique().tolist() == [
        "blocks.0.attn.z",
        f"{model.config.n_heads} senders",
        f"{model.config.n_heads + 1} senders",
    ]


def test_mistakes() -> None:
    model = model_of("gpt2")
    clean, corrupt = both(model, "none")
    edge = Edge(("blocks.0.attn.z", 0), ("blocks.1.attn.q", 0))

    def run(*edges, a=clean, b=corrupt, m=model, metric=loss()):
        return path_patch(m, a, b, list(edges), metric)

    with pytest.raises(SiteError, match="at least one set of edges, got none"):
        run()
    with pytest.raises(SiteError, match=r"blocks.0.attn.q\[0\] reads blocks.0.resid_pre, to which blocks.1.attn.z\[0\] does not write"):
        run(Edge(("blocks.1.attn.z", 0), ("blocks.0.attn.q", 0)))
    with pytest.raises(SiteError, match=r"blocks.0.attn.z has \d heads, got 99"):
        run(Edge(("blocks.0.attn.z", 99), "logits"))
    with pytest.raises(SiteError, match="blocks.1.mlp_out has no heads, got head 0"):
        run(Edge("blocks.0.mlp_out", ("blocks.1.mlp_out", 0)))
    with pytest.raises(SiteError, match="no site matches 'blocks.9.attn.z'"):
        run(Edge("blocks.9.attn.z", "logits"))
    with pytest.raises(
        ValueError, match="blocks.1.attn.pattern is not the site of a part that reads the stream; such are q, k, v, mlp_out"
    ):
        run(Edge("blocks.0.attn.z", "blocks.1.attn.pattern"))
    with pytest.raises(
        ValueError, match="blocks.1.resid_pre is not the site of a part that writes the stream; .* resid_pre, .* of block 0"
    ):
        run(Edge("blocks.1.resid_pre", "logits"))
    with pytest.raises(SiteError, match="an end of an edge is a Node, the name of a site, or a pair of name and head, got 3"):
        Edge(3, "logits")
    with pytest.raises(SiteError, match="expected an Edge or a tuple of them, got Edit"):
        run(ablate_heads(model, lambda z: z)[0])
    short = tuple(x[:, :-1] for x in corrupt)
    with pytest.raises(SiteError, match=r"clean and corrupt must have the same shape, got \(3, 7\) and \(3, 6\)"):
        run(edge, b=short)
    with pytest.raises(SiteError, match="example 1 must have its tokens at the same places in clean and corrupt, it has 7 and 5"):
        run(edge, b=example(model, "left", pos=7))
    with pytest.raises(SiteError, match="example 1 .*, its 5 are padded on different sides"):
        run(edge, a=example(model, "right", pos=7), b=example(model, "left", pos=7))
    post = model_of("bert")
    with pytest.raises(ValueError, match=r"it norms the sum \(post-norm\), so a path from it has no exact meaning"):
        run(edge, a=example(post, pos=7), b=example(post, pos=7, seed=2), m=post, metric=logit_difference(3, 4, positions=1))
    around = model_of("gemma2")
    with pytest.raises(
        ValueError, match="a norm stands between the heads of blocks.0.attn.z and the stream, .*; take blocks.0.attn_out, the whole layer"
    ):
        run(edge, a=example(around, pos=7), b=example(around, pos=7, seed=2), m=around)
    with pytest.raises(SiteError, match="_Bare does not say what its parts read and write"):
        run(edge, m=_Bare())


@dataclasses.dataclass
class _Bare:
    """A model that does not account for its parts."""

    n_layers: int = 1


def test_a_pair_without_a_gap_is_refused() -> None:
    model, edge = planted_induction(), Edge(("blocks.0.attn.z", 1), ("blocks.1.attn.k", 2))
    clean = (torch.tensor([[7, 3, 9, 8, 3]]),)
    with pytest.raises(SiteError, match="there is nothing to restore in example 0"):
        checked_path_patch(model, clean, clean, [edge], logit_difference(9, 8))
    assert path_patch(model, clean, clean, [edge], logit_difference(9, 8))["share"].isna().all()


@pytest.mark.parametrize("stop", [3, 4, 5])
def test_ctrl_c_leaves_the_sets_that_are_done(stop: int) -> None:
    model = planted_induction()
    clean, corrupt = ((torch.tensor([[7, x, 9, 8, 3]]),) for x in (3, 5))
    edges = [Edge(("blocks.0.attn.z", head), ("blocks.1.attn.k", 2)) for head in range(3)]
    whole = path_patch(model, clean, corrupt, edges, logit_difference(9, 8))
    metric = interrupted(logit_difference(9, 8), stop)
    with pytest.warns(RuntimeWarning, match=f"path patching was interrupted: {stop - 3} of 3 sets are done"):
        table = path_patch(model, clean, corrupt, edges, metric)
    assert not table.attrs["complete"] and whole.attrs["complete"] and len(table) == stop - 3
    assert table["edited"].tolist() == whole["edited"].tolist()[: stop - 3]
