"""Does the attribution analysis name the token that matters, and refuse numbers that do not add up?"""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from analyses._attribution_measure import METHODS
from analyses._corpus import Corpus, Prompt, load_corpus, tokenize_prompts
from analyses._examples import examples
from analyses.attribution import ANALYSIS
from model import Transformer, TransformerConfig, load_model
from probes import Edit, intervene, logit_difference, loss, record


@pytest.fixture(scope="module")
def last_token_only(glasslm: Transformer) -> Transformer:
    """GlassLM without attention: nothing but the last token can matter."""
    model = copy.deepcopy(glasslm)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.W_O.weight.zero_()
    return model


def test_the_only_token_that_can_matter_gets_everything(last_token_only: Transformer) -> None:
    result = ANALYSIS(n_prompts=4, max_steps=640).run(last_token_only, load_corpus(last_token_only))
    tokens = result.tables["tokens"].frame
    last = tokens.groupby("example")["position"].transform("max") == tokens["position"]
    assert (tokens.loc[~last, "attribution"].abs() < 1e-5).all()
    complete = result.tables["completeness"].frame
    for method in ("integrated gradients", "occlusion"):
        got = tokens[last & (tokens["method"] == method)]["attribution"].to_numpy()
        np.testing.assert_allclose(got, complete["difference"], rtol=2e-3, atol=1e-4)
    assert result.verdict.status == "pass" and "carries most in prompt 0" in result.verdict.claim


def test_occlusion_is_an_edit_of_the_embedding(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    prompts = corpus.contrasts(3)
    inputs, metric = tokenize_prompts(glasslm, prompts), logit_difference([p.target for p in prompts], [p.foil for p in prompts])
    tokens = ANALYSIS(n_prompts=3, baseline="zero", keep_first=False, max_steps=10).measure(glasslm, corpus)["tokens"].frame
    found = tokens[tokens["method"] == "occlusion"].set_index(["example", "position"])["attribution"]
    with intervene(glasslm, Edit("embed", lambda x: x * 0, positions=[2])):
        without = metric(glasslm, inputs)
    for i, expected in enumerate((metric(glasslm, inputs) - without).tolist()):
        assert found[i, 2] == pytest.approx(expected, abs=2e-5)


def test_sums_gaps_and_the_kept_token(glasslm: Transformer) -> None:
    tables = ANALYSIS(n_prompts=5).measure(glasslm, load_corpus(glasslm))
    tokens, complete = tables["tokens"].frame, tables["completeness"].frame
    assert set(tokens["method"]) == set(METHODS) and (tokens.loc[tokens["position"] == 0, "attribution"] == 0).all()
    sums = tokens[tokens["method"] == METHODS[0]].groupby("example")["attribution"].sum().to_numpy()
    np.testing.assert_allclose(sums, complete["sum_integrated"], atol=1e-5)
    np.testing.assert_allclose(
        (complete["sum_integrated"] - complete["difference"]).abs() / complete["difference"].abs(), complete["gap"], atol=1e-5
    )
    np.testing.assert_allclose(complete["clean"] - complete["baseline"], complete["difference"], atol=1e-5)


def test_verdicts(glasslm: Transformer) -> None:
    analysis, corpus = ANALYSIS(n_prompts=3), load_corpus(glasslm)
    tables = analysis.measure(glasslm, corpus)

    def judged(gap: float) -> tuple[str, str]:
        frame = tables["completeness"].frame.assign(gap=[1e-5, 1e-5, gap])
        verdict = analysis.judge({**tables, "completeness": dataclasses.replace(tables["completeness"], frame=frame)})
        return verdict.status, verdict.claim

    assert judged(1e-4)[0] == "pass"
    assert judged(0.02)[0] == "warn" and "does not add up in 1 of 3 prompts (gap up to 0.02 of the effect, allowed 0.001)" in judged(0.02)[1]
    assert judged(0.2)[0] == "fail"
    assert judged(float("nan"))[0] == "inconclusive" and "In 1 of 3 prompts the baseline changes nothing" in judged(float("nan"))[1]


def test_no_prompt_is_inconclusive() -> None:
    model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    corpus = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.arange(10))
    result = ANALYSIS().run(model, corpus)
    assert result.verdict.status == "inconclusive" and result.verdict.evidence == () and result.figures == ()


def test_a_prompt_of_one_token_has_nothing_to_share_out(glasslm: Transformer) -> None:
    corpus = dataclasses.replace(load_corpus(glasslm), prompts=(Prompt(prompt=" she", target=" she", foil=" he"),))
    result = ANALYSIS().run(glasslm, corpus)
    assert result.verdict.status == "inconclusive" and result.tables["completeness"].frame["gap"].isna().all()


def test_the_same_run_gives_the_same_numbers_and_figures(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    first, second = (ANALYSIS(n_prompts=2).run(glasslm, corpus) for _ in range(2))
    assert all(first.tables[name].frame.equals(second.tables[name].frame) for name in first.tables)
    assert [f.name for f in first.figures] == ["tokens-0", "tokens-1", "completeness", "agreement"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be at least 1, got 0"),
        ({"n_steps": 0}, "n_steps must be at least 1, got 0"),
        ({"max_steps": 5}, r"max_steps must be at least 10 \(n_steps\), got 5"),
        ({"baseline": "pad"}, "baseline must be mean or zero, got 'pad'"),
        ({"tolerance": 1.5}, "tolerance must lie between 0 and 1, got 1.5"),
    ],
)
def test_parameters_are_checked(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**values)


def test_the_target_of_an_encoder_decoder_is_attributed_to_its_source() -> None:
    """Without cross-attention the source cannot matter; with it occlusion is an edit of the encoder's embedding."""
    model = load_model("annalog")
    corpus = load_corpus(model)
    tables = ANALYSIS(n_prompts=3, n_steps=4, max_steps=4).measure(model, corpus)
    tokens, complete = tables["tokens"].frame, tables["completeness"].frame
    inputs = examples(model, corpus, 3, 1)
    assert complete["metric"].unique().tolist() == ["target_log_probability"] and complete["foil"].isna().all()
    np.testing.assert_allclose(complete["clean"], -loss()(model, inputs).numpy(), rtol=1e-4)
    with record(model, "encoder.embed") as activations, torch.no_grad():
        model(*inputs)
    embeddings = activations["encoder.embed"]
    middle = embeddings[inputs[2]].mean(0)
    with intervene(model, Edit("encoder.embed", lambda x: middle.expand_as(x), positions=[4])):
        without = -loss()(model, inputs)
    found = tokens[(tokens["method"] == "occlusion") & (tokens["position"] == 4)]["attribution"].to_numpy()
    np.testing.assert_allclose(found, complete["clean"] - without.numpy(), atol=2e-5)
    assert tokens.groupby(["example", "method"]).size().tolist() == [int(n) for n in inputs[2].sum(1) for _ in METHODS]
    deaf = copy.deepcopy(model)
    with torch.no_grad():
        for block in deaf.decoder.blocks:
            block.cross_attn.W_O.weight.zero_()
    result = ANALYSIS(n_prompts=2).run(deaf, corpus)
    assert result.verdict.status == "inconclusive" and "changes nothing" in result.verdict.claim


def test_an_encoder_has_no_answer_to_attribute() -> None:
    model = load_model("minilm")
    result = ANALYSIS().run(model, load_corpus(model))
    assert result.verdict.status == "inconclusive" and "no answer to ask about" in result.verdict.claim and result.figures == ()
