"""Does the attention analysis find the heads that were planted, and say nothing where there is nothing?"""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analyses._corpus import Corpus, Prompt, load_corpus
from analyses.attention import ANALYSIS, Attention
from model import Transformer, TransformerConfig
from probes import Edit, intervene, record
from reports import AttentionMap, Heatmap, draw

SMALL = {"n_chunks": 3, "length": 24, "n_sequences": 3, "period": 8, "sink_length": 16}


def tiny(n_ctx: int = 24, n_layers: int = 2, **choices) -> Transformer:
    config = TransformerConfig(
        **{"n_layers": n_layers, "d_model": 16, "n_heads": 4, "d_head": 4, "d_mlp": 32, "d_vocab": 50, "n_ctx": n_ctx} | choices
    )
    return Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)


def corpus_of(n_tokens: int = 200, d_vocab: int = 50) -> Corpus:
    tokens = torch.randint(d_vocab, (n_tokens,), generator=torch.Generator().manual_seed(1))
    return Corpus(text="", text_source="random", prompts=(), prompts_source="none", tokens=tokens)


def looks_back(offset: int):
    """A pattern in which every query looks at the key `offset` before it, at itself where there is none."""

    def change(pattern: torch.Tensor) -> torch.Tensor:
        query = torch.arange(pattern.shape[-1])
        planted = torch.zeros_like(pattern)
        planted[..., query, torch.where(query >= offset, query - offset, query)] = 1.0
        return planted

    return change


def sink(pattern: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)


@pytest.fixture(scope="module")
def trained(glasslm: Transformer) -> tuple[Transformer, Corpus]:
    return glasslm, load_corpus(glasslm)


def test_finds_exactly_the_planted_heads() -> None:
    planted = [
        Edit("blocks.0.attn.pattern", looks_back(1), heads=[1]),
        Edit("blocks.1.attn.pattern", looks_back(7), heads=[2]),
        Edit("blocks.1.attn.pattern", looks_back(8), heads=[0]),
        Edit("blocks.0.attn.pattern", sink, heads=[3]),
    ]
    model = tiny()
    with intervene(model, *planted):
        result = Attention(**SMALL).run(model, corpus_of())
    heads = result.tables["heads"].frame.set_index(["layer", "head"])
    for column, place in {
        "previous_token": (0, 1),
        "induction": (1, 2),
        "prefix_matching": (1, 2),
        "duplicate_token": (1, 0),
        "first_token_mass": (0, 3),
        "sink_score": (0, 3),
    }.items():
        assert heads[column][place] == 1.0
        assert heads[heads[column] > 0.4].index.tolist() == [place], column
    assert heads.distance[0, 1] == pytest.approx(1.0) and math.isnan(heads.entropy_without_first[0, 3])
    assert "L0H1, 1.00" in result.verdict.claim and "L1H2, 1.00" in result.verdict.claim
    by_name = {e.name: e for e in result.verdict.evidence}
    assert by_name["heads with a induction score above 0.4"].measured == 1 and by_name["largest induction score"].where == "L1H2"
    assert by_name["Sink_1, share of heads with a sink at the first token"].measured == 1 / 8


def test_finds_a_previous_token_head_made_of_weights() -> None:
    n_ctx = 16
    model = tiny(n_ctx=n_ctx, n_layers=1, d_model=32, n_heads=2, d_head=16)
    for parameter in (model.position_embedding.weight, *(p for part in (model.blocks[0].attn.W_Q, model.blocks[0].attn.W_K) for p in part.parameters())):
        torch.nn.init.zeros_(parameter)
    place = torch.arange(n_ctx)
    model.position_embedding.weight[place, place] = 10.0  # position i is coordinate i
    model.blocks[0].attn.W_K.weight[place, place] = 1.0
    model.blocks[0].attn.W_Q.weight[place[:-1], place[1:]] = 20.0  # a query asks for the coordinate before its own
    heads = Attention(**SMALL).measure(model, corpus_of())["heads"].frame
    assert heads.previous_token.tolist() == pytest.approx([1.0, np.mean([1 / (i + 1) for i in range(1, 16)])], abs=1e-5)
    assert heads.entropy_normalised.tolist() == pytest.approx([0.0, 1.0], abs=1e-5)
    assert heads.distance.tolist() == pytest.approx([1.0, np.mean([i / 2 for i in range(1, 16)])], abs=1e-4)


