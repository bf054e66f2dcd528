"""Does the analysis find what was planted, where it was planted, and refuse what says nothing?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch

from analyses import _patching_measure as measured
from analyses._corpus import Corpus, Prompt, load_corpus
from analyses.patching import ANALYSIS
from model import EncoderDecoder, Tokenizer, Transformer, load_model, wrap
from model.zoo.planted_induction import planted_induction
from probes import Edit, intervene, logit_difference, loss, patch, record
from tests.conftest import hugging_face, interrupted


def letters(n: int) -> Tokenizer:
    """One token a character, from A on."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({chr(65 + i): i for i in range(n)}, unk_token="A"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("."), "isolated")
    return Tokenizer(backend)


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Corpus]:
    """The induction model, on ten texts of different length in which a token comes again, or another stood in its place."""
    model, generator = planted_induction(), torch.Generator().manual_seed(0)
    model.tokenizer = letters(48)
    prompts = []
    for i in range(10):
        text = [chr(65 + t) for t in torch.randperm(48, generator=generator)[:12].tolist()]
        n = 8 + i % 3
        clean = "".join([*text[:n], text[3]])
        prompts.append(Prompt(prompt=clean, corrupt=clean[:3] + text[11] + clean[4:], target=text[4], foil=text[10]))
    return model, Corpus(
        text="", text_source="none", prompts=tuple(prompts), prompts_source="made", tokens=torch.zeros(0, dtype=torch.long)
    )


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_planted_heads_and_places_are_found_and_no_other(planted: tuple[Transformer, Corpus], direction: str) -> None:
    result = ANALYSIS(direction=direction, n_prompts=10).run(*planted)
    heads = result.tables["heads"].frame.set_index(["layer", "head"])["share"]
    truth = [(0, 1), (1, 2)]
    assert heads[truth].tolist() == pytest.approx([1, 1], abs=0.01) and heads.drop(truth).abs().max() < 1e-3
    verb = "restores most" if direction == "denoise" else "breaks most"
    assert result.verdict.status == "pass" and verb in result.verdict.claim and "of 8 heads differ" in result.verdict.claim
    maps = result.tables["maps"].frame
    streams = maps[(maps["part"] == "resid_pre") & (maps["example"] == 0)].set_index(["layer", "position"])["share"]
    assert streams[0, 3] == pytest.approx(1, abs=0.01) and streams[1, 4] == pytest.approx(1, abs=0.01)  # then L0H1 moves it on by one
    assert streams.drop([(0, 3), (1, 4)]).abs().max() < 0.01 and set(maps["example"]) == {0, 1}
    attention = maps[(maps["part"] == "attn_out") & (maps["example"] == 0)].set_index(["layer", "position"])["share"]
    last = len(planted[1].prompts[0].prompt) - 1
    assert {place for place, share in attention.items() if abs(share) > 0.01} == {(0, 4), (1, last)}
    assert {f.name for f in result.figures} == {
        "strongest-heads",
        "heads",
        "circuit",
        *(f"prompt-{i}-{part}" for i in (1, 2) for part in ("resid-pre", "attn-out")),
    }


