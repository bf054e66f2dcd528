"""How is a word pronounced? CMUdict, the pronouncing dictionary of Carnegie Mellon University, and its split into two halves."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Literal

FILE = Path(__file__).parent / "data" / "cmudict.dict.gz"
Part = Literal["all", "train", "held out"]
HELD_OUT_OF = 20
"""one word in so many is held out"""

_VARIANT = re.compile(r"\(\d+\)$")
_LETTERS = re.compile(r"[a-z]+")


def pronunciations(part: Part = "all") -> Mapping[str, tuple[str, ...]]:
    """Word → its different pronunciations, each as ARPAbet phonemes with blanks between them, in the order of the dictionary.

    Marks of stress are dropped, which leaves 39 phonemes; so are the words that hold anything but the letters a to z
    (apostrophes, full stops, hyphens, digits). A word with all its pronunciations is either in `train` or `held out`: the
    digest of its spelling decides, no seed. Raises ValueError for another part.

    >>> pronunciations()["cat"], pronunciations()["read"]
    (('K AE T',), ('R EH D', 'R IY D'))
    >>> len(pronunciations("train")), len(pronunciations("held out"))
    (111649, 5844)
    """
    if part not in ("all", "train", "held out"):
        raise ValueError(f"part must be 'all', 'train' or 'held out', got {part!r}")
    return _dictionary() if part == "all" else _half(part == "held out")


def held_out(word: str) -> bool:
    """Is the word one of those that no model of the zoo was trained on?"""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big") % HELD_OUT_OF == 0


@cache
def _half(is_held_out: bool) -> Mapping[str, tuple[str, ...]]:
    return MappingProxyType({word: variants for word, variants in _dictionary().items() if held_out(word) == is_held_out})


@cache
def _dictionary() -> Mapping[str, tuple[str, ...]]:
    """Every word of letters, in the order of the file. A line is `word PH ON EM1 S # remark`, or `word(2) …` for a variant."""
    found: dict[str, dict[str, None]] = {}
    for line in gzip.decompress(FILE.read_bytes()).decode("utf-8").splitlines():
        entry, *phonemes = line.partition("#")[0].split()
        word = _VARIANT.sub("", entry)
        if _LETTERS.fullmatch(word):
            found.setdefault(word, {})[" ".join(phoneme.rstrip("012") for phoneme in phonemes)] = None
    return MappingProxyType({word: tuple(variants) for word, variants in found.items()})
