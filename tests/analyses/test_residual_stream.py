"""Does the residual-stream analysis find what was planted in the stream, and check that it is the sum of its parts?"""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from analyses._corpus import Corpus, load_corpus
from analyses.residual_stream import ANALYSIS, ResidualStream
from model import Transformer, TransformerConfig
from probes import Edit, intervene, record, scale, zero
from reports import LensGrid, draw

SMALL = {"n_chunks": 4, "length": 12, "n_lens_chunks": 2, "batch_size": 3}


def tiny(n_ctx: int = 12, **choices) -> Transformer:
    config = TransformerConfig(
        **{"n_layers": 4, "d_model": 16, "n_heads": 4, "d_head": 4, "d_mlp": 32, "d_vocab": 50, "n_ctx": n_ctx} | choices
    )
    return Transformer(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)


def corpus_of(n_tokens: int = 200) -> Corpus:
    tokens = torch.randint(50, (n_tokens,), generator=torch.Generator().manual_seed(1))
    return Corpus(text="", text_source="random", prompts=(), prompts_source="none", tokens=tokens)


def silent() -> list[Edit]:
    """Blocks that write nothing."""
    return [Edit("blocks.*.attn_out", zero()), Edit("blocks.*.mlp_out", zero())]


def plant(dimension: int, value: float):
    def change(written: torch.Tensor) -> torch.Tensor:
        written = written.clone()
        written[..., dimension] = value
        return written

    return change


@pytest.fixture(scope="module")
def trained(glasslm: Transformer) -> tuple[Transformer, Corpus]:
    return glasslm, load_corpus(glasslm)


def test_names_the_planted_massive_activation_and_nothing_else() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.1.mlp_out", plant(5, 5000.0), positions=[0])):
        result = ResidualStream(**SMALL).run(model, corpus_of())
    (row,) = result.tables["massive"].frame.itertuples(index=False)
    assert (row.position, row.dimension, row.first_state, row.last_state, row.n_texts) == (0, 5, 2, 4, 4)
    assert row.value_median == pytest.approx(5000, rel=1e-3)
    assert result.verdict.status == "warn" and "dimension 5 at position 0 is about 5,000 after 2 to 4 of 4 blocks" in result.verdict.claim


def test_the_planted_position_distorts_only_the_version_with_sinks() -> None:
    model, changed = tiny(), tiny()
    clean = ResidualStream(**SMALL).measure(model, corpus_of())["states"].frame
    with intervene(changed, Edit("blocks.3.mlp_out", plant(5, 5000.0), positions=[7])):
        tables = ResidualStream(**SMALL).measure(changed, corpus_of())
    last = tables["states"].frame.query("state == 4").set_index("positions")
    assert last.norm_max["all"] > 4000 > 10 > last.norm_max["without sinks"]
    assert last.n_tokens.to_dict() == {"all": 48, "without sinks": 40, "sinks only": 8}
    assert last.norm_median["without sinks"] == pytest.approx(
        clean.query("state == 4 and positions == 'without sinks'").norm_median.item(), rel=0.2
    )
    assert (
        tables["positions"].frame.query("position == 7").n_sinks.eq(4).all()
        and tables["positions"].frame.query("position == 3").n_sinks.eq(0).all()
    )


def test_nothing_planted_is_a_pass() -> None:
    verdict = ResidualStream(**SMALL).run(tiny(), corpus_of()).verdict
    assert verdict.status == "pass" and verdict.claim.startswith("No activation is massive.")


@pytest.mark.parametrize("site", ["resid_mid", "resid_post"])
def test_a_stream_that_is_not_the_sum_of_its_parts_fails_and_names_the_block(site: str) -> None:
    model = tiny()
    with intervene(model, Edit(f"blocks.2.{site}", scale(1.1))):
        verdict = ResidualStream(**SMALL).run(model, corpus_of()).verdict
    assert verdict.status == "fail" and "block 2" in verdict.claim
    assert verdict.evidence[0].where == "block 2" and verdict.evidence[0].measured > 0.01