def test_every_share_is_that_of_a_whole_forward_pass(glasslm: Transformer) -> None:
    """Of prompts of different length, padded together, beside each alone and whole."""
    corpus = load_corpus(glasslm)
    tables = ANALYSIS(n_prompts=5, n_maps=1).measure(glasslm, corpus)
    used = tables["prompts"].frame[tables["prompts"].frame["used"]]
    assert len({len(glasslm.tokenizer.encode(text)) for text in used["prompt"]}) > 1
    gaps, effects = [], []
    for row in used.itertuples():
        (clean, corrupt), ids = (
            (torch.tensor([glasslm.tokenizer.encode(text)]) for text in (row.prompt, row.corrupt)),
            [glasslm.tokenizer.encode(word)[0] for word in (row.target, row.foil)],
        )
        with torch.no_grad(), record(glasslm, "blocks.1.attn.z") as values:
            a = glasslm(clean)[0, -1, ids]
        with torch.no_grad(), intervene(glasslm, Edit("blocks.1.attn.z", patch(values), heads=[3])):
            patched = glasslm(corrupt)[0, -1, ids]
        with torch.no_grad():
            b = glasslm(corrupt)[0, -1, ids]
        differences = [float(x[0] - x[1]) for x in (a, b, patched)]
        effects.append(differences[2] - differences[1])
        gaps.append(differences[0] - differences[1])
        assert (row.clean_metric, row.corrupt_metric) == pytest.approx(differences[:2], abs=1e-4)
    head = tables["heads"].frame.set_index(["layer", "head"]).loc[(1, 3)]
    assert head["share"] == pytest.approx(np.mean(effects) / np.mean(gaps), abs=1e-4) and head["effect"] == pytest.approx(
        np.mean(effects), abs=1e-4
    )
    assert head["n"] == len(used) and (tables["gates"].frame["measured"] <= tables["gates"].frame["bound"]).all()


def test_prompts_that_say_nothing_are_left_out_and_counted(planted: tuple[Transformer, Corpus]) -> None:
    model, corpus = planted
    same = tuple(dataclasses.replace(p, corrupt=p.prompt) for p in corpus.prompts[:3])
    uneven = (dataclasses.replace(corpus.prompts[0], corrupt="ABC"), dataclasses.replace(corpus.prompts[0], foil=None))
    mixed = dataclasses.replace(corpus, prompts=same + uneven + corpus.prompts[3:9])
    analysis = ANALYSIS(n_prompts=9, n_maps=0)
    result = analysis.run(model, mixed)
    left = next(e for e in result.verdict.evidence if e.name.startswith("prompts left out"))
    assert left.measured == 3 and set(result.tables["heads"].frame["n"]) == {6} and result.verdict.status == "pass"
    assert result.notes["prompts"].startswith(
        "9 with a corrupt version of equal length (asked for: 9), of which 6 were used, 3 differ by less"
    )
    assert result.notes["prompts of unequal length"].startswith("1, left out: ")
    nothing = analysis.run(model, dataclasses.replace(corpus, prompts=same))
    assert "prompts of unequal length" not in nothing.notes
    assert nothing.verdict.status == "inconclusive" and nothing.figures == ()
    assert (
        nothing.verdict.claim
        == "None of 3 prompts can be used: with its corrupt version, the metric differs by less than 10 % of the clean one."
    )


def test_verdicts(planted: tuple[Transformer, Corpus]) -> None:
    model, corpus = planted
    tables = dict(ANALYSIS(n_maps=0).measure(model, corpus))

    def judged(**frames: pd.DataFrame):
        return ANALYSIS().judge({**tables, **{name: dataclasses.replace(tables[name], frame=frame) for name, frame in frames.items()}})

    assert judged().status == "pass"
    wrong = judged(gates=tables["gates"].frame.assign(measured=0.5))
    assert wrong.status == "fail" and "clean values into the clean run must leave the metric as it is, and moved it by 0.5" in wrong.claim
    apart = tables["prompts"].frame.assign(clean_metric=np.arange(10) - 4.0, corrupt_metric=0.0)
    assert judged(prompts=apart).status == "inconclusive" and "less than 5 standard errors" in judged(prompts=apart).claim
    one = judged(prompts=tables["prompts"].frame[:1])
    assert one.status == "inconclusive" and "one prompt has no standard error" in one.claim
    flat = judged(heads=tables["heads"].frame.assign(p_family=1.0))
    assert flat.status == "inconclusive" and flat.claim.startswith(
        "No head's share of the logit difference can be told from 0, with all 8 heads"
    )