def test_numbers_equal_a_naive_computation(trained) -> None:
    model, corpus = trained
    tables = Attention(**SMALL).measure(model, corpus)
    with record(model, "blocks.2.attn.pattern") as activations:
        model(corpus.chunks(3, 24))
    pattern = activations["blocks.2.attn.pattern"].double().numpy()
    entropy = [
        [np.mean([-(r * np.log(r)).sum() for r in (pattern[b, h, i, : i + 1] for i in range(1, 24))]) for h in range(4)] for b in range(3)
    ]
    heads = tables["heads"].frame.query("layer == 2")
    np.testing.assert_allclose(heads.entropy, np.mean(entropy, axis=0), rtol=1e-5)
    np.testing.assert_allclose(
        heads.previous_token_text, np.mean([[pattern[b, h].diagonal(-1).mean() for h in range(4)] for b in range(3)], axis=0), rtol=1e-5
    )
    np.testing.assert_allclose(heads.sink_score, pattern[:, :, :16, 0].mean((0, 2)), rtol=1e-5)


def test_a_pattern_that_is_no_probability_fails() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.1.attn.pattern", lambda pattern: 1.5 * pattern, heads=[2])):
        verdict = Attention(**SMALL).run(model, corpus_of()).verdict
    assert verdict.status == "fail" and "a row's sum from 1 is 0.5" in verdict.claim


def test_a_pattern_that_is_wrong_on_one_of_the_inputs_fails() -> None:
    for length in (24, 16):  # of the text, of the random tokens
        model = tiny()
        with intervene(model, Edit("blocks.1.attn.pattern", lambda pattern, n=length: (1.5 if pattern.shape[-1] == n else 1.0) * pattern)):
            verdict = Attention(**SMALL).run(model, corpus_of()).verdict
        assert verdict.status == "fail" and "a row's sum from 1 is 0.5" in verdict.claim


def test_mass_on_later_tokens_fails() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.1.attn.pattern", lambda pattern: torch.full_like(pattern, 1 / pattern.shape[-1]), heads=[2])):
        verdict = Attention(**SMALL).run(model, corpus_of()).verdict
    assert verdict.status == "fail" and "mass on a later token is 0.06" in verdict.claim


def test_missing_numbers_fail_and_draw_nothing() -> None:
    model = tiny()
    model.blocks[1].attn.W_Q.weight[0, 0] = torch.nan
    result = Attention(**SMALL).run(model, corpus_of())
    assert result.verdict.status == "fail" and "not numbers" in result.verdict.claim and result.figures == ()


def test_an_untrained_model_is_told_from_a_trained_one(trained) -> None:
    assert Attention(**SMALL).run(tiny(), corpus_of()).verdict.status == "warn"
    assert "spread evenly" in Attention(**SMALL).run(tiny(), corpus_of()).verdict.claim
    assert Attention(**SMALL).run(*trained).verdict.status == "pass"


def test_heads_that_look_at_one_token_only_are_a_warning() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.*.attn.pattern", looks_back(2))):
        verdict = Attention(**SMALL).run(model, corpus_of()).verdict
    assert verdict.status == "warn" and "single token" in verdict.claim


def test_sinks_alone_are_no_collapse() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.*.attn.pattern", lambda pattern: 0.99 * sink(pattern) + 0.01 * pattern)):
        result = Attention(**SMALL).run(model, corpus_of())
    heads = result.tables["heads"].frame
    assert heads.entropy_normalised.max() < 0.05 and heads.entropy_normalised_without_first.min() > 0.9
    assert "single token" not in result.verdict.claim


def test_only_sinks_is_inconclusive() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.*.attn.pattern", sink)):
        result = Attention(**SMALL).run(model, corpus_of())
    assert result.verdict.status == "inconclusive"
    assert [draw(figure)[:4] for figure in result.figures]


def test_batch_size_changes_nothing_and_a_seed_repeats(trained) -> None:
    first, again, other = (Attention(**SMALL, batch_size=size).measure(*trained) for size in (3, 3, 2))
    for name in first:
        pd.testing.assert_frame_equal(first[name].frame, again[name].frame, check_exact=True)
        pd.testing.assert_frame_equal(first[name].frame, other[name].frame, rtol=1e-3, atol=1e-5)


def test_grouped_query_heads_are_told_apart() -> None:
    model = tiny(n_kv_heads=2, positions="rotary", norm="rms")
    for block in model.blocks:
        block.attn.W_Q.weight.mul_(100)  # a random head attends evenly
    heads = Attention(**SMALL).measure(model, corpus_of())["heads"].frame
    assert heads.kv_head.tolist() == [0, 0, 1, 1] * 2 and heads.entropy.nunique() == 8


