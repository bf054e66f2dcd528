"""Does the attention analysis read encoders and both stacks of an encoder-decoder? Planted heads, naive computations, padding on both sides."""

import math

import numpy as np
import pytest
import tokenizers
import torch

from analyses._attention_recording import on_text
from analyses._corpus import Corpus, Prompt, load_corpus
from analyses.attention import Attention
from model import EncoderDecoder, EncoderDecoderConfig, Span, Tokenizer, Transformer, TransformerConfig, load_model
from probes import Edit, intervene, record
from reports import AttentionMap, Heatmap, draw

SHAPE = {"n_layers": 2, "d_model": 16, "n_heads": 4, "n_kv_heads": 2, "d_head": 4, "d_mlp": 32, "d_vocab": 26, "n_ctx": 24}
OPTIONS = {"batch_size": 2, "sink_length": 6, "sink_threshold": 0.3}
SMALL = {"n_chunks": 3, "length": 24, "sink_length": 16}


def sharpened(model: Transformer | EncoderDecoder) -> Transformer | EncoderDecoder:
    """A random head attends evenly: make them differ."""
    for name, parameter in model.requires_grad_(False).named_parameters():
        if ".W_Q." in name:
            parameter.mul_(100)
    return model


def encoder(**choices) -> Transformer:
    config = TransformerConfig(**SHAPE | {"causal": False, "head": "none"} | choices)
    return sharpened(Transformer(config, generator=torch.Generator().manual_seed(0)))


def two_stacks(**choices) -> EncoderDecoder:
    """Two stacks of different sizes, with grouped heads."""
    reader = TransformerConfig(**SHAPE | {"causal": False, "head": "none", "n_layers": 3} | choices)
    writer = TransformerConfig(**SHAPE | {"n_heads": 6, "n_kv_heads": 2} | choices)
    model = EncoderDecoder(EncoderDecoderConfig(encoder=reader, decoder=writer), generator=torch.Generator().manual_seed(0))
    model.tokenizer = letters()
    return sharpened(model)


def letters() -> Tokenizer:
    """One token a letter, ] behind a text, and [ before what is written."""
    vocabulary = {letter: i for i, letter in enumerate("[]abcdefghijklmnopqrstuvwx")}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="x"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="$A ]", special_tokens=[("]", 1)])
    return Tokenizer(backend, eos_id=1, pad_id=1, decoder_start_id=0)


def pairs(*texts: str) -> Corpus:
    prompts = tuple(Prompt(prompt=text, target=text) for text in texts)
    return Corpus(text="", text_source="none", prompts=prompts, prompts_source="made", tokens=torch.zeros(0, dtype=torch.long))


def padded(lengths: list[int], side: str, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    n = max(lengths)
    tokens = torch.randint(2, 26, (len(lengths), n), generator=torch.Generator().manual_seed(seed))
    mask = torch.stack([torch.arange(n) < k if side == "right" else torch.arange(n) >= n - k for k in lengths])
    return tokens, mask


def at_key(offset: int):
    """A pattern in which query i looks at key i + offset, within the keys that there are."""

    def change(pattern: torch.Tensor) -> torch.Tensor:
        n_query, n_key = pattern.shape[-2:]
        planted = torch.zeros_like(pattern)
        planted[..., torch.arange(n_query), (torch.arange(n_query) + offset).clamp(0, n_key - 1)] = 1.0
        return planted

    return change


def on_last_real(mask: torch.Tensor):
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)

    def change(pattern: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(pattern).scatter_(-1, last[: len(pattern), None, None, None].expand(*pattern.shape[:-1], 1), 1.0)

    return change


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"norm_place": "post"},
        {"norm_place": "sandwich"},
        {"norm": "none"},
        {"parallel": True},
        {"d_mlp": 0},
        {"positions": "rotary", "head": "mlm"},
    ],
    ids=["pre", "post", "sandwich", "no norm", "parallel", "no mlp", "mlm"],
)
def test_an_encoder_equals_a_naive_computation_with_padding(choices: dict, side: str) -> None:
    model, (tokens, mask) = encoder(**choices), padded([9, 5, 7], side)
    (measured,) = on_text(model, (tokens, mask), **OPTIONS)
    with record(model, "blocks.1.attn.pattern") as activations:
        model(tokens, mask)
    expected = {
        "entropy_normalised": [],
        "last_token_mass": [],
        "next_token_text": [],
        "entropy_normalised_without_ends": [],
        "distance": [],
    }
    for pattern, real in zip(activations["blocks.1.attn.pattern"].double().numpy(), mask.numpy(), strict=True):
        p = pattern[:, real][:, :, real]  # head query key, no padding
        n = p.shape[-1]
        expected["entropy_normalised"].append((-(p * np.log(p)).sum(-1) / np.log(n)).mean(-1))
        expected["last_token_mass"].append(p[..., -1].mean(-1))
        expected["next_token_text"].append(np.mean([p[:, i, i + 1] for i in range(n - 1)], axis=0))
        rest = p[..., 1:-1] / p[..., 1:-1].sum(-1, keepdims=True)
        expected["entropy_normalised_without_ends"].append((-(rest * np.log(rest)).sum(-1) / np.log(n - 2)).mean(-1))
        expected["distance"].append((p * np.abs(np.arange(n)[:, None] - np.arange(n))).sum((-2, -1)) / n)
    for name, values in expected.items():
        np.testing.assert_allclose(measured.scores[name][1], np.transpose(values), rtol=1e-4, atol=1e-6, err_msg=name)
    assert measured.n_rows == 21 and measured.row_sum_error < 1e-5 and measured.hidden_mass == 0.0


