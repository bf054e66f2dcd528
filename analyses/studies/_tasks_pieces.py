"""Which pieces does a text fall into? Byte pairs and word pieces as the library makes them, and the same by a rule that is written out.

All of them read the same words: lower case, cut at blanks and around punctuation, letters inside a word marked by ##.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from functools import cache
from typing import Literal, get_args

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from model.training import train_wordpiece
from model.zoo._prose import halves

INNER, UNKNOWN = "##", "[UNK]"
Rule = Literal["frequency", "likelihood", "mutual information"]
Cut = Callable[[str], list[str]]
"""word → its pieces"""


@cache
def words(half: int) -> tuple[str, ...]:
    """The words of the prose that is learnt from (0) or held out (1), in order."""
    text = normalizers.BertNormalizer(lowercase=True).normalize_str(halves()[half])
    return tuple(word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text))


def letters_of(word: str) -> list[str]:
    """The smallest pieces of a word.

    >>> letters_of("cat")
    ['c', '##a', '##t']
    """
    return [letter if i == 0 else INNER + letter for i, letter in enumerate(word)]


def library_wordpiece(d_vocab: int) -> tuple[tuple[str, ...], Cut]:
    """The pieces of two letters or more, as they were learnt, that `tokenizers`' WordPieceTrainer takes, and how they cut: longest match first."""
    backend = train_wordpiece([halves()[0]], d_vocab).backend
    vocab = backend.get_vocab()
    return merged(vocab), longest_match(vocab)


def library_bpe(d_vocab: int) -> tuple[tuple[str, ...], Cut]:
    """The same of its BpeTrainer, which cuts by its merges in their order; d_vocab counts WordPiece's five special tokens, too."""
    alphabet = sorted({letter for word in words(0) for letter in letters_of(word)[1:]})
    learner = tokenizers.Tokenizer(models.BPE(continuing_subword_prefix=INNER))
    learner.normalizer, learner.pre_tokenizer = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=d_vocab - 5, special_tokens=alphabet, continuing_subword_prefix=INNER, show_progress=False)
    learner.train_from_iterator([halves()[0]], trainer)
    learnt = json.loads(learner.to_str())["model"]
    model = models.BPE(
        vocab={**learnt["vocab"], UNKNOWN: len(learnt["vocab"])}, merges=[tuple(pair) for pair in learnt["merges"]],
        continuing_subword_prefix=INNER, unk_token=UNKNOWN,
    )  # fmt: skip
    return merged(learnt["vocab"]), lambda word: [token.value for token in model.tokenize(word)]


def longest_match(vocab: Mapping[str, int]) -> Cut:
    """The longest piece that fits, then the longest that fits behind it.

    >>> longest_match({"[UNK]": 0, "c": 1, "ca": 2, "##t": 3, "##at": 4})("cat")
    ['ca', '##t']
    """
    model = models.WordPiece(dict(vocab), unk_token=UNKNOWN, max_input_chars_per_word=200)
    return lambda word: [token.value for token in model.tokenize(word)]


def merged(vocab: Mapping[str, int]) -> tuple[str, ...]:
    """The pieces that are no single letter and have no role, by their numbers."""
    ordered = sorted(vocab, key=vocab.__getitem__)
    return tuple(piece for piece in ordered if len(piece.removeprefix(INNER)) > 1 and not (piece.startswith("[") and piece.endswith("]")))


def pieces_by(rule: Rule, n_merges: int) -> tuple[str, ...]:
    """The pieces that n merges give, each of the pair that stands first by the rule; ties go to the pair first in the alphabet.

    `frequency` is the count of the pair (Sennrich et al. 2016); `likelihood` the gain in log-likelihood of the whole text under
    a unigram model of its pieces, computed exactly (Schuster & Nakajima 2012); `mutual information` the count over the product
    of the counts of the two, the score that is often taught for WordPiece.
    """
    text = _Text()
    for _ in range(n_merges):
        if not text.pairs:
            break
        text.merge(max(text.pairs, key=lambda pair: (_score(rule, text, pair), _last_first(pair))))
    return tuple(text.made)


@cache
def followed(pieces: tuple[str, ...]) -> dict[Rule, float]:
    """Of pieces in the order in which they were learnt: the share whose pair stood first by each rule when it was merged.

    Pairs that stand there together all count, so that it does not matter how a library breaks ties. Where several pairs give the
    piece, the most frequent one was merged. Raises ValueError for a piece that no two neighbours give.

    >>> pieces = library_bpe(150)[0]
    >>> followed(pieces)["frequency"]
    1.0
    """
    text, first = _Text(), Counter[Rule]()
    for piece in pieces:
        pair = max((pair for pair in text.pairs if _joined(pair) == piece), key=text.pairs.__getitem__, default=None)
        if pair is None:
            raise ValueError(f"no two neighbours of the text give the piece {piece!r} after {len(text.made)} merges")
        for rule in get_args(Rule):
            best = max(_score(rule, text, other) for other in text.pairs)
            first[rule] += _score(rule, text, pair) >= best - 1e-9 * abs(best)
        text.merge(pair)
    return {rule: first[rule] / len(pieces) for rule in get_args(Rule)}


def _joined(pair: tuple[str, str]) -> str:
    return pair[0] + pair[1].removeprefix(INNER)


class _Text:
    """The words of the prose as they are cut at the moment, with the counts of pieces and of neighbours."""

    def __init__(self) -> None:
        kinds = Counter(words(0))
        self.cut, self.times = [letters_of(word) for word in kinds], list(kinds.values())
        self.pieces: Counter[str] = Counter()
        self.pairs: Counter[tuple[str, str]] = Counter()
        self.where: dict[tuple[str, str], set[int]] = defaultdict(set)
        self.made: list[str] = []
        self.n_pieces = 0
        for i in range(len(self.cut)):
            self._count(i, 1)

    def merge(self, pair: tuple[str, str]) -> None:
        """Join the pair wherever it stands."""
        whole = _joined(pair)
        self.made.append(whole)
        for i in sorted(self.where.pop(pair)):
            self._count(i, -1)
            old, new = self.cut[i], []
            for piece in old:
                new = [*new[:-1], whole] if new and (new[-1], piece) == pair else [*new, piece]
            self.cut[i] = new
            self._count(i, 1)
        self.pairs.pop(pair, None)

    def _count(self, i: int, sign: int) -> None:
        cut, times = self.cut[i], sign * self.times[i]
        self.n_pieces += len(cut) * times
        for piece in cut:
            self.pieces[piece] += times
        for pair in zip(cut[:-1], cut[1:], strict=True):
            self.pairs[pair] += times
            if self.pairs[pair] == 0:
                del self.pairs[pair]
            if sign > 0:
                self.where[pair].add(i)


def _score(rule: Rule, text: _Text, pair: tuple[str, str]) -> float:
    both, first, second = text.pairs[pair], text.pieces[pair[0]], text.pieces[pair[1]]
    if rule == "frequency":
        return both
    if rule == "mutual information":
        return both / (first * second)
    n = text.n_pieces
    if pair[0] == pair[1]:
        return _nln(first - 2 * both) + _nln(both) - _nln(n - both) - _nln(first) + _nln(n)
    return _nln(first - both) + _nln(second - both) + _nln(both) - _nln(n - both) - _nln(first) - _nln(second) + _nln(n)


def _nln(n: float) -> float:
    return n * math.log(n) if n > 0 else 0.0


def _last_first(pair: tuple[str, str]) -> tuple[int, ...]:
    """Larger for what stands first in the alphabet."""
    return tuple(-ord(letter) for letter in " ".join(pair))