def test_low_precision_passes_the_gates() -> None:
    verdict = Attention(**SMALL).run(tiny().to(torch.bfloat16), corpus_of()).verdict
    assert verdict.status == "warn" and "spread evenly" in verdict.claim  # untrained, but correct


def test_sizes_are_clamped_to_the_context_and_the_notes_say_so() -> None:
    result = Attention().run(tiny(n_ctx=12), corpus_of())
    assert "12 tokens" in result.notes["text"] and "asked for 128" in result.notes["text"]
    assert "2 × 6 tokens" in result.notes["random tokens"] and "asked for a period of 32" in result.notes["random tokens"]
    assert result.notes["sink score"] == "T = 12 tokens, ε = 0.3"


def test_a_context_without_room_to_repeat_still_has_text_scores() -> None:
    result = Attention().run(tiny(n_ctx=6), corpus_of())
    assert result.tables["heads"].frame.induction.isna().all() and result.tables["repeats"].frame.empty
    assert "induction" not in result.verdict.claim and {f.name for f in result.figures} == {
        "entropy",
        "entropy-by-layer",
        "first-token",
        "explorer",
        "sink-by-layer",
    }


@pytest.mark.parametrize(
    "n_ctx, n_tokens, claim", [(3, 200, "Nothing was measured"), (24, 2, "No head has a defined entropy"), (3, 0, "Nothing was measured")]
)
def test_too_little_is_inconclusive(n_ctx: int, n_tokens: int, claim: str) -> None:
    result = Attention().run(tiny(n_ctx=n_ctx), corpus_of(n_tokens))
    assert result.verdict.status == "inconclusive" and claim in result.verdict.claim


def test_special_tokens_are_not_drawn(trained) -> None:
    from analyses._attention_inputs import drawable, repeated_tokens

    ids = drawable(trained[0])
    assert not {0, 2, 3} & set(ids) and len(ids) == 1021
    tokens = repeated_tokens(ids, 5, 16, seed=3)
    assert torch.equal(tokens[:, :16], tokens[:, 16:]) and all(len(set(row.tolist())) == 16 for row in tokens)
    assert not torch.equal(tokens, repeated_tokens(ids, 5, 16, seed=4))


def test_figures_are_drawn_from_tables_alone(trained) -> None:
    model, corpus = trained
    tables = Attention(**SMALL).measure(model, corpus)
    figures = {figure.name: figure for figure in Attention(**SMALL).draw(tables)}
    shown = figures["explorer"]
    assert isinstance(shown, AttentionMap) and 0 < len(shown.notes) <= 6 and shown.notes.keys() <= shown.patterns.keys()
    assert list(shown.queries) == model.tokenizer.to_str_tokens(corpus.tokens[: len(shown.queries)])
    for pattern in shown.patterns.values():
        np.testing.assert_allclose(pattern.sum(-1), 1, atol=1e-3)  # 2-byte floats
    grid = figures["previous-token"]
    assert isinstance(grid, Heatmap) and grid.values[1, 0] == tables["heads"].frame.query("layer == 1 and head == 0").previous_token.item()
    assert all(draw(figure).startswith("<svg") or "<svg" in draw(figure) for figure in figures.values())


def test_without_a_text_a_prompt_is_shown(trained) -> None:
    model, corpus = trained
    prompt = Prompt(prompt="said Alice")
    corpus = Corpus(text="", text_source="", prompts=(prompt,), prompts_source="", tokens=corpus.tokens[:0])
    shown = Attention(**SMALL).measure(model, corpus)["tokens"].frame
    assert shown["token"].tolist() == model.tokenizer.to_str_tokens(prompt.prompt)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n_chunks", 0, "n_chunks must be at least 1, got 0"),
        ("length", 3, "length must be at least 4, got 3"),
        ("n_sequences", 0, "n_sequences must be at least 1, got 0"),
        ("period", 2, "period must be at least 4, got 2"),
        ("sink_length", 0, "sink_length must be at least 1, got 0"),
        ("batch_size", -1, "batch_size must be at least 1, got -1"),
        ("threshold", 1.0, "threshold must lie between 0 and 1, got 1.0"),
        ("sink_threshold", 0, "sink_threshold must lie between 0 and 1, got 0"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**{field: value})


def test_smollm2_has_the_previous_token_head_that_is_known(smollm2: Transformer) -> None:
    heads = Attention(n_chunks=1, length=16, n_sequences=2, period=16).measure(smollm2, load_corpus(smollm2))["heads"].frame
    best = heads.loc[heads.previous_token.idxmax()]
    assert (best.layer, best["head"]) == (16, 0) and best.previous_token > 0.8