@pytest.mark.parametrize("sides", [("left", "right"), ("right", "left"), ("right", "right")], ids="-".join)
@pytest.mark.parametrize("norm_place", ["pre", "post"])
def test_both_stacks_equal_the_runs_without_padding(sides: tuple[str, str], norm_place: str) -> None:
    model = two_stacks(norm_place=norm_place)
    (source, source_mask), (target, target_mask) = padded([9, 6, 8], sides[0]), padded([5, 7, 4], sides[1], seed=2)
    together = on_text(model, (source, target, source_mask, target_mask), **OPTIONS)
    for i in range(3):
        alone = on_text(model, (source[i : i + 1, source_mask[i]], target[i : i + 1, target_mask[i]]), **OPTIONS)
        for one, other in zip(together, alone, strict=True):
            assert one.kind.key == other.kind.key and list(one.scores) == list(other.scores)
            for name, values in one.scores.items():
                np.testing.assert_allclose(
                    values[..., i], other.scores[name][..., 0], rtol=2e-3, atol=2e-5, err_msg=f"{one.kind.key} {name}"
                )
    assert [one.n_rows for one in together] == [23, 16, 16] and [one.scores["entropy"].shape for one in together] == [
        (3, 4, 3),
        (2, 6, 3),
        (2, 6, 3),
    ]
    assert all(one.hidden_mass == 0.0 and one.row_sum_error < 1e-5 for one in together)


def test_cross_attention_equals_a_naive_computation() -> None:
    model, (source, source_mask), (target, target_mask) = two_stacks(), padded([9, 6], "left"), padded([5, 7], "right", seed=2)
    cross = on_text(model, (source, target, source_mask, target_mask), **OPTIONS)[2]
    with record(model, "decoder.blocks.0.cross_attn.pattern") as activations:
        model(source, target, source_mask, target_mask)
    for b in range(2):
        p = activations["decoder.blocks.0.cross_attn.pattern"][b][:, target_mask[b]][:, :, source_mask[b]].double().numpy()
        n_query, n_key = p.shape[1:]
        line = np.arange(n_query) * (n_key - 1) / (n_query - 1)
        np.testing.assert_allclose(cross.scores["diagonal_share"][0, :, b], (np.abs(p.argmax(-1) - line) <= 1).mean(-1))
        np.testing.assert_allclose(cross.scores["first_token_mass"][0, :, b], p[..., 0].mean(-1), rtol=1e-5)
        np.testing.assert_allclose(cross.scores["entropy"][0, :, b], -(p * np.log(p)).sum(-1).mean(-1), rtol=1e-4)
        i, j = (grid.ravel() for grid in np.indices((n_query, n_key)))
        weighted = [np.cov(i, j, aweights=head.ravel()) for head in p]
        np.testing.assert_allclose(
            cross.scores["monotonicity"][0, :, b], [c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in weighted], atol=1e-4
        )


