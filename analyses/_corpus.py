"""What is the model asked about? Running text cut into chunks, and prompts with a target and a foil."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from analyses._anatomy import Model
from model import EncoderDecoder
from model.zoo import ZooModel, data_path, zoo


class CorpusError(ValueError):
    """Text or prompts that cannot be used, said in one sentence."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A text to continue; where given, the right next token, a wrong one to compare with, and a text in which the other would be right."""

    prompt: str
    target: str | None = None
    foil: str | None = None
    corrupt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Running text and prompts for one model, with a digest that says whether two runs saw the same."""

    text: str
    text_source: str
    prompts: tuple[Prompt, ...]
    prompts_source: str
    tokens: Int[Tensor, "pos"] = field(repr=False)
    """the whole text as tokens of the model"""

    @property
    def digest(self) -> str:
        """SHA-256 over text and prompts."""
        parts = [self.text, *(repr(p) for p in self.prompts)]
        return hashlib.sha256("\0".join(parts).encode("utf-8", errors="surrogatepass")).hexdigest()

    def chunks(self, n_chunks: int, length: int) -> Int[Tensor, "batch pos"]:
        """The first `n_chunks` pieces of `length` tokens of the text, without overlap: no padding, so no mask.

        Fewer where the text is shorter. Raises CorpusError where it does not fill even one.
        """
        n = min(n_chunks, len(self.tokens) // length)
        if n < 1:
            raise CorpusError(f"the text has {len(self.tokens)} tokens, but one chunk takes {length}; give a longer text or a shorter length")
        return self.tokens[: n * length].reshape(n, length)

    def contrasts(self, n_prompts: int | None = None) -> tuple[Prompt, ...]:
        """The prompts that have both a target and a foil, the first `n_prompts` of them."""
        return tuple(p for p in self.prompts if p.target is not None and p.foil is not None)[:n_prompts]


def load_corpus(model: Model, *, text: Path | None = None, prompts: Path | None = None) -> Corpus:
    """The user's text and prompts, or those that suit the model.

    Raises CorpusError in one sentence for a missing, empty or undecodable file, a line that is no prompt, a prompt that
    is longer than the context, and a target or foil that is not exactly one token. The target of an encoder-decoder is a
    whole text.
    """
    if model.tokenizer is None:
        raise CorpusError(f"{model.source.name} came without a tokenizer, so text and prompts cannot be read")
    entry = zoo().get(model.source.name)
    text_path = text or data_path((entry and entry.text) or "prose.txt")
    prompts_path = prompts or _suiting_prompts(model, entry)
    words = _read(text_path)
    read = [] if prompts_path is None else _parse(_read(prompts_path), prompts_path)
    usable = [p for p in read if not (problem := _problem(model, p)) or _refuse(problem, prompts_path, given=prompts is not None)]
    return Corpus(
        text=words, text_source="shipped: " + text_path.name if text is None else str(text), prompts=tuple(usable),
        prompts_source="none" if prompts_path is None else str(prompts) if prompts else "shipped: " + prompts_path.name,
        tokens=torch.tensor(model.tokenizer.encode(words), dtype=torch.long, device=model.device),
    )


def _suiting_prompts(model: Model, entry: ZooModel | None) -> Path | None:
    """The prompts that ship for a named model, None where it has none; a decoder of the user's gets the English ones."""
    if entry is None:
        continues_text = not isinstance(model, EncoderDecoder) and model.config.causal
        return data_path("ioi.jsonl") if continues_text else None
    return None if entry.prompts is None else data_path(entry.prompts)


def tokenize_prompts(model: Model, prompts: Sequence[Prompt], *, corrupt: bool = False) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """The prompts (or their corrupt versions) as the model's input. Raises CorpusError where there are none."""
    if not prompts:
        raise CorpusError("there is no prompt with both a target and a foil; give some with --prompts FILE.jsonl")
    return model.tokenize([p.corrupt if corrupt and p.corrupt is not None else p.prompt for p in prompts])


def _read(path: Path) -> str:
    try:
        words = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise CorpusError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise CorpusError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror}") from None
    if not words.strip():
        raise CorpusError(f"{path} is empty")
    return words


def _parse(lines: str, path: Path) -> list[Prompt]:
    found = []
    for number, line in enumerate(lines.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError as error:
            raise CorpusError(f"{path} line {number} is not JSON: {error}") from None
        if not isinstance(values, dict) or not isinstance(values.get("prompt"), str):
            raise CorpusError(f'{path} line {number} must be an object with a "prompt", and optionally "target", "foil", "corrupt"')
        if unknown := sorted(set(values) - {"prompt", "target", "foil", "corrupt"}):
            raise CorpusError(f"{path} line {number} has an unknown field {unknown[0]!r}; a prompt has prompt, target, foil, corrupt")
        if wrong := sorted(key for key, value in values.items() if not isinstance(value, str)):
            raise CorpusError(f"{path} line {number}: {wrong[0]} must be a string, got {values[wrong[0]]!r}")
        found.append(Prompt(**values))
    if not found:
        raise CorpusError(f"{path} holds no prompt")
    return found


def _problem(model: Model, prompt: Prompt) -> str | None:
    """Why this prompt cannot be used with this model, None if it can."""
    two = isinstance(model, EncoderDecoder)
    n_ctx = (model.config.encoder if two else model.config).n_ctx
    for text in (prompt.prompt, prompt.corrupt):
        if text is not None:
            n = len(model.tokenizer.encode(text))
            if n == 0:
                return "the prompt is empty"
            if n > n_ctx:
                return f"the prompt {text[:30]!r}… is {n} tokens, but the context holds {n_ctx}"
    if two:
        return "an encoder-decoder's prompt has no foil" if prompt.foil is not None else None
    for what, answer in (("target", prompt.target), ("foil", prompt.foil)):
        if answer is not None:
            ids = model.tokenizer.encode(answer)
            if len(ids) != 1:
                return f"the {what} {answer!r} is {len(ids)} tokens {model.tokenizer.to_str_tokens(ids)}, but must be exactly one"
    return None


def _refuse(problem: str, path: Path, *, given: bool) -> bool:
    """A prompt of the user's that cannot be used is an error; one that ships is left out for a model with another vocabulary."""
    if given:
        raise CorpusError(f"{path}: {problem}")
    return False
