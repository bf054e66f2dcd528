"""Are the models that prosect trained as good as their cards say, and do they hold the circuits that they were trained for?"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from analyses._corpus import load_corpus
from model import EncoderDecoder, LSTMLanguageModel, Transformer, generate, load_model
from model.training.randomness import generator_of
from model.zoo import data_path, pronunciations, zoo
from model.zoo._contract import WEIGHTS
from model.zoo._course import sha256
from model.zoo.g2p import PHONEMES, measure, pronounce
from model.zoo.induction import N_CTX, random_syllables, repeated
from probes import Edit, intervene, record, zero
from tests.conftest import relative

TRAINED = {name: entry for name, entry in zoo().items() if entry.course is not None}
HALF = N_CTX // 2


@cache
def trained(name: str) -> Transformer | EncoderDecoder | LSTMLanguageModel:
    return load_model(name)


def test_these_are_trained_here() -> None:
    assert sorted(TRAINED) == ["chars", "g2p", "induction", "lstm", "mlm"] == sorted(p.name for p in WEIGHTS.iterdir() if p.is_dir())
    assert sum(path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()) < 8e6


@pytest.mark.parametrize("name", TRAINED)
def test_the_card_says_what_is_there(name: str) -> None:
    entry, card, model = zoo()[name], zoo()[name].card(), trained(name)
    assert card["name"] == name and card["licence"] == entry.licence and card["method"] == entry.course.method
    assert card["recipe"] == json.loads(json.dumps(asdict(entry.course.recipe))) and card["seconds"] < 15 * 60
    assert card["n_parameters"] == sum(p.numel() for p in model.parameters())
    assert card["data"] == {file: sha256(data_path(file)) for file in entry.course.data}
    assert model.source.kind == "package" and model.source.licence == entry.licence and model.source.files == (entry.path(),)
    with safe_open(entry.path(), framework="pt") as file:
        assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float16"} == {"torch." + card["stored_as"]}
    assert model.dtype == torch.float32 and load_model(name, dtype=torch.float64).dtype == torch.float64
    assert not model.training and not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", ["chars", "induction", "lstm", "mlm"])
def test_measured_again_it_is_as_good_as_the_card_says(name: str) -> None:
    card, quality = zoo()[name].card()["quality"], zoo()[name].course.measure(trained(name), None)
    assert list(quality) == list(card)
    for key, value in quality.items():
        assert value == pytest.approx(card[key], rel=2e-3), key


# ---------------------------------------------------------------------------------------------------------- g2p


def test_g2p_says_two_hundred_words_that_it_has_not_seen() -> None:
    quality = measure(trained("g2p"), 200)
    assert quality["n_held_out_words"] == 200 and quality["phoneme_error_rate"] <= 0.15
    assert zoo()["g2p"].card()["quality"]["phoneme_error_rate"] <= 0.15
    assert zoo()["g2p"].card()["quality"]["n_held_out_words"] == len(pronunciations("held out"))


def test_the_error_rate_is_that_of_the_answers() -> None:
    words = pronunciations("held out")
    twelve = list(words)[:: len(words) // 12][:12]
    exact = sum(said in words[word] for word, said in zip(twelve, pronounce(trained("g2p"), twelve), strict=True))
    assert measure(trained("g2p"), 12)["word_error_rate"] == pytest.approx(1 - exact / 12)


def test_g2p_reads_letters_and_writes_phonemes() -> None:
    model = trained("g2p")
    assert generate(model, ["cat"], n_new=10).texts == ("K AE T",) == generate(model, ["CAT"], n_new=10).texts
    source, target, source_mask, target_mask = model.tokenize(["prosect", "cat"], target=["P R AA", "K AE T"])
    assert source.shape == (2, 8) and source_mask.sum(1).tolist() == [8, 4] and target.shape == (2, 4) and target_mask.all()
    assert model.tokenizer.to_str_tokens(source[1]) == ["c", "a", "t", "<eos>", *["<pad>"] * 4]
    assert model.target_tokenizer.to_str_tokens(target[1]) == ["<bos>", "K", "AE", "T"]
    assert model.tokenizer.encode("é1") == [model.tokenizer.backend.token_to_id("<unk>")] * 2
    written = model(source, target, source_mask, target_mask)[1].argmax(-1)
    assert model.target_tokenizer.to_str_tokens(written) == ["K", "AE", "T", "<eos>"]


def test_g2p_does_not_mind_padding() -> None:
    model, words = trained("g2p"), ["cat", "pronunciation", "whale"]
    alone = [generate(model, [word], n_new=20).texts[0] for word in words]
    assert list(generate(model, words, n_new=20).texts) == alone and set(" ".join(alone).split()) <= set(PHONEMES)
    said = ["K AE T", "P R AH", "W EY L Z"]
    left, right = (model.tokenize(words, target=said, pad=side) for side in ("left", "right"))
    assert relative(model(*left)[left[3]], model(*right)[right[3]]) < 1e-5


def test_g2p_looks_at_the_letter_that_it_says() -> None:
    """Cross-attention follows the word: the mean letter attended to grows along the word."""
    model = trained("g2p")
    inputs = model.tokenize(["mississippi"], target=["M IH S IH S IH P IY"])
    with record(model, "decoder.blocks.*.cross_attn.pattern") as activations:
        model(*inputs)
    patterns = torch.cat([activations[f"decoder.blocks.{i}.cross_attn.pattern"][0] for i in range(3)])  # head query key
    centre = patterns @ torch.arange(patterns.shape[-1], dtype=torch.float)
    slopes = [float(torch.corrcoef(torch.stack((row, torch.arange(9.0))))[0, 1]) for row in centre]
    assert max(slopes) > 0.95


# ---------------------------------------------------------------------------------------------------- induction


def attention_scores(model: Transformer, tokens: Tensor) -> tuple[dict, dict]:
    """Mean attention to the token before; and, in the second half, to the one behind the earlier occurrence (Olsson et al. 2022)."""
    with record(model, "blocks.*.attn.pattern") as activations:
        model(tokens)
    previous, matching = {}, {}
    for layer in range(2):
        for head in range(4):
            pattern = activations[f"blocks.{layer}.attn.pattern"][:, head]
            previous[layer, head] = float(pattern.diagonal(-1, 1, 2).mean())
            matching[layer, head] = float(pattern.diagonal(1 - HALF, 1, 2)[:, 1:].mean())
    return previous, matching


@pytest.fixture(scope="module")
def fresh() -> Tensor:
    return repeated(64, HALF, generator_of(77, "fresh"))


def second_half(model: Transformer, tokens: Tensor) -> float:
    return float(F.cross_entropy(model(tokens)[:, HALF:-1].flatten(0, 1), tokens[:, HALF + 1 :].flatten()))


def test_induction_has_both_heads_of_the_circuit(fresh: Tensor) -> None:
    previous, matching = attention_scores(trained("induction"), fresh)
    assert max(score for (layer, _), score in previous.items() if layer == 0) > 0.5
    assert max(score for (layer, _), score in matching.items() if layer == 1) > 0.5
    assert max(score for (layer, _), score in matching.items() if layer == 0) < 0.2  # one layer cannot
    apart = random_syllables(64, N_CTX, generator_of(78, "apart"))
    assert max(attention_scores(trained("induction"), apart)[1].values()) < 0.1  # nor is it the distance


def test_the_previous_token_head_feeds_the_induction_heads(fresh: Tensor) -> None:
    model = trained("induction")
    previous, matching = attention_scores(model, fresh)
    feeder = max((head for head in previous if head[0] == 0), key=previous.get)
    inductor = max(matching, key=matching.get)
    with intervene(model, Edit("blocks.0.attn.z", zero(), heads=[feeder[1]])):
        broken = second_half(model, fresh)
        assert attention_scores(model, fresh)[1][inductor] < matching[inductor] / 2
    assert broken > 5 * second_half(model, fresh)


def test_induction_knows_nothing_where_nothing_is_repeated(fresh: Tensor) -> None:
    model = trained("induction")
    assert (
        zoo()["induction"].card()["quality"]["second_half_over_first"] < 0.1 and zoo()["induction"].card()["quality"]["n_sequences"] >= 256
    )
    assert (
        second_half(model, fresh) < 0.5 < math.log(256) - 0.2 < second_half(model, random_syllables(64, N_CTX, generator_of(79, "apart")))
    )


def test_induction_answers_its_prompts() -> None:
    corpus = load_corpus(trained("induction"))
    assert corpus.text_source == "shipped: syllables.txt" and len(corpus.contrasts()) == 16
    model, right, swapped = trained("induction"), 0, 0
    for prompt in corpus.contrasts():
        target, foil = (model.tokenizer.encode(word)[0] for word in (prompt.target, prompt.foil))
        clean, corrupt = (model(*model.tokenize([text]))[0, -1] for text in (prompt.prompt, prompt.corrupt))
        right += bool(clean[target] > clean[foil] + 2)
        swapped += bool(corrupt[foil] > corrupt[target] + 2)
    assert right >= 15 and swapped >= 15


# ------------------------------------------------------------------------------------- models of prose


def test_mlm_beats_the_frequencies_of_words() -> None:
    quality = zoo()["mlm"].card()["quality"]
    assert quality["held_out_nats_per_masked_token"] < quality["unigram_nats_per_masked_token"] - 0.4
    assert quality["held_out_accuracy"] > 2 * quality["unigram_accuracy"]


def test_mlm_reads_both_sides() -> None:
    model = trained("mlm")
    inputs = model.tokenize(["the captain of the [MASK] .", "a whale"], pad="left")
    assert model.tokenizer.to_str_tokens(inputs[0][0])[0] == "[CLS]" and inputs[1].sum(1).tolist() == [8, 4]
    alone = model.tokenize(["the captain of the [MASK] ."])
    assert relative(model(*inputs)[0, inputs[1][0]], model(*alone)[0]) < 1e-5
    place = int((alone[0] == model.tokenizer.backend.token_to_id("[MASK]")).nonzero()[0, 1])
    other = alone[0].clone()
    other[0, place + 1] = model.tokenizer.encode("and")[0]
    assert not torch.allclose(model(other, None)[0, place], model(*alone)[0, place], atol=1e-2)


def test_the_twins_beat_pairs_of_letters_and_differ_in_nothing_but_the_network() -> None:
    cards = {name: zoo()[name].card() for name in ("chars", "lstm")}
    for card in cards.values():
        assert card["quality"]["held_out_nats_per_character"] < card["quality"]["bigram_nats_per_character"] - 0.3
    assert abs(cards["chars"]["n_parameters"] / cards["lstm"]["n_parameters"] - 1) < 0.05
    assert all(cards["chars"][key] == cards["lstm"][key] for key in ("recipe", "data", "method"))
    (ours, _), (theirs, _) = (zoo()[name].course.lessons(trained(name), 0) for name in cards)
    assert len(ours) == len(theirs) and all(torch.equal(ours[i][0], theirs[i][0]) for i in (0, 1, len(ours) - 1))
    assert isinstance(trained("chars"), Transformer) and isinstance(trained("lstm"), LSTMLanguageModel)
    text = "Call me Ishmael — ☃"
    assert trained("chars").tokenizer.encode(text) == trained("lstm").tokenizer.encode(text)


def test_chars_writes_words() -> None:
    model = trained("chars")
    known = set(data_path("prose.txt").read_text(encoding="utf-8").split())
    words = generate(model, ["The old captain "], n_new=100).texts[0].split()[:-1]
    assert len(words) > 10 and sum(word in known for word in words) / len(words) > 0.7


@pytest.mark.parametrize("name", TRAINED)
def test_text_and_prompts_suit_it(name: str) -> None:
    entry, model = zoo()[name], trained(name)
    ids = model.tokenizer.encode(data_path(entry.text).read_text(encoding="utf-8")[:2000])
    unknown = {model.tokenizer.backend.token_to_id(token) for token in ("<unk>", "[UNK]")} - {None}
    line_ends = data_path(entry.text).read_text(encoding="utf-8")[:2000].count("\n") if name == "g2p" else 0
    assert len(ids) > 200 and sum(i in unknown for i in ids) <= line_ends


def test_weights_that_are_gone(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("model.zoo._contract.WEIGHTS", tmp_path)
    with pytest.raises(ValueError, match="weights of g2p are not installed; get them with: python -m model.zoo train g2p --out g2p"):
        load_model("g2p")
    assert zoo()["g2p"].card() is None