def test_finds_the_planted_growth_rate() -> None:
    model = tiny(n_layers=6)
    with intervene(model, *silent(), Edit("blocks.*.resid_post", scale(1.25))):
        growth = ResidualStream(**SMALL).measure(model, corpus_of())["growth"].frame.set_index("positions")
    assert growth.rate.tolist() == pytest.approx([1.25] * 3, rel=1e-5) and growth.r2_exponential.tolist() == pytest.approx([1.0] * 3)
    assert growth.n_states.eq(6).all()


def test_silent_blocks_change_nothing() -> None:
    model = tiny()
    with intervene(model, *silent()):
        tables = ResidualStream(**SMALL).measure(model, corpus_of())
    blocks, lens = tables["blocks"].frame, tables["lens"].frame
    assert blocks[["attn_median", "mlp_median"]].eq(0).all(axis=None) and blocks.influence.abs().max() < 1e-6
    assert lens.kl_mean.max() < 1e-5 and lens.agreement.eq(1).all()


def test_numbers_equal_a_naive_computation(trained) -> None:
    model, corpus = trained
    tables = ResidualStream(**SMALL).measure(model, corpus)
    with record(
        model, ["blocks.*.resid_pre", "blocks.*.resid_mid", "blocks.*.resid_post", "blocks.*.attn_out", "blocks.*.mlp_out"]
    ) as activations:
        model(corpus.chunks(4, 12))
    got = {name: value.double().numpy() for name, value in activations.items()}
    assert not tables["positions"].frame.query("position > 0").n_sinks.any()  # so that only the first token is left out
    for layer in range(4):
        pre, mid, post, attn, mlp = (
            got[f"blocks.{layer}.{site}"][:, 1:] for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
        )
        norm = np.linalg.norm
        row = tables["blocks"].frame.query("layer == @layer and positions == 'without sinks'").iloc[0]
        assert row.attn_median == pytest.approx(np.median(norm(attn, axis=-1) / norm(pre, axis=-1)), rel=1e-5)
        assert row.mlp_median == pytest.approx(np.median(norm(mlp, axis=-1) / norm(mid, axis=-1)), rel=1e-5)
        cosine = (pre * post).sum(-1) / norm(pre, axis=-1) / norm(post, axis=-1)
        assert row.cosine_median == pytest.approx(np.median(cosine), rel=1e-5) and row.influence == pytest.approx(
            1 - cosine.mean(), rel=1e-5
        )
        state = tables["states"].frame.query("state == @layer + 1 and positions == 'without sinks'").iloc[0]
        assert state.norm_p95 == pytest.approx(np.quantile(norm(post, axis=-1), 0.95), rel=1e-5)
        assert state.mean_log_norm == pytest.approx(np.log(norm(post, axis=-1)).mean(), rel=1e-5)
        scales = (
            tables["norms"]
            .frame.query("norm == @name and positions == 'without sinks'", local_dict={"name": f"blocks.{layer}.ln1"})
            .iloc[0]
        )
        assert scales.scale_max == pytest.approx(np.sqrt((pre**2).mean(-1) + model.config.norm_eps).max(), rel=1e-5)
        assert scales.gain_min == pytest.approx(model.blocks[layer].ln1.gain.min().item())


def test_the_last_state_is_the_models_own_answer(trained) -> None:
    model, corpus = trained
    tables = ResidualStream(**SMALL).measure(model, corpus)
    last = tables["lens"].frame.query("state == 4")
    assert last.kl_mean.eq(0).all() and last.agreement.eq(1).all()
    tokens, _ = model.tokenize([corpus.prompts[0].prompt])
    best = model(tokens)[0].softmax(-1).max(-1)
    shown = tables["lens_example"].frame.query("state == 4")
    assert shown.top_token.tolist() == model.tokenizer.to_str_tokens(
        best.indices
    ) and shown.token.tolist() == model.tokenizer.to_str_tokens(tokens[0])
    np.testing.assert_allclose(shown.probability, best.values, rtol=1e-5)