def test_models_and_prompts_without_an_answer_to_restore() -> None:
    encoder = load_model("minilm")
    result = ANALYSIS().run(encoder, load_corpus(encoder))
    assert (
        result.verdict.status == "inconclusive"
        and result.verdict.claim == "The model writes no next token, so there is no answer to restore."
    )
    annalog = load_model("annalog")
    result = ANALYSIS().run(annalog, load_corpus(annalog))
    assert (
        result.verdict.status == "inconclusive"
        and "No prompt has an answer and a corrupt version with as many tokens" in result.verdict.claim
    )


def test_an_encoder_decoder_reads_a_corrupt_source() -> None:
    """A random T5: heads of both stacks and of cross-attention, and maps of both, are those of whole passes."""
    model: EncoderDecoder = wrap(hugging_face("t5", 0)).requires_grad_(False)
    n = model.config.encoder.d_vocab
    model.tokenizer = dataclasses.replace(letters(min(n, 40)), decoder_start_id=0)
    prompts = tuple(
        Prompt(prompt=a, corrupt=b, target=c) for a, b, c in (("BCDE", "BFDE", "GHI"), ("KLM", "KLN", "OP"), ("QRSTU", "QRXTU", "VWK"))
    )
    corpus = Corpus(text="", text_source="none", prompts=prompts, prompts_source="made", tokens=torch.zeros(0, dtype=torch.long))
    pairs = measured.pairs_of(model, prompts)
    table = measured.heads(model, pairs, "denoise", 0).set_index(["attention", "layer", "head"])
    assert set(table.index.get_level_values(0)) == {"encoder", "decoder", "cross"}
    with torch.no_grad(), record(model, "*attn.z") as values:
        model(*pairs.clean)
    clean, corrupt = loss()(model, pairs.clean), loss()(model, pairs.corrupt)
    for key, site in (
        ("encoder", "encoder.blocks.1.attn.z"),
        ("cross", "decoder.blocks.0.cross_attn.z"),
        ("decoder", "decoder.blocks.1.attn.z"),
    ):
        with intervene(model, Edit(site, patch(values), heads=[1])):
            expected = (loss()(model, pairs.corrupt) - corrupt).mean() / (clean - corrupt).mean()
        layer = int(site.split(".")[2])
        assert table.loc[(key, layer, 1), "share"] == pytest.approx(float(expected), abs=1e-3)
    maps = measured.maps(model, {0: prompts[0]}, "denoise", 24)
    assert set(maps["stack"]) == {"encoder", "decoder"} and set(maps["part"]) == {"resid_pre", "attn_out", "cross_attn_out", "mlp_out"}
    first = maps[(maps["stack"] == "encoder") & (maps["part"] == "resid_pre") & (maps["layer"] == 0)].set_index("corrupt_token")["share"]
    assert first["F"] == pytest.approx(1, abs=1e-3) and first.drop("F").abs().max() < 1e-6
    result = ANALYSIS().run(model, corpus)
    assert result.tables["task"].frame["metric"].iloc[0] == "loss of the target" and result.verdict.claim.endswith(".")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_prompts": 0}, "n_prompts must be at least 1, got 0"),
        ({"n_maps": -1}, "n_maps must be at least 0, got -1"),
        ({"n_positions": 0}, "n_positions must be at least 1, got 0"),
        ({"direction": "both"}, "direction must be denoise or noise, got 'both'"),
    ],
)
def test_parameters_are_checked(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ANALYSIS(**values)


@pytest.mark.filterwarnings("ignore:.*was interrupted")
@pytest.mark.parametrize("call", [1, 3, 5, 9, 20, 30, 40])
def test_an_interrupted_run_has_no_result(planted: tuple[Transformer, Corpus], monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    calls: list[int] = []
    monkeypatch.setattr(measured, "logit_difference", lambda *answers: interrupted(logit_difference(*answers), call, calls))
    with pytest.raises(KeyboardInterrupt):
        ANALYSIS(n_prompts=10).run(*planted)
    assert len(calls) == call
