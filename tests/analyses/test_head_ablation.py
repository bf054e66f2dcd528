"""Does head ablation find the head that was planted, and only that one? And does it say nothing where nothing can be said?"""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch

from analyses import _head_ablation_measure as measured
from analyses._corpus import Corpus, Prompt, load_corpus, tokenize_prompts
from analyses._examples import examples, text_task
from analyses._head_ablation_measure import summary
from analyses._rank_correlation import rank_correlation
from analyses._sign_flip import family_wise_p
from analyses.head_ablation import ANALYSIS
from model import (
    EncoderDecoder,
    Tokenizer,
    Transformer,
    TransformerConfig,
    load_model,
    wrap,
)
from probes import Edit, intervene, logit_difference, loss, record, zero
from tests.conftest import hugging_face, interrupted

ALL = ("zero", "mean", "resample")


@pytest.fixture(scope="module")
def model(glasslm: Transformer) -> Transformer:
    """GlassLM in which every head but L1H2 writes nothing."""
    planted = copy.deepcopy(glasslm)
    d_head = planted.config.d_head
    with torch.no_grad():
        for layer, block in enumerate(planted.blocks):
            for head in range(planted.config.n_heads):
                if (layer, head) != (1, 2):
                    block.attn.W_O.weight[:, head * d_head : (head + 1) * d_head] = 0
        planted.blocks[1].attn.W_O.weight *= 3
    return planted