def test_batch_size_changes_nothing_and_runs_repeat(trained) -> None:
    first, again, other = (ResidualStream(**SMALL | {"batch_size": size}).measure(*trained) for size in (3, 3, 1))
    for name in set(first) - {"gates"}:
        pd.testing.assert_frame_equal(first[name].frame, again[name].frame, check_exact=True)
        pd.testing.assert_frame_equal(first[name].frame, other[name].frame, rtol=1e-4, atol=1e-5)


def test_massive_activations_keep_the_number_of_their_text() -> None:
    model = tiny()
    with intervene(model, Edit("blocks.1.mlp_out", plant(5, 5000.0), positions=[0])):
        for size in (1, 2, 3, 4):
            assert ResidualStream(**SMALL | {"batch_size": size}).measure(model, corpus_of())["massive"].frame.n_texts.tolist() == [4]


@pytest.mark.parametrize(
    "choices", [{"norm": "rms", "positions": "rotary", "n_kv_heads": 2, "gated": True, "tied_embeddings": False}, {"n_layers": 1}]
)
def test_other_shapes_run_and_draw(choices: dict) -> None:
    result = ResidualStream(**SMALL).run(tiny(**choices), corpus_of())
    assert result.verdict.status == "pass" and len(result.figures) == 12
    assert all("<svg" in draw(figure) for figure in result.figures)


def test_low_precision_passes_the_gate() -> None:
    assert ResidualStream(**SMALL).run(tiny().to(torch.bfloat16), corpus_of()).verdict.status == "pass"


def test_missing_numbers_fail_and_draw_nothing() -> None:
    model = tiny()
    model.blocks[2].mlp.W_out.weight[0, 0] = torch.nan
    result = ResidualStream(**SMALL).run(model, corpus_of())
    assert result.verdict.status == "fail" and "first after block 2" in result.verdict.claim and result.figures == ()


def test_length_is_clamped_to_the_context_and_the_notes_say_so() -> None:
    result = ResidualStream().run(tiny(), corpus_of(50))
    assert result.notes["text"].startswith("4 chunks of 12 tokens") and "asked for 128, but the context holds 12" in result.notes["text"]


@pytest.mark.parametrize("n_ctx, n_tokens", [(3, 100), (12, 2), (12, 0)])
def test_too_little_is_inconclusive(n_ctx: int, n_tokens: int) -> None:
    result = ResidualStream().run(tiny(n_ctx=n_ctx), corpus_of(n_tokens))
    assert result.verdict.status == "inconclusive" and "fewer than 4 tokens" in result.verdict.claim and result.figures == ()


def test_figures_are_drawn_from_tables_alone(trained) -> None:
    tables = ResidualStream(**SMALL).measure(*trained)
    figures = {figure.name: figure for figure in ResidualStream(**SMALL).draw(tables)}
    grid = figures["logit-lens-example"]
    assert isinstance(grid, LensGrid) and grid.probabilities.shape[0] == 5 and grid.tokens.shape[2] == 5
    assert (
        figures["norm"].series["median without sinks"].y[2]
        == tables["states"].frame.query("state == 2 and positions == 'without sinks'").norm_median.item()
    )
    assert not math.isnan(figures["logit-lens-kl"].series["mean"].y[-1])


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("n_chunks", 0, "n_chunks must be at least 1, got 0"),
        ("length", 3, "length must be at least 4, got 3"),
        ("n_lens_chunks", 0, "n_lens_chunks must be at least 1, got 0"),
        ("batch_size", 0, "batch_size must be at least 1, got 0"),
        ("sink_factor", 1.0, "sink_factor must be greater than 1, got 1.0"),
    ],
)
def test_bad_parameters_are_refused(field: str, value: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**{field: value})


def test_smollm2_has_the_massive_activation_that_is_known(smollm2: Transformer) -> None:
    massive = ResidualStream(n_chunks=1, length=24, n_lens_chunks=1).measure(smollm2, load_corpus(smollm2))["massive"].frame.iloc[0]
    assert (massive.position, massive.dimension, massive.first_state, massive.last_state) == (0, 507, 12, 28)
    assert massive.value_median == pytest.approx(23000, rel=0.03)
