"""Does the residual-stream analysis hold for encoders, encoder-decoders, and every place that a norm can stand in?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
from torch import Tensor

from analyses._anatomy import Model, Side, sides
from analyses._corpus import Corpus, Prompt, load_corpus
from analyses._residual_frames import (
    blocks_frame,
    gates_frame,
    massive_frame,
    norms_frame,
    pooled_frame,
    positions_frame,
    states_frame,
)
from analyses._residual_measure import ALL, WITHOUT_SINKS, Stream, measure_stream
from analyses.residual_stream import ResidualStream
from model import (
    EncoderDecoder,
    EncoderDecoderConfig,
    Tokenizer,
    Transformer,
    TransformerConfig,
    load_model,
)
from probes import Edit, add, intervene, record, scale, zero
from reports import Lines, Result, draw
from tests.conftest import example

SHAPE = {"n_layers": 3, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 24, "d_vocab": 30, "n_ctx": 24}
POST = {"norm_place": "post", "embed_norm": True, "final_norm": False}
SMALL = {"n_chunks": 4, "length": 12, "n_lens_chunks": 2, "batch_size": 3}
WORDS = [f"w{i} " for i in range(25)]


def loud(model: Model) -> Model:
    """Weights large enough that every path matters, gains and biases that are not trivial."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + 0.2 * noise if name.endswith("gain") else 0.3 * noise)
    model.tokenizer = words_tokenizer()
    return model.requires_grad_(False).eval()