def corpus_that_works(model: Transformer, n: int = 14) -> Corpus:
    """Prompts whose target is what the model prefers, foil what it likes least: a task that it does."""
    corpus = load_corpus(model)
    starts = [p.prompt for p in corpus.prompts][:n]
    tokens, mask = model.tokenize(starts)
    with torch.no_grad():
        logits = model(tokens, mask)[torch.arange(len(starts)), mask.sum(1) - 1]
    words = [
        [w for w in (model.tokenizer.decode([i]) for i in order) if len(model.tokenizer.encode(w)) == 1]
        for order in logits.argsort(-1, descending=True).tolist()
    ]
    prompts = tuple(
        Prompt(prompt=p, target=w[0], foil=w[len(w) // 2], corrupt=" ".join(["He", *p.split()[1:]]))
        for p, w in zip(starts, words, strict=True)
    )
    return dataclasses.replace(corpus, prompts=prompts)


def test_the_planted_head_is_found_and_no_other(model: Transformer) -> None:
    result = ANALYSIS(ablations=("zero", "mean"), n_prompts=14, n_chunks=8).run(model, corpus_that_works(model))
    effects = result.tables["effects"].frame
    others = effects[(effects["layer"] != 1) | (effects["head"] != 2)]
    planted = effects[(effects["layer"] == 1) & (effects["head"] == 2)]
    assert others["effect"].abs().max() < 1e-4 < planted["effect"].abs().min()
    assert result.verdict.status in ("pass", "inconclusive")
    assert {e.where for e in result.verdict.evidence if e.name.startswith("largest effect")} == {"L1H2"}


def test_every_effect_is_that_of_a_whole_forward_pass(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    prompts = [p for p in corpus.contrasts() if p.corrupt is not None][:4]
    corpus = dataclasses.replace(corpus, prompts=tuple(prompts))
    effects = (
        ANALYSIS(ablations=ALL, n_chunks=0).measure(glasslm, corpus)["effects"].frame.set_index(["ablation", "layer", "head"])["effect"]
    )
    inputs, corrupt = tokenize_prompts(glasslm, prompts), tokenize_prompts(glasslm, prompts, corrupt=True)
    metric = logit_difference([p.target for p in prompts], [p.foil for p in prompts])
    with torch.no_grad(), record(glasslm, "blocks.2.attn.z") as own:
        glasslm(*inputs)
    with torch.no_grad(), record(glasslm, "blocks.2.attn.z") as other:
        glasslm(*corrupt)
    z = own["blocks.2.attn.z"]
    replaced = {"zero": torch.zeros_like(z), "mean": z[inputs[1]].mean(0).expand_as(z), "resample": other["blocks.2.attn.z"]}
    clean = metric(glasslm, inputs)
    for (kind, values), head in itertools.product(replaced.items(), range(4)):
        with intervene(glasslm, Edit("blocks.2.attn.z", lambda value, values=values: values, heads=[head])):
            expected = float((metric(glasslm, inputs) - clean).mean())
        assert effects[kind, 2, head] == pytest.approx(expected, abs=2e-5)


def test_resampling_from_the_same_prompt_changes_nothing_and_unpaired_prompts_are_left_out(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    same = dataclasses.replace(
        corpus,
        prompts=tuple(dataclasses.replace(p, corrupt=p.prompt) for p in corpus.contrasts(5))
        + (Prompt(prompt="Alice said", target=" she", foil=" he", corrupt="Alice was so much surprised that"),),
    )
    analysis = ANALYSIS(ablations=("resample",), n_chunks=0)
    effects = analysis.measure(glasslm, same)["effects"].frame
    assert (effects["effect"].abs() < 1e-5).all() and set(effects["n"]) == {5}
    assert analysis.notes(glasslm, same)["prompts"].startswith("6 prompts with target and foil, 5 of them")
    unpaired = dataclasses.replace(corpus, prompts=tuple(dataclasses.replace(p, corrupt=None) for p in corpus.contrasts(3)))
    assert analysis.measure(glasslm, unpaired)["effects"].frame.empty


def test_a_no_op_and_the_first_prompt_are_reported(glasslm: Transformer) -> None:
    result = ANALYSIS(n_prompts=3, n_chunks=2, ablations=("mean",), loss_ablations=("mean",)).run(glasslm, load_corpus(glasslm))
    gate = result.tables["gates"].frame.iloc[0]
    assert gate["measured"] <= gate["bound"] < 1e-3
    first = next(e for e in result.verdict.evidence if e.name == "clean logit difference of the first prompt")
    assert (
        first.measured == pytest.approx(float(result.tables["prompts"].frame["clean"].iloc[0]))
        and first.where == load_corpus(glasslm).prompts[0].prompt
    )
    assert {f.name for f in result.figures} == {"strongest-heads", "map-logit-difference-mean", "map-loss-mean"}


def judged(effect: np.ndarray, clean: np.ndarray, no_op: float = 0.0):
    """The verdict on made-up effects, Float[heads prompts]."""
    tables = dict(ANALYSIS(n_prompts=1, n_chunks=0, ablations=("mean",)).measure(*TINY()))
    rows = pd.DataFrame(
        [{"site": f"blocks.{h // 2}.attn.z", "layer": h // 2, "head": h % 2, "effect": e, "clean": c} for h, row in enumerate(effect) for e, c in zip(row, clean, strict=True)]
    )
    frames = {
        "effects": pd.DataFrame(summary("mean", "logit_difference", rows, 0)),
        "gates": pd.DataFrame({"gate": ["a head's output times 1"], "measured": [no_op], "bound": [1e-4]}),
        "prompts": pd.DataFrame(
            {"example": range(len(clean)), "prompt": "p", "target": "a", "foil": "b", "clean": clean, "corrupt": np.nan}
        ),
    }
    return ANALYSIS().judge({**tables, **{name: dataclasses.replace(tables[name], frame=frame) for name, frame in frames.items()}})


def TINY() -> tuple[Transformer, Corpus]:
    model = Transformer(
        TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5),
        generator=torch.Generator().manual_seed(0),
    )
    return model, Corpus(
        text="",
        text_source="made up",
        prompts=(),
        prompts_source="none",
        tokens=torch.randint(10, (40,), generator=torch.Generator().manual_seed(1)),
    )


def test_verdicts() -> None:
    noise = np.random.default_rng(0).normal(size=(4, 12)) * 0.1
    planted = noise.copy()
    planted[3] -= 2
    clean = np.linspace(3, 5, 12)
    assert judged(planted, clean).status == "pass" and judged(planted, clean).claim.startswith(
        "L1H1 matters most for the logit difference: mean ablation changes 4.00 logits by -"
    )
    assert judged(noise, clean).status == "inconclusive"
    assert judged(planted, clean - 4).status == "inconclusive" and "cannot be said to do the task" in judged(planted, clean - 4).claim
    assert (
        judged(planted[:, :1], clean[:1]).status == "inconclusive"
        and "one prompt has no standard error" in judged(planted[:, :1], clean[:1]).claim
    )
    assert judged(planted, clean, no_op=0.5).status == "fail"


def test_a_model_without_a_tokenizer_and_nothing_at_all() -> None:
    model, corpus = TINY()
    result = ANALYSIS(loss_ablations=ALL).run(model, corpus)
    assert result.verdict.status == "inconclusive" and "no prompt with target and foil" in result.verdict.claim
    assert result.notes["text"].startswith("4 chunks of 5 tokens") and set(result.tables["effects"].frame["metric"]) == {"loss"}
    empty = ANALYSIS().run(model, dataclasses.replace(corpus, tokens=corpus.tokens[:0]))
    assert empty.verdict.status == "inconclusive" and empty.figures == () and empty.verdict.evidence == ()
    one = ANALYSIS(n_chunks=1, loss_ablations=ALL).run(model, corpus)
    assert set(one.tables["effects"].frame["ablation"]) == {"zero", "mean"} and one.tables["effects"].frame["low"].isna().all()


def test_the_same_seed_gives_the_same_numbers(glasslm: Transformer) -> None:
    corpus = load_corpus(glasslm)
    runs = [ANALYSIS(n_prompts=4, loss_ablations=("resample",), seed=3).measure(glasslm, corpus) for _ in range(2)]
    assert all(runs[0][name].frame.equals(runs[1][name].frame) for name in runs[0])


def test_family_wise_p_is_the_enumeration_and_keeps_its_level() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(3, 5)) + 0.5
    statistic = lambda x: np.abs(x.sum(-1)) / np.sqrt((x**2).sum(-1))  # noqa: E731
    largest = np.array([statistic(values * np.array(s)).max() for s in itertools.product((1, -1), repeat=5)])
    expected = [(largest >= s - 1e-12).mean() for s in statistic(values)]
    np.testing.assert_allclose(family_wise_p(values, seed=0), expected)
    false = sum(family_wise_p(generator.normal(size=(30, 9)), seed=0).min() < 0.05 for _ in range(200))
    assert false <= 20  # 5 % of 200 is 10
    assert np.isnan(family_wise_p(values[:, :1], seed=0)).all() and (family_wise_p(np.zeros((2, 4)), seed=0) == 1).all()


def test_rank_correlation() -> None:
    assert rank_correlation(np.array([1.0, 2, 2, 9]), np.array([4.0, 3, 3, 1])) == -1.0
    assert np.isnan(rank_correlation(np.ones(4), np.arange(4.0))) and np.isnan(rank_correlation(np.arange(2.0), np.arange(2.0)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be at least 1, got 0"),
        ({"n_chunks": -1}, "n_chunks must be at least 0, got -1"),
        ({"length": 1}, "length must be at least 2, got 1"),
        ({"ablations": ("none",)}, "ablations must be among zero, mean, resample, got 'none'"),
        ({"loss_ablations": ()}, r"loss_ablations must name each ablation once and at least one, got \[\]"),
    ],
)
def test_parameters_are_checked(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**values)


@pytest.fixture(scope="module")
def annalog() -> EncoderDecoder:
    return load_model("annalog")


def test_the_planted_head_of_an_encoder_decoder(annalog: EncoderDecoder) -> None:
    """All heads of both stacks write nothing but one of cross-attention: its effect is that of a whole pass, all others have none."""
    model = copy.deepcopy(annalog)
    kept = {"encoder.blocks.0.attn": 3, "decoder.blocks.1.cross_attn": 5}
    with torch.no_grad():
        for name, module in model.named_modules():
            if name.endswith("attn"):
                columns = torch.arange(256) // 32 != kept.get(name, -1)
                module.W_O.weight[:, columns] = 0
    result = ANALYSIS(n_prompts=5, loss_ablations=("zero", "mean")).run(model, load_corpus(annalog))
    effects = result.tables["effects"].frame
    planted = ((effects["attention"] == "cross") & (effects["layer"] == 1) & (effects["head"] == 5)) | (
        (effects["attention"] == "encoder") & (effects["layer"] == 0) & (effects["head"] == 3)
    )
    assert len(effects) == 2 * 72 and effects[~planted]["effect"].abs().max() < 1e-5 < effects[planted]["effect"].abs().min()
    inputs = examples(model, load_corpus(annalog), 5, 16)
    with intervene(model, Edit("decoder.blocks.1.cross_attn.z", zero(), heads=[5])):
        edited = loss()(model, inputs)
    expected = float((edited - loss()(model, inputs)).mean())
    row = effects[planted & (effects["attention"] == "cross") & (effects["ablation"] == "zero")]
    assert float(row["effect"].iloc[0]) == pytest.approx(expected, abs=1e-5)
    assert {"map-encoder-loss-zero", "map-decoder-loss-zero", "map-cross-loss-zero"} <= {figure.name for figure in result.figures}
    assert result.verdict.status in ("pass", "inconclusive") and "decoder" not in result.verdict.claim


def test_an_encoder_without_a_head_is_judged_by_its_output(tmp_path) -> None:
    model = load_model("minilm")
    result = ANALYSIS(n_chunks=3, loss_ablations=("zero", "resample")).run(model, load_corpus(model))
    effects = result.tables["effects"].frame
    assert set(effects["metric"]) == {"representation_shift"} and (effects["effect"] >= -1e-9).all() and effects["p_family"].isna().all()
    inputs = examples(model, load_corpus(model), 3, 16)
    assert (inputs[0][:, 0] == 101).all() and (inputs[0][:, -1] == 102).all()  # [CLS] … [SEP]
    clean = model(*inputs).mean(1)
    with intervene(model, Edit("blocks.5.attn.z", zero(), heads=[7])):
        expected = 1 - torch.cosine_similarity(model(*inputs).mean(1), clean, dim=-1)
    row = effects[(effects["layer"] == 5) & (effects["head"] == 7) & (effects["ablation"] == "zero")]
    assert float(row["effect"].iloc[0]) == pytest.approx(float(expected.mean()), abs=1e-5)
    assert result.verdict.status == "pass" and "moves the pooled output most" in result.verdict.claim


def test_masked_tokens_are_the_task_of_a_masked_language_model() -> None:
    """A BERT of random weights: the loss of what was masked, and of nothing else."""
    model = wrap(hugging_face("bert", 0)).requires_grad_(False)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.add_special_tokens(words[:5])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    model.tokenizer = Tokenizer(backend, pad_id=0)
    text = "the quick brown fox jumps over a lazy dog " * 4
    tokens = torch.tensor(model.tokenizer.encode(text.replace(" ", "")))
    corpus = Corpus(text=text, text_source="made", prompts=(), prompts_source="none", tokens=tokens)
    task = text_task(model, corpus, 4, 12)
    (tokens,) = task.inputs
    plain, masked = examples(model, corpus, 4, 12)[0], tokens == 4
    assert masked.sum(1).tolist() == [2] * 4 and torch.equal(tokens[~masked], plain[~masked]) and not masked[:, [0, -1]].any()
    log_p = model(tokens).log_softmax(-1).gather(-1, plain.unsqueeze(-1))[..., 0]
    torch.testing.assert_close(task.metric(model, task.inputs), -(log_p * masked).sum(1) / 2)
    result = ANALYSIS(n_chunks=4, length=12, loss_ablations=("mean",)).run(model, corpus)
    assert set(result.tables["effects"].frame["metric"]) == {"masked_loss"} and result.figures[0].name == "strongest-heads"


@pytest.mark.filterwarnings("ignore:.*was interrupted")
@pytest.mark.parametrize("call", [2, 4, 10, 20])
def test_an_interrupted_run_has_no_result(model: Transformer, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(measured, "logit_difference", lambda *answers: interrupted(logit_difference(*answers), call, calls))
    with pytest.raises(KeyboardInterrupt):
        ANALYSIS(ablations=("zero", "mean"), n_prompts=4, n_chunks=2).run(model, corpus_that_works(model, 4))
    assert len(calls) == call
