"""How does text become token ids, and back?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tokenizers
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Pad = Literal["left", "right"]


@dataclass(frozen=True)
class Tokenizer:
    """A trained tokenizer of the `tokenizers` library, and the ids that have a role.

    Nothing is prepended or appended unless asked for: the ids are those of the text and of nothing else.
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None

    def __post_init__(self) -> None:
        self.backend.no_padding()
        self.backend.no_truncation()

    def encode(self, text: str, *, prepend_bos: bool = False) -> list[int]:
        """The ids of a text. Raises ValueError where `prepend_bos` is asked of a tokenizer that has no such token."""
        if prepend_bos and self.bos_id is None:
            raise ValueError("this tokenizer has no beginning-of-sequence token to prepend")
        ids = self.backend.encode(_encodable(text), add_special_tokens=False).ids
        return [self.bos_id, *ids] if prepend_bos else ids

    def decode(self, ids: Sequence[int] | Int[Tensor, "pos"]) -> str:
        """The text of a sequence of ids, special tokens included."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def to_str_tokens(self, text_or_ids: str | Sequence[int] | Int[Tensor, "pos"]) -> list[str]:
        """The text of each token on its own; a token that holds part of a character shows as U+FFFD."""
        ids = self.encode(text_or_ids) if isinstance(text_or_ids, str) else [int(i) for i in text_or_ids]
        return [self.backend.decode([i], skip_special_tokens=False) for i in ids]

    def batch(
        self, texts: Sequence[str], *, pad: Pad = "right", prepend_bos: bool = False, device: torch.device | str = "cpu"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Token ids of several texts, padded on one side to the longest, and a mask that is True at real tokens."""
        if isinstance(texts, str):
            raise ValueError(f"texts must be a list of strings, got one string: put it in a list, [{texts[:20]!r}]")
        if pad not in ("left", "right"):
            raise ValueError(f"pad must be 'left' or 'right', got {pad!r}")
        rows = [self.encode(text, prepend_bos=prepend_bos) for text in texts]
        if not rows:
            raise ValueError("texts must hold at least one text, got an empty list")
        empty = [i for i, row in enumerate(rows) if not row]
        if empty:
            raise ValueError(f"every text must have at least one token, text {empty[0]} ({texts[empty[0]]!r}) has none")
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.pad_id or 0, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if pad == "left" else slice(len(row))
            tokens[i, place] = torch.tensor(row)
            mask[i, place] = True
        return tokens.to(device), mask.to(device)

    def save(self, path: Path) -> None:
        """Write the tokenizer as tokenizer.json."""
        path.write_text(self.backend.to_str(), encoding="utf-8")


def _encodable(text: str) -> str:
    """The text without lone surrogates, which no encoding of Unicode can carry."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def special_ids(backend: tokenizers.Tokenizer, config: dict) -> dict[str, int | None]:
    """Ids of the tokens with a role, from the `bos_token`-like entries of a tokenizer_config.json or the `bos_token_id`-like ones of a config.json."""
    found: dict[str, int | None] = {}
    for role in ("bos", "eos", "pad"):
        token, number = config.get(f"{role}_token"), config.get(f"{role}_token_id")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            found[f"{role}_id"] = backend.token_to_id(token)
        elif number is not None:
            found[f"{role}_id"] = number[0] if isinstance(number, list) else number
    return found