def words_tokenizer() -> Tokenizer:
    """One token a word, and the special tokens of an encoder and of a decoder."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "<unk>"]
    vocabulary = {word.strip(): i for i, word in enumerate([*special, *WORDS])}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.add_special_tokens([tokenizers.AddedToken(word, normalized=False) for word in special])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return Tokenizer(backend, bos_id=1, eos_id=2, pad_id=0, decoder_start_id=1)


def encoder(**choices) -> Transformer:
    return loud(Transformer(TransformerConfig(**SHAPE | POST | {"causal": False, "head": "none"} | choices)))


def two_stacks(**choices) -> EncoderDecoder:
    stack = SHAPE | choices
    head = stack.pop("head", "lm")
    config = EncoderDecoderConfig(
        encoder=TransformerConfig(**stack | {"n_layers": 2}, causal=False, head="none"), decoder=TransformerConfig(**stack, head=head)
    )
    return loud(EncoderDecoder(config))


def corpus_of(model: Model, *, targets: bool = True) -> Corpus:
    """Four pairs of different lengths, and running text."""
    lengths = ((9, 5), (4, 10), (12, 7), (6, 6))
    pairs = [(" ".join(WORDS[i] for i in range(s)), " ".join(WORDS[i + 3] for i in range(t))) for s, t in lengths]
    prompts = tuple(Prompt(prompt=source, target=target if targets else None) for source, target in pairs)
    text = "".join(WORDS[int(i)] for i in torch.randint(25, (120,), generator=torch.Generator().manual_seed(5)))
    return Corpus(text=text, text_source="made", prompts=prompts, prompts_source="made", tokens=torch.tensor(model.tokenizer.encode(text)))


MODELS = {
    "post-norm encoder": encoder, "pre-norm encoder": lambda: encoder(norm_place="pre", final_norm=True),
    "two stacks": two_stacks, "two post-norm stacks": lambda: two_stacks(**POST),
}  # fmt: skip


def streams(model: Model, inputs: tuple[Tensor, ...]) -> list[tuple[Side, Stream]]:
    with torch.no_grad():
        return [(side, measure_stream(model, side, inputs, batch_size=2, sink_factor=3.0)) for side in sides(model)]


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("kind", MODELS)
def test_numbers_equal_a_naive_computation_over_real_tokens(kind: str, padding: str) -> None:
    model = MODELS[kind]()
    inputs = example(model, padding)
    for side, stream in streams(model, inputs):
        p, mask = side.prefix, side.tokens(inputs)[1].numpy()
        with record(model, f"{p}blocks.*") as activations:
            model(*inputs)
        got = {name.removeprefix(p): value.double().numpy() for name, value in activations.items()}
        cross, layers = "blocks.0.cross_attn_out" in got, range(side.config.n_layers)
        states = np.stack([got["blocks.0.resid_pre"], *(got[f"blocks.{i}.resid_post"] for i in layers)])
        norms = np.linalg.norm(states, axis=-1)
        chosen = np.zeros_like(mask)  # without the sinks: a loop over texts and positions
        for row in range(len(mask)):
            real = np.flatnonzero(mask[row])
            medians = np.sort(norms[:, row, real], axis=1)[:, (len(real) - 1) // 2]  # the lower one, as torch has it
            chosen[row, real[1:]] = [(norms[:, row, i] <= 3.0 * medians).all() for i in real[1:]]
        for version, where in ((ALL, mask), (WITHOUT_SINKS, chosen)):
            frame = blocks_frame(stream).query("positions == @version").set_index("layer")
            for i in layers:
                pre, mid = got[f"blocks.{i}.resid_pre"], got[f"blocks.{i}.resid_mid"]
                parts = {"attn": ("attn_out", pre), "mlp": ("mlp_out", got[f"blocks.{i}.resid_mid_cross"] if cross else mid)}
                for name, (site, before) in (parts | ({"cross": ("cross_attn_out", mid)} if cross else {})).items():
                    size = np.linalg.norm(got[f"blocks.{i}.{site}"], axis=-1) / np.linalg.norm(before, axis=-1)
                    assert frame.loc[i, f"{name}_median"] == pytest.approx(np.median(size[where]), rel=1e-4)
                assert cross or np.isnan(frame.loc[i, "cross_median"])
                cosine = (states[i] * states[i + 1]).sum(-1) / norms[i] / norms[i + 1]
                assert frame.loc[i, "influence"] == pytest.approx(1 - cosine[where].mean(), rel=1e-4, abs=1e-6)
                assert frame.loc[i, "n_tokens"] == where.sum()
            shown = states_frame(stream).query("positions == @version").set_index("state")
            assert shown.norm_p95.tolist() == pytest.approx([np.quantile(one[where], 0.95) for one in norms], rel=1e-4)
            normed = norms_frame(model, side, stream).query("positions == @version").set_index("norm")
            read = got["blocks.1.resid_pre"] if side.config.norm_place == "pre" else got["blocks.1.resid_pre"] + got["blocks.1.attn_out"]
            expected = np.sqrt(read.var(-1) + side.config.norm_eps)[where]
            assert normed.loc["blocks.1.ln1", "scale_max"] == pytest.approx(expected.max(), rel=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_the_side_of_the_padding_changes_nothing(kind: str) -> None:
    model = MODELS[kind]()
    frames = []
    for pad in ("left", "right"):
        texts, targets = [WORDS[3] * 7, WORDS[1] + WORDS[9] * 3], [WORDS[4] * 4, WORDS[2] * 9]
        inputs = model.tokenize(texts, target=targets, pad=pad) if isinstance(model, EncoderDecoder) else model.tokenize(texts, pad=pad)
        found = []
        for side, stream in streams(model, inputs):
            found += [states_frame(stream), blocks_frame(stream), positions_frame(stream), norms_frame(model, side, stream)]
            found += [pooled_frame(stream)] if side.config.head == "none" else []
        frames.append(found)
    for left, right in zip(*frames, strict=True):
        pd.testing.assert_frame_equal(left, right, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_padding_is_never_measured(stack: str) -> None:
    """What stands at padding in the stream of either stack is invisible, however large it is."""
    model = two_stacks()
    inputs = example(model, "right")
    (side,) = (one for one in sides(model) if one.name == stack)
    assert not side.tokens(inputs)[1][1, -1]

    def spoil(written: Tensor) -> Tensor:
        written = written.clone()
        written[1, -1] = 1e6
        return written

    def measured() -> Stream:
        with torch.no_grad():
            return measure_stream(model, side, inputs, batch_size=9, sink_factor=3.0)

    before = measured()
    with intervene(model, Edit(f"{stack}.blocks.{side.config.n_layers - 1}.mlp_out", spoil)):
        changed = measured()
    assert changed.norm.max() > 1e5 and massive_frame(changed).empty
    pd.testing.assert_frame_equal(states_frame(changed), states_frame(before))
    pd.testing.assert_frame_equal(blocks_frame(changed), blocks_frame(before))
    pd.testing.assert_frame_equal(positions_frame(changed), positions_frame(before))
    assert gates_frame(side, changed, torch.float32).measured.max() < 1e-6


PLACES = [
    {}, {"norm_place": "post"}, {"norm_place": "sandwich"}, {"norm_place": "output"}, {"norm": "none"}, {"norm": "rms", "norm_place": "post"},
    {"norm": "batch"}, {"norm": "batch", "norm_place": "post"}, {"d_mlp": 0}, {"d_mlp": 0, "norm_place": "post"}, {"residual": False},
    {"residual_scale": 0.5}, {"gain_offset": 1.0, "norm": "rms"}, POST,
]  # fmt: skip
PARALLEL = [{"parallel": True}, {"parallel": True, "parallel_shared_norm": True}]


DRAWN = [{"norm": "none"}, {"d_mlp": 0, "norm_place": "post"}]
CASES = [("two stacks", one) for one in PLACES]
CASES += [(kind, one) for kind in ("decoder", "encoder") for one in (*PARALLEL, *PLACES[1:5], *PLACES[8:10])]


@pytest.mark.parametrize(("kind", "choices"), CASES, ids=str)
def test_every_place_of_a_norm_keeps_its_identity_and_is_drawn(kind: str, choices: dict) -> None:
    one = SHAPE | {"causal": kind == "decoder", "head": "lm" if kind == "decoder" else "none"} | choices
    model = two_stacks(**choices) if kind == "two stacks" else loud(Transformer(TransformerConfig(**one)))
    result = ResidualStream(**SMALL).run(model, corpus_of(model))
    assert result.verdict.status in ("pass", "warn"), result.verdict.claim
    expected = "normed sum" if choices.get("norm_place") == "post" else "replacement" if "residual" in choices else "additivity"
    assert set(result.tables["gates"].frame.gate) == {expected} and result.tables["gates"].frame.measured.max() < 1e-6
    assert result.figures and (kind == "decoder" or choices not in DRAWN or all("<svg" in draw(figure) for figure in result.figures))
    assert len({figure.name for figure in result.figures}) == len(result.figures)
    pinned = choices.get("norm_place") == "post" and choices.get("norm") != "batch"
    assert ("pinned by the norm layers" in result.verdict.claim) == pinned
    assert result.tables["growth"].frame.rate.isna().all() == pinned
    assert ("norms" in result.tables) == (choices.get("norm") != "none")
    assert all(evidence.measured == evidence.measured for evidence in result.verdict.evidence)


@pytest.mark.parametrize(
    ("choices", "site", "where"),
    [
        (POST, "decoder.blocks.1.resid_mid_cross", "decoder block 1"),
        (POST, "encoder.blocks.1.resid_post", "encoder block 1"),
        ({}, "decoder.blocks.2.resid_mid", "decoder block 2"),
        ({"norm_place": "sandwich"}, "encoder.blocks.0.resid_post", "encoder block 0"),
        ({"residual": False}, "decoder.blocks.0.resid_mid", "decoder block 0"),
    ],
)
def test_a_broken_identity_fails_and_names_stack_and_block(choices: dict, site: str, where: str) -> None:
    model = two_stacks(**choices)
    with intervene(model, Edit(site, scale(1.1))):
        verdict = ResidualStream(**SMALL).run(model, corpus_of(model)).verdict
    assert (
        verdict.status == "fail" and where in verdict.claim and verdict.evidence[0].where == where and verdict.evidence[0].measured > 0.01
    )


def test_a_planted_massive_activation_names_its_stack() -> None:
    model = two_stacks()
    spike = torch.zeros(16)
    spike[5] = 5000.0
    with intervene(model, Edit("decoder.blocks.1.mlp_out", add(spike), positions=[0])):
        result = ResidualStream(**SMALL).run(model, corpus_of(model))
    (row,) = result.tables["massive"].frame.itertuples(index=False)
    assert (row.stack, row.position, row.dimension, row.first_state, row.n_texts) == ("decoder", 0, 5, 2, 4)
    assert (
        result.verdict.claim.startswith("In the decoder one scalar is massive: dimension 5 at position 0")
        and "Away from the sink positions, encoder: the pooled" in result.verdict.claim
    )


def test_missing_numbers_name_their_stack() -> None:
    model = two_stacks()
    model.decoder.blocks[1].cross_attn.W_O.weight[0, 0] = torch.nan
    result = ResidualStream(**SMALL).run(model, corpus_of(model))
    assert result.verdict.status == "fail" and "first after decoder block 1" in result.verdict.claim and result.figures == ()


def test_pooled_representation_equals_a_naive_one() -> None:
    model = encoder(norm_place="pre", final_norm=True)
    tokens, mask = example(model, "left", batch=4)
    ((_, stream),) = streams(model, (tokens, mask))
    with record(model, ["blocks.*.resid_pre", "blocks.2.resid_post"]) as activations:
        final = model(tokens, mask).double().numpy()

    def pooled(states: np.ndarray) -> np.ndarray:
        means = np.stack([states[i, mask[i].numpy()].mean(0) for i in range(4)])
        return means / np.linalg.norm(means, axis=-1, keepdims=True)

    frame = pooled_frame(stream).query("positions == 'all'").set_index("state")
    for state, resid in enumerate(activations.values()):
        cosine = pooled(model.ln_final(resid).double().numpy()) @ pooled(final).T
        assert frame.loc[state, "cosine_median"] == pytest.approx(np.median(cosine.diagonal()), rel=1e-4)
        assert frame.loc[state, "others_median"] == pytest.approx(np.median(cosine[~np.eye(4, dtype=bool)]), rel=1e-3, abs=1e-5)
        assert frame.loc[state, "nearest"] == np.mean(cosine.argmax(1) == np.arange(4))
    assert frame.cosine_median.iloc[-1] == pytest.approx(1) and frame.cosine_median.iloc[0] < 0.9


def test_silent_blocks_have_their_representation_at_once() -> None:
    model = encoder(norm_place="pre", final_norm=True)
    with intervene(model, Edit("blocks.*.attn_out", zero()), Edit("blocks.*.mlp_out", zero())):
        result = ResidualStream(**SMALL).run(model, corpus_of(model))
    assert (
        result.tables["pooled"].frame.cosine_p05.min() > 1 - 1e-6
        and "after 0 of 3 blocks (nearest to that of its own text from 0 on)" in result.verdict.claim
    )
    assert "lens" not in result.tables and result.notes["logit lens"] == "none: the model has no head"


def test_a_masked_lm_head_is_read_at_masked_tokens() -> None:
    model = encoder(head="mlm")
    result = ResidualStream(**SMALL).run(model, corpus_of(model))
    lens, shown = result.tables["lens"].frame, result.tables["lens_example"].frame
    assert lens.query("positions == 'all'").n_tokens.eq(2 * round(0.15 * 10)).all()  # 2 chunks of 12 with a frame of 2
    assert lens.query("state == 3 and positions == 'all'").agreement.item() == 1 and "pooled" not in result.tables
    assert "[MASK]" in set(shown.token) and "at [MASK]" in next(f for f in result.figures if f.name == "logit-lens-example").title
    assert "answers at masked tokens" in result.verdict.claim and "at masked tokens (15 %)" in result.notes["logit lens"]


def test_the_lens_of_two_stacks_ends_in_the_models_own_answer() -> None:
    model = two_stacks()
    corpus = corpus_of(model)
    result = ResidualStream(**SMALL).run(model, corpus)
    lens = result.tables["lens"].frame.query("state == 3 and positions == 'all'")
    inputs = model.tokenize([p.prompt for p in corpus.prompts[:2]], target=[p.target for p in corpus.prompts[:2]])
    assert lens.kl_mean.item() == 0 and lens.agreement.item() == 1 and lens.n_tokens.item() == int(inputs[3].sum())
    shown = result.tables["lens_example"].frame.query("state == 3")
    first = model.tokenize([corpus.prompts[0].prompt], target=[corpus.prompts[0].target])
    assert shown.top_token.tolist() == model.tokenizer.to_str_tokens(model(*first)[0].argmax(-1)) and len(shown) == first[1].shape[1]


def test_without_a_head_two_stacks_leave_out_the_decoder() -> None:
    """It reads its start token alone: nothing is said of its stream."""
    result = ResidualStream(**SMALL).run(model := two_stacks(head="none"), corpus_of(model, targets=False))
    assert set(result.tables["states"].frame["stack"]) == {"encoder"} and "lens" not in result.tables
    assert result.notes["left out"] == "the decoder: its texts hold fewer than 4 tokens" and result.verdict.status == "pass"


def test_a_text_without_lines_is_inconclusive() -> None:
    model = two_stacks()
    empty = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.zeros(0, dtype=torch.long))
    result = ResidualStream().run(model, empty)
    assert (
        result.verdict.status == "inconclusive" and result.figures == () and result.notes["text"].startswith("none: the text has 0 tokens")
    )


@pytest.fixture(scope="module", params=["minilm", "annalog"])
def trained(request: pytest.FixtureRequest) -> tuple[Model, Result]:
    model = load_model(request.param)
    return model, ResidualStream(**SMALL).run(model, load_corpus(model))


def test_trained_models(trained: tuple[Model, Result]) -> None:
    model, result = trained
    assert result.verdict.status == "pass" and result.tables["gates"].frame.measured.max() < 1e-6
    assert "pinned by the norm layers" in result.verdict.claim and result.tables["growth"].frame.rate.isna().all()
    names = {figure.name for figure in result.figures}
    if isinstance(model, EncoderDecoder):
        assert {"norm-encoder", "norm-decoder", "logit-lens-kl-decoder", "pooled-representation-encoder"} <= names
        assert all(figure.title.startswith(("Encoder: ", "Decoder: ")) for figure in result.figures)
        added = next(figure for figure in result.figures if figure.name == "additions-decoder")
        assert isinstance(added, Lines) and list(added.series) == ["attention", "cross-attention", "MLP"]
    else:
        assert {"norm", "pooled-representation"} <= names and not any(name.startswith("logit-lens") for name in names)
        assert result.tables["pooled"].frame.query("state == 5").nearest.eq(1).all()
