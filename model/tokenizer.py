"""How does text become token ids, and back?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tokenizers
import torch
from jaxtyping import Bool, Int
from torch import Tensor

Pad = Literal["left", "right"]


@dataclass(frozen=True)
class Tokenizer:
    """A trained tokenizer of the `tokenizers` library, and the ids that have a role.

    Nothing is prepended or appended unless asked for: the ids are those of the text and of nothing else. With `template`
    they are those that the tokenizer's own template makes of it (BERT's [CLS] … [SEP], T5's … </s>).
    """

    backend: tokenizers.Tokenizer
    bos_id: int | None = None
    eos_id: int | None = None
    pad_id: int | None = None
    decoder_start_id: int | None = None
    """what an encoder-decoder's target begins with"""
    chat_template: str | None = None
    """how a conversation is written as text: a Jinja template, as the checkpoint brings it"""

    def __post_init__(self) -> None:
        self.backend.no_padding()
        self.backend.no_truncation()

    def encode(self, text: str, *, prepend_bos: bool = False, template: bool = False) -> list[int]:
        """The ids of a text.

        Raises ValueError where `prepend_bos` is asked of a tokenizer that has no such token, or together with `template`.
        """
        if prepend_bos and template:
            raise ValueError("what stands before the text is up to the tokenizer's template, got template=True and prepend_bos=True")
        if prepend_bos and self.bos_id is None:
            raise ValueError("this tokenizer has no beginning-of-sequence token to prepend")
        ids = self.backend.encode(_encodable(text), add_special_tokens=template).ids
        return [self.bos_id, *ids] if prepend_bos else ids

    def decode(self, ids: Sequence[int] | Int[Tensor, "pos"], *, special: bool = True) -> str:
        """The text of a sequence of ids, with special tokens or without."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=not special)

    def to_str_tokens(self, text_or_ids: str | Sequence[int] | Int[Tensor, "pos"]) -> list[str]:
        """The text of each token on its own; a token that holds part of a character shows as U+FFFD."""
        ids = self.encode(text_or_ids) if isinstance(text_or_ids, str) else [int(i) for i in text_or_ids]
        return [self.backend.decode([i], skip_special_tokens=False) for i in ids]

    def chat(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation, [{"role": "user", "content": "…"}, …], by the checkpoint's template; what begins the
        assistant's answer stands at its end if `add_generation_prompt`. `encode` and `tokenize` take it as any text.

        Raises ValueError if there is no template, for messages that are none, and for what the template refuses.
        """
        if self.chat_template is None:
            raise ValueError("this tokenizer came without a chat template; set its chat_template, or write the text yourself")
        from model.chat import write_chat  # Jinja is loaded by those who chat

        special = {f"{role}_token": getattr(self, f"{role}_id") for role in ("bos", "eos", "pad")}
        words = {name: self.backend.id_to_token(i) for name, i in special.items() if i is not None}
        return write_chat(self.chat_template, messages, words, add_generation_prompt=add_generation_prompt)

    def batch(
        self, texts: Sequence[str], *, pad: Pad = "right", prepend_bos: bool = False, template: bool = False,
        device: torch.device | str = "cpu",
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """Token ids of several texts, padded on one side to the longest, and a mask that is True at real tokens.

        Raises ValueError for no text, one string in place of a list, a text without any token, and as `encode` does.
        """
        _check_texts(texts)
        rows = [self.encode(text, prepend_bos=prepend_bos, template=template) for text in texts]
        empty = [i for i, row in enumerate(rows) if not row]
        if empty:
            raise ValueError(f"every text must have at least one token, text {empty[0]} ({texts[empty[0]]!r}) has none")
        return self._padded(rows, pad, device)

    def targets(
        self, texts: Sequence[str], *, pad: Pad = "right", device: torch.device | str = "cpu"
    ) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
        """What an encoder-decoder's decoder reads while it writes these texts: the start token, and the template's ids without
        the end token, which is only ever predicted. An empty text is what is read before the first word.

        Raises ValueError if no start token is known, for no text, and for one string in place of a list.
        """
        _check_texts(texts)
        rows = [self.encode(text, template=True) for text in texts]
        ended = [row[:-1] if row and row[-1] == self.eos_id else row for row in rows]
        return self._padded([[self._start(), *row] for row in ended], pad, device)

    def starts(self, n: int, *, device: torch.device | str = "cpu") -> tuple[Int[Tensor, "batch 1"], Bool[Tensor, "batch 1"]]:
        """The start token alone, n times, and its mask. Raises ValueError if no start token is known."""
        return self._padded([[self._start()]] * n, "right", device)

    def _start(self) -> int:
        if self.decoder_start_id is None:
            raise ValueError("this tokenizer knows no token that a target starts with; set its decoder_start_id, or pass token ids")
        return self.decoder_start_id

    def _padded(self, rows: Sequence[Sequence[int]], pad: Pad, device: torch.device | str) -> tuple[Tensor, Tensor]:
        if pad not in ("left", "right"):
            raise ValueError(f"pad must be 'left' or 'right', got {pad!r}")
        longest = max(map(len, rows))
        tokens = torch.full((len(rows), longest), self.pad_id or 0, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if pad == "left" else slice(len(row))
            tokens[i, place] = torch.tensor(row)
            mask[i, place] = True
        return tokens.to(device), mask.to(device)

    def roles(self) -> dict[str, int | None]:
        """The ids that have a role, by the names that a config.json has for them."""
        return {f"{role}_token_id": getattr(self, f"{role}_id") for role in ("bos", "eos", "pad", "decoder_start")}


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise ValueError(f"texts must be a list of strings, got one string: put it in a list, [{texts[:20]!r}]")
    if not texts:
        raise ValueError("texts must hold at least one text, got an empty list")


def _encodable(text: str) -> str:
    """The text without lone surrogates, which no encoding of Unicode can carry."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


def special_ids(backend: tokenizers.Tokenizer, config: dict) -> dict[str, int | None]:
    """Ids of the tokens with a role: the `bos_token`-like entries of a tokenizer_config.json, the `bos_token_id`-like of a config.json."""
    found: dict[str, int | None] = {}
    for role in ("bos", "eos", "pad"):
        token, number = config.get(f"{role}_token"), config.get(f"{role}_token_id")
        token = token.get("content") if isinstance(token, dict) else token
        if token is not None:
            found[f"{role}_id"] = backend.token_to_id(token)
        elif number is not None:
            found[f"{role}_id"] = number[0] if isinstance(number, list) else number
    if config.get("decoder_start_token_id") is not None:
        found["decoder_start_id"] = config["decoder_start_token_id"]
    return found


def default_template(found: Any) -> str | None:
    """The chat template of a tokenizer_config.json: one text, or several with names, of which `default` is the one.

    >>> default_template([{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}])
    'b'
    """
    if isinstance(found, list):
        found = {entry["name"]: entry["template"] for entry in found}
    if isinstance(found, Mapping):
        found = found.get("default")
    return found if isinstance(found, str) else None
