"""What does length cost in encoders and encoder-decoders, and what is said where there is no loss by position?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from analyses._corpus import Corpus, Prompt, load_corpus
from analyses._flops import flops_crossover, forward_flops
from analyses._length_scaling_measure import forward_pass, lengths_of, sequence
from analyses._loss_by_context import (
    bins_of,
    differences_by_context,
    loss_by_context,
    losses_by_context,
    what_is_read,
)
from analyses.length_scaling import ANALYSIS
from model import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Span,
    Transformer,
    TransformerConfig,
    load_model,
)
from probes import Edit, intervene
from probes.metrics import token_losses
from tests.analyses.test_residual_stream_kinds import (
    WORDS,
    corpus_of,
    encoder,
    two_stacks,
)

SHAPE = {"n_layers": 3, "d_model": 24, "n_heads": 4, "n_kv_heads": 2, "d_head": 8, "d_mlp": 40, "d_vocab": 50, "n_ctx": 300}
QUICK = {"n_chunks": 4, "length": 16, "shortest": 2, "longest": 16, "repeats": 4}
ENCODER = TransformerConfig(**SHAPE, causal=False, head="none")
SINGLE = {
    "headless encoder": ENCODER,
    "masked-LM encoder": dataclasses.replace(ENCODER, head="mlm", gated=True),
    "attention-only decoder": TransformerConfig(**SHAPE | {"d_mlp": 0}),
    "attention-only encoder, own unembedding": dataclasses.replace(ENCODER, d_mlp=0, head="mlm", tied_embeddings=False),
    "parallel decoder": TransformerConfig(**SHAPE, parallel=True, gated=True),
    "post-norm encoder, shared q and k": dataclasses.replace(ENCODER, n_kv_heads=4, shared_qk=True, norm_place="post"),
}
DOUBLE = {
    "two stacks": EncoderDecoderConfig(encoder=ENCODER, decoder=TransformerConfig(**SHAPE | {"n_layers": 2}, gated=True)),
    "two stacks of other widths": EncoderDecoderConfig(
        encoder=dataclasses.replace(ENCODER, n_kv_heads=1, d_vocab=30),
        decoder=TransformerConfig(**SHAPE | {"d_mlp": 0}),
        shared_embeddings=False,
    ),
    "two stacks without a head": EncoderDecoderConfig(encoder=ENCODER, decoder=TransformerConfig(**SHAPE, head="none")),
}
EVERY = SINGLE | DOUBLE


def built(config: TransformerConfig | EncoderDecoderConfig) -> Transformer | EncoderDecoder:
    made = Transformer if isinstance(config, TransformerConfig) else EncoderDecoder
    return made(config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)


@pytest.mark.parametrize("name", EVERY)
def test_operations_are_those_that_torch_counts(name: str) -> None:
    model = built(EVERY[name])
    seen = [Edit(site, lambda pattern: pattern) for site in model.sites() if site.endswith(".pattern")]
    empty = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.arange(50))
    for n in (1, 7, 64):
        with torch.no_grad(), FlopCounterMode(display=False) as counter, intervene(model, *seen):
            forward_pass(model, sequence(model, empty, n))
        assert counter.get_total_flops() == forward_flops(model.config, n).total


def pairs_seen(model: Transformer | EncoderDecoder, n: int) -> list[int]:
    """Of every attention, the pairs of which the query may see the key."""
    pairs, tokens = {}, torch.zeros(1, n, dtype=torch.long)
    edits = [
        Edit(site, lambda scores, site=site: pairs.setdefault(site, int((scores[0, 0] > -torch.inf).sum())) and scores)
        for site in model.sites()
        if site.endswith(".scores")
    ]
    with torch.no_grad(), intervene(model, *edits):
        model(*[tokens] * (2 if isinstance(model, EncoderDecoder) else 1))
    return list(pairs.values())


@pytest.mark.parametrize("name", EVERY)
def test_visible_pairs_are_those_of_the_masks(name: str) -> None:
    """Attention over visible pairs is the operations of a pair times the pairs that some query may see, counted in the pattern."""
    model, n = built(EVERY[name]), 9
    pairs, of_a_pair = pairs_seen(model, n), 2 * 2 * 4 * 8
    assert forward_flops(model.config, n).attention_visible == of_a_pair * sum(pairs)
    assert forward_flops(model.config, n).attention == of_a_pair * len(pairs) * n * n


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("span", [Span(kind="window", size=4), Span(kind="block", size=4), Span(kind="block", size=4, n_global=6)])
def test_pairs_within_a_span_are_those_of_the_masks(span: Span, causal: bool) -> None:
    """Some layers see everything, one a span that does not divide the length."""
    config = TransformerConfig(**SHAPE, causal=causal, span=(Span(), span, Span()))
    for n in (3, 9, 13):
        assert forward_flops(config, n, spans=True).attention_visible == 2 * 2 * 4 * 8 * sum(pairs_seen(built(config), n))


@pytest.mark.parametrize("name", EVERY)
def test_at_the_crossover_attention_equals_the_rest(name: str) -> None:
    config = EVERY[name]
    n = flops_crossover(config, visible=False)
    one = forward_flops(config, 1)
    assert one.linear * n == pytest.approx(one.attention * n * n)
    far = 10**6  # where n(n+1)/2 is n²/2
    flops = forward_flops(config, far)
    assert flops_crossover(config, visible=True) == pytest.approx(flops.linear / flops.attention_visible * far, rel=1e-5)
    assert flops_crossover(config, visible=True) > n or name in SINGLE and not config.causal


def test_an_encoder_of_the_papers_shape_crosses_where_its_decoder_does() -> None:
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "d_head": 16, "d_mlp": 256, "d_vocab": 10, "n_ctx": 5}
    alone = TransformerConfig(**shape, causal=False, head="none")
    assert flops_crossover(alone, visible=False) == flops_crossover(alone, visible=True) == 6 * 64
    both = EncoderDecoderConfig(encoder=alone, decoder=TransformerConfig(**shape))
    # 12 d² of projections and MLP in the encoder, 16 d² in the decoder; three attentions of 2 d n²
    assert flops_crossover(both, visible=False) == pytest.approx((24 + 32) / (4 * 3) * 64)
    assert flops_crossover(both, visible=True) == pytest.approx((24 + 32) / (4 * 2.5) * 64)


def test_loss_of_given_targets_is_that_of_a_padded_pass() -> None:
    model = two_stacks()
    corpus = corpus_of(model)
    losses = losses_by_context(model, what_is_read(model, corpus, 4, 16))
    for pad in ("left", "right"):
        inputs = model.tokenize([p.prompt for p in corpus.prompts], target=[p.target for p in corpus.prompts], pad=pad)
        whole, mask = token_losses(model(*inputs), inputs[1]).double().numpy(), inputs[3].numpy()
        for got, row, real in zip(losses, whole, mask[:, :-1] & mask[:, 1:], strict=True):
            expected = row[real][: losses.shape[1]]  # contexts that at least half of the targets have
            np.testing.assert_allclose(got[: len(expected)], expected, atol=1e-5)
            assert np.isnan(got[len(expected) :]).all()
    lengths = (5, 10, 7, 6)  # with the template's [CLS] and the start token, without its end
    assert losses.shape == (4, sorted(lengths)[-2] + 1)


def test_bins_leave_out_targets_that_end_before() -> None:
    losses = np.full((3, 15), 2.0)
    losses[:, 7:] = 1.0
    losses[0, 5:], losses[1, 10:] = np.nan, np.nan
    losses[2] += 1.0
    loss, differences = loss_by_context(losses, bins_of(15), 0), differences_by_context(losses, bins_of(15), 0)
    assert loss.n.tolist() == [3, 3, 2] and loss.loss.tolist() == pytest.approx([7 / 3, 7 / 3, 1.5])
    assert differences.n.tolist() == [2, 2] and differences.difference.tolist() == pytest.approx([-1, -1])


def test_an_encoder_has_costs_and_no_loss() -> None:
    for head, why in (("none", "the model has no head"), ("mlm", "an encoder sees all positions at once")):
        model = encoder(head=head)
        result = ANALYSIS(**QUICK).run(model, corpus_of(model))
        assert result.verdict.status == "inconclusive" and result.tables["loss"].frame.empty and result.tables["differences"].frame.empty
        assert f"There is no loss by length of context, since {why}; at 16 tokens attention takes" in result.verdict.claim
        assert result.notes["text"] == f"no loss is measured: {why}"
        assert {figure.name for figure in result.figures} == {"operations", "time", "memory"}
        assert "attention, visible pairs" not in next(f for f in result.figures if f.name == "operations").series
        assert all("visible" not in e.name and e.measured == e.measured for e in result.verdict.evidence)


def test_verdicts_of_two_stacks() -> None:
    model = two_stacks()
    corpus = corpus_of(model)
    result = ANALYSIS(**QUICK).run(model, corpus)
    assert result.tables["model"].frame.iloc[0].tolist() == ["encoder-decoder", "lm", "given targets"]
    assert "with 2 to 7 tokens of the target" in result.verdict.claim or "tokens of the target" in result.verdict.claim
    assert "at 16 tokens of source and of target attention takes" in result.verdict.claim
    assert result.notes["lengths"].startswith("2, 4, 8, 16 tokens of source and of target each") and "given" in result.notes["text"]
    own = ANALYSIS(**QUICK).run(model, corpus_of(model, targets=False))
    assert own.verdict.status == "inconclusive" and own.verdict.claim.startswith("The model wrote the targets itself")
    assert all(e.threshold is None for e in own.verdict.evidence) and "written by the model itself" in own.notes["text"]
    headless = ANALYSIS(**QUICK).run(model := two_stacks(head="none"), corpus_of(model))
    assert (
        "since the model has no head" in headless.verdict.claim and headless.notes["text"] == "no loss is measured: the model has no head"
    )


def judged(losses: np.ndarray):
    """The verdict on made-up losses of given targets, Float[targets contexts]."""
    model = two_stacks()
    tables = ANALYSIS(**QUICK).measure(model, corpus_of(model))
    bins = bins_of(losses.shape[1])
    frames = {"loss": loss_by_context(losses, bins, 0), "differences": differences_by_context(losses, bins, 0)}
    return ANALYSIS().judge({**tables, **{name: dataclasses.replace(tables[name], frame=frame) for name, frame in frames.items()}})


def test_the_course_of_given_targets_is_judged() -> None:
    noise, falling = np.random.default_rng(0).normal(size=(12, 31)) * 0.1, -0.5 * np.log(np.arange(1, 32))
    assert judged(5 + falling + noise).status == "pass" and judged(5 + falling + noise).claim.startswith("The loss falls along the target")
    assert judged(5 - falling + noise).status == "fail"
    assert judged(5 + noise * 9).status == "inconclusive" and "falls along the target cannot be told" in judged(5 + noise * 9).claim


def test_a_short_context_and_no_text() -> None:
    model = two_stacks()
    assert lengths_of(model, 4, 1024) == [4, 8, 16]
    empty = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.zeros(0, dtype=torch.long))
    result = ANALYSIS(**QUICK).run(model, empty)
    assert result.verdict.status == "inconclusive" and "too short" in result.verdict.claim and result.notes["text"].startswith("no chunk")
    long = Corpus(
        text="",
        text_source="made",
        prompts=(Prompt(prompt=WORDS[0] * 2, target=WORDS[1]),),
        prompts_source="made",
        tokens=torch.zeros(0, dtype=torch.long),
    )
    assert ANALYSIS(**QUICK).run(model, long).verdict.status == "inconclusive"


def test_trained_models() -> None:
    for name in ("minilm", "annalog"):
        model = load_model(name)
        result = ANALYSIS(n_chunks=3, longest=64, repeats=4).run(model, load_corpus(model))
        assert (
            result.verdict.status == "inconclusive" and f"{flops_crossover(model.config, visible=False):.0f} tokens" in result.verdict.claim
        )
        assert result.tables["time"].frame.length.tolist() == [32, 64]