def test_finds_exactly_the_planted_heads_of_both_stacks() -> None:
    corpus, model = pairs("abcdefgh", "hgfedcba", "jklm", "gattac"), two_stacks()
    source_mask = model.tokenize([p.prompt for p in corpus.prompts])[2]
    planted = [
        Edit("decoder.blocks.1.cross_attn.pattern", at_key(0), heads=[4]),
        Edit("encoder.blocks.2.attn.pattern", on_last_real(source_mask), heads=[3]),
        Edit("decoder.blocks.0.attn.pattern", at_key(-1), heads=[5]),
    ]
    with intervene(model, *planted):
        tables = Attention(n_chunks=4).measure(model, corpus)
    heads = tables["heads"].frame.set_index(["attention", "layer", "head"])
    for column, place, bound in (
        ("monotonicity_without_ends", ("cross", 1, 4), 0.8),
        ("diagonal_share", ("cross", 1, 4), 0.9),
        ("last_token_mass", ("encoder", 2, 3), 0.9),
        ("previous_token_text", ("decoder", 0, 5), 0.9),
    ):
        assert heads[heads[column] > bound].index.tolist() == [place], column
        assert heads[column][place] == pytest.approx(1.0, abs=1e-6)
    verdict = Attention().judge(tables)
    assert "Cross-attention: 1 of 12 heads follow the source monotonically (best cross L1H4, 1.00)" in verdict.claim
    assert {e.name: e.where for e in verdict.evidence}["encoder self-attention: largest mass on the last token"] == "encoder L2H3"
    assert heads.kv_head["encoder"].tolist() == [0, 0, 1, 1] * 3 and heads.kv_head["cross"].tolist() == [0, 0, 0, 1, 1, 1] * 2
    assert heads.next_token_text["decoder"].isna().all() and heads.distance["cross"].isna().all()


def test_the_patterns_of_a_pair_are_rectangular_and_complete() -> None:
    model, corpus = two_stacks(), pairs("abcdefgh", "jklm")
    result = Attention(n_chunks=2).run(model, corpus)
    shown = {figure.name: figure for figure in result.figures if isinstance(figure, AttentionMap)}
    cross, reads = shown["cross-explorer"], shown["encoder-explorer"]
    assert list(cross.queries) == list("[abcdefgh") and list(cross.keys) == list(reads.queries) == list("abcdefgh]")
    source, target = (ids[:1] for ids in model.tokenize(["abcdefgh"], target=["abcdefgh"])[:2])
    with record(model, "decoder.blocks.*.cross_attn.pattern") as activations:
        model(source, target)
    for place, pattern in cross.patterns.items():
        layer, head = (int(i) for i in place[1:].split("H"))
        np.testing.assert_allclose(pattern, activations[f"decoder.blocks.{layer}.cross_attn.pattern"][0, head], atol=5e-4)
    kept = result.tables["patterns"].frame
    assert set(kept["attention"]) == {"encoder", "decoder", "cross"} and list(kept.columns) == [
        "attention",
        "layer",
        "head",
        "blocks",
        "pattern",
    ]
    assert all(draw(figure).lstrip().startswith("<svg") for figure in result.figures)
    for words in ("Encoder self-attention", "Decoder self-attention", "Cross-attention"):
        assert any(figure.title.startswith(words) and isinstance(figure, Heatmap) for figure in result.figures)
    assert len({figure.name for figure in result.figures}) == len(result.figures) and "repeats" not in result.tables


def evenly(pattern: torch.Tensor) -> torch.Tensor:
    return torch.full_like(pattern, 1 / pattern.shape[-1])


@pytest.mark.parametrize(
    "site, change, claim",
    [
        ("encoder.blocks.1.attn", lambda p: 1.5 * p, "encoder self-attention are not probabilities over real tokens: deviation"),
        ("decoder.blocks.1.cross_attn", evenly, "cross-attention are not probabilities over real tokens: mass on a masked token is 0.1"),
        ("decoder.blocks.0.attn", evenly, "decoder self-attention are not probabilities over earlier tokens: mass on a later"),
    ],
    ids=["encoder", "cross", "decoder"],
)
def test_the_gates_hold_for_every_kind(site: str, change, claim: str) -> None:
    model = two_stacks()
    with intervene(model, Edit(f"{site}.pattern", change, heads=[1])):
        verdict = Attention().run(model, pairs("abcdefgh", "jklm")).verdict
    assert verdict.status == "fail" and claim in verdict.claim


