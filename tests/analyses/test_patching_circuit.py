"""Does the circuit graph find the planted path and no other, and are its edges those of path patching?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from analyses import _patching_measure as measured
from analyses._corpus import Corpus, Prompt
from analyses._patching_circuit import ANSWER, INPUT, circuit, strongest_heads
from analyses._patching_circuit_figures import graph
from analyses.patching import ANALYSIS
from model import EncoderDecoder, Transformer, TransformerConfig, wrap
from probes import Edge, path_patch
from tests.analyses.test_patching import letters, planted  # noqa: F401
from tests.conftest import hugging_face


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_planted_path_is_found_and_no_other(planted: tuple[Transformer, Corpus], direction: str) -> None:  # noqa: F811
    result = ANALYSIS(direction=direction, n_prompts=10, n_maps=0).run(*planted)
    edges = result.tables["edges"].frame
    share = edges[edges.through == "all"].set_index(["sender", "receiver"])["share"]
    path = [(INPUT, "L0H1"), ("L0H1", "L1H2"), ("L1H2", ANSWER)]
    assert share[path].tolist() == pytest.approx([1, 1, 1], abs=0.02) and share.drop(path).abs().max() < 0.02
    through = edges[edges.through != "all"].set_index("through")["share"]
    assert through["k"] == pytest.approx(1, abs=0.02) and abs(through["q"]) < 0.01 and abs(through["v"]) < 0.01  # the key is `previous`
    (figure,) = [f for f in result.figures if f.name == "circuit"]
    assert set(figure.nodes) == {INPUT, "L0H1", "L1H2", ANSWER}
    drawn = {(figure.nodes[a], figure.nodes[b]) for a, b in zip(figure.senders, figure.receivers, strict=True)}
    assert drawn == set(path) and "L0H1 → L1H2" in figure.title and any("k +" in note for note in figure.edge_notes)


def grouped(**choices) -> tuple[Transformer, Corpus]:
    """A random decoder with two query heads for each key and value, and prompts of different length."""
    config = TransformerConfig(
        **{"n_layers": 2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 24, "d_vocab": 20, "n_ctx": 12} | choices
    )
    model = Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if not name.endswith("gain"):
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    model.tokenizer = letters(20)
    pairs = (("BCDE", "BFDE"), ("KLM", "KLN"), ("QRSTI", "QRATI"))
    prompts = tuple(Prompt(prompt=a, corrupt=b, target="B", foil="C") for a, b in pairs)
    return model, Corpus(text="", text_source="none", prompts=prompts, prompts_source="made", tokens=torch.zeros(0, dtype=torch.long))


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_edges_of_grouped_heads_are_those_of_path_patching(direction: str) -> None:
    model, corpus = grouped()
    pairs = measured.pairs_of(model, corpus.prompts)
    heads = measured.heads(model, pairs, direction, 0)
    edges = circuit(model, pairs, heads, direction).query("through == 'all'").set_index(["sender", "receiver"])["share"]
    base, other = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    group = tuple(Edge(("blocks.0.attn.z", 1), (f"blocks.1.attn.{word}", n)) for word, n in (("q", 3), ("k", 1), ("v", 1)))
    table = path_patch(model, base, other, [group], pairs.metric, least_gap=0.0)
    gap = (table["corrupt"] - table["clean"]).mean()
    assert edges["L0H1", "L1H3"] == pytest.approx(table["effect"].mean() / gap, abs=1e-5)
    whole = measured.heads(model, pairs, direction, 0).set_index(["layer", "head"])["share"]
    last = heads[heads.layer == 1]["head"].tolist()
    for head in last:  # behind the last layer's heads is its feed-forward network: the direct path is less than the whole patch
        assert np.isfinite(edges[f"L1H{head}", ANSWER]) and np.isfinite(whole[1, head])


def test_without_a_feed_forward_network_the_last_heads_path_is_its_whole_patch() -> None:
    model, corpus = grouped(d_mlp=0)
    pairs = measured.pairs_of(model, corpus.prompts)
    heads = measured.heads(model, pairs, "denoise", 0)
    edges = circuit(model, pairs, heads, "denoise").set_index(["sender", "receiver", "through"])["share"]
    whole = heads.set_index(["layer", "head"])["share"]
    shown = strongest_heads(heads)
    assert len(shown) and any(shown.layer == 1)
    for row in shown[shown.layer == 1].itertuples():
        assert edges[f"L1H{row.head}", ANSWER, "all"] == pytest.approx(whole[1, row.head], abs=1e-4)


def test_two_stacks_are_joined_by_cross_attention() -> None:
    model: EncoderDecoder = wrap(hugging_face("t5", 0)).requires_grad_(False)
    model.tokenizer = dataclasses.replace(letters(min(model.config.encoder.d_vocab, 40)), decoder_start_id=0)
    prompts = tuple(Prompt(prompt=a, corrupt=b, target=c) for a, b, c in (("BCDE", "BFDE", "GHI"), ("KLM", "KLN", "OP")))
    pairs = measured.pairs_of(model, prompts)
    heads = measured.heads(model, pairs, "denoise", 0)
    edges = circuit(model, pairs, heads, "denoise")
    ends = set(zip(edges["sender"], edges["receiver"], strict=True))
    assert any(a.startswith("encoder") and b.startswith("cross") for a, b in ends)
    assert not any(a.startswith("encoder") and b in (ANSWER,) for a, b in ends)
    assert not any(a.startswith("encoder") and b.startswith("decoder") for a, b in ends)
    through = edges[edges["sender"].str.startswith("encoder") & edges["receiver"].str.startswith("cross") & (edges["through"] != "all")]
    assert set(through["through"]) <= {"k", "v"}


@pytest.mark.parametrize("place", ["post", "sandwich", "output"])
def test_where_heads_write_no_terms_there_is_no_graph(place: str) -> None:
    model, corpus = grouped(norm_place=place)
    result = ANALYSIS(n_maps=0).run(model, corpus)
    assert result.tables["edges"].frame.empty and "circuit" not in {f.name for f in result.figures}


def test_weak_heads_are_no_part_of_it() -> None:
    heads = pd.DataFrame({"attention": "self", "layer": range(20), "head": 0, "share": [0.5, -0.9, 0.005, *([0.02] * 17)]})
    shown = strongest_heads(heads)
    assert shown["layer"].tolist() == [1, 0, 3, 4, 5, 6, 7, 8]
    model, corpus = grouped()
    nothing = circuit(model, measured.pairs_of(model, corpus.prompts), heads.assign(share=0.0), "denoise")
    tables = ANALYSIS(n_maps=0).measure(model, corpus)
    empty = {**tables, "edges": dataclasses.replace(tables["edges"], frame=nothing)}
    assert nothing.empty and graph(empty) == ()