def test_a_local_attention_is_held_against_its_window() -> None:
    model, corpus = (
        encoder(span=Span(kind="window", size=3)),
        Corpus(
            text="",
            text_source="made",
            prompts=(),
            prompts_source="none",
            tokens=torch.randint(26, (100,), generator=torch.Generator().manual_seed(1)),
        ),
    )
    with intervene(model, Edit("blocks.*.attn.scores", torch.zeros_like)):  # even attention over the window
        tables = Attention(**SMALL).measure(model, corpus)
        assert tables["heads"].frame.entropy_normalised.tolist() == pytest.approx([1.0] * 8, abs=1e-5)
        assert tables["gates"].frame.set_index("gate").measured["mass on a masked token"] == 0.0
    with intervene(model, Edit("blocks.1.attn.pattern", evenly, heads=[0])):
        assert Attention(**SMALL).run(model, corpus).verdict.status == "fail"


def test_an_untrained_encoder_is_a_warning_and_heads_that_point_are_one() -> None:
    corpus = Corpus(text="", text_source="", prompts=(), prompts_source="none", tokens=torch.arange(100) % 26)
    even = Transformer(encoder().config, generator=torch.Generator().manual_seed(0)).requires_grad_(False)
    verdict = Attention(**SMALL).run(even, corpus).verdict
    assert verdict.status == "warn" and "spread evenly" in verdict.claim
    model = encoder()
    with intervene(model, Edit("blocks.*.attn.pattern", at_key(1))):
        verdict = Attention(**SMALL).run(model, corpus).verdict
    assert verdict.status == "warn" and "single token even without the first and the last one" in verdict.claim
    assert "8 at the next one (best L0H0, 1.00)" in verdict.claim


def test_a_causal_model_without_a_head_is_not_asked_about_repetitions() -> None:
    corpus = Corpus(text="", text_source="", prompts=(), prompts_source="none", tokens=torch.arange(100) % 26)
    result = Attention(**SMALL).run(encoder(causal=True), corpus)
    assert "induction" not in result.tables["heads"].frame and "repeats" not in result.tables
    assert "look at the previous token" in result.verdict.claim and "induction" not in result.verdict.claim
    assert "random tokens" not in result.notes


@pytest.mark.parametrize("model", [encoder(), two_stacks()], ids=["encoder", "two stacks"])
def test_nothing_to_read_is_inconclusive(model) -> None:
    nothing = Corpus(text="", text_source="none", prompts=(), prompts_source="none", tokens=torch.zeros(0, dtype=torch.long))
    result = Attention().run(model, nothing)
    assert result.verdict.status == "inconclusive" and "Nothing was measured" in result.verdict.claim and result.figures == ()


def test_a_target_of_one_token_has_no_monotonicity_and_its_decoder_no_entropy() -> None:
    corpus = Corpus(
        text="",
        text_source="none",
        prompts=(Prompt(prompt="abcd", target=""), Prompt(prompt="efgh", target="")),
        prompts_source="made",
        tokens=torch.zeros(0, dtype=torch.long),
    )
    result = Attention().run(two_stacks(), corpus)
    heads = result.tables["heads"].frame
    assert heads.monotonicity.isna().all() and heads.query("attention == 'decoder'").entropy.isna().all()
    assert all(not math.isnan(e.measured) for e in result.verdict.evidence) and "monotonically" not in result.verdict.claim


def test_trained_models_show_what_is_known_of_them() -> None:
    """MiniLM's layers 1 to 4 rest on [CLS] and [SEP]; a model that copies its source follows it in step."""
    minilm, annalog = load_model("minilm"), load_model("annalog")
    heads = Attention(n_chunks=4, length=32).measure(minilm, load_corpus(minilm))["heads"].frame
    ends = (heads.first_token_mass + heads.last_token_mass).groupby(heads.layer).mean()
    assert ends.loc[1:4].min() > 0.3 > ends.loc[0]
    heads = Attention(n_chunks=4).measure(annalog, load_corpus(annalog))["heads"].frame
    best = heads.loc[heads.monotonicity_without_ends.idxmax()]
    assert best["attention"] == "cross" and best.monotonicity_without_ends > 0.9 and best.diagonal_share_without_ends > 0.8
