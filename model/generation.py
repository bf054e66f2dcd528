"""What does the model write? Token after token: the likeliest, one drawn at random, or the best of several beams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.checkpoint import Model
from model.encoder_decoder import EncoderDecoder
from model.lstm import LSTMLanguageModel
from model.prompt import Prompt, read_prompt
from model.tokenizer import Tokenizer

Stop = int | Sequence[int] | Literal["eos"] | None
"""The tokens that end a text: "eos" is the tokenizer's end token, where it has one; None is never."""


@dataclass(frozen=True)
class Greedy:
    """Always the likeliest token."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """A token drawn from softmax(logits / temperature), among the `top_k` likeliest, and among the fewest likeliest that hold
    `top_p` of the probability together (Holtzman et al. 2020); in that order.

    >>> Sampling(temperature=0.0)
    Traceback (most recent call last):
    ...
    ValueError: temperature must be positive, got 0.0; use Greedy() for the likeliest token
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"temperature must be positive, got {self.temperature!r}; use Greedy() for the likeliest token")
        if self.top_k is not None and not _counts(self.top_k):
            raise ValueError(f"top_k must be a whole number of at least 1, got {self.top_k!r}")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")

    def probabilities(self, logits: Float[Tensor, "rows d_vocab"]) -> Float[Tensor, "rows d_vocab"]:
        """What a token is drawn from."""
        logits = logits.float() / self.temperature
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = torch.full_like(logits, -torch.inf).scatter(-1, (best := logits.topk(self.top_k)).indices, best.values)
        probability = logits.softmax(-1)
        if self.top_p is not None:
            descending, order = probability.sort(dim=-1, descending=True, stable=True)
            kept = descending.cumsum(-1) - descending < self.top_p  # the likeliest always is
            probability = torch.zeros_like(probability).scatter(-1, order, descending * kept)
        return probability / probability.sum(-1, keepdim=True)


@dataclass(frozen=True)
class Generation:
    """What was written behind each prompt, without the prompt.

    `mask` is True up to and with the token that ended a text; behind it there is padding, whose log-probability is 0.
    `log_probabilities` are those of the model's own distribution of the next token, whatever temperature or choice was made.
    `texts`, without special tokens, are there if the model has a tokenizer.
    """

    tokens: Int[Tensor, "batch new"]
    mask: Bool[Tensor, "batch new"]
    log_probabilities: Float[Tensor, "batch new"]
    texts: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.tokens)


@torch.no_grad()
def generate(
    model: Model, inputs: Tensor | tuple[Tensor, ...] | Sequence[str], *, n_new: int, sampling: Greedy | Sampling = Greedy(),
    generator: torch.Generator | None = None, stop: Stop = "eos", n_beams: int = 1, use_cache: bool = True,
) -> Generation:
    """At most `n_new` tokens behind each prompt.

    `inputs` are texts, or what the model is called with: tokens, or (tokens, mask), padded on either side; for an
    encoder-decoder (source, target, source_mask, target_mask), or the source alone, behind which the start token is put.
    With several beams those that were most likely so far go on, the ended ones included, and the most likely text is
    returned; likelihoods are not corrected for length. Without the cache every token is computed again for each new one: slower,
    and the same.

    Edits and recordings of the model act here too. Positions are places in the padded sequence, the prompt and behind it the
    new tokens; the last new token is never read. An edit at a place acts in the pass that computes it, and a recording holds
    what one pass over the whole sequence would show.

    Raises ValueError for an encoder, a model without a head, inputs that the model cannot read or that leave no room for
    `n_new` tokens, a `stop` outside the vocabulary, sampling without a generator, and sampling with several beams.

    >>> from model import Transformer, TransformerConfig
    >>> config = TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5)
    >>> model = Transformer(config, generator=torch.Generator().manual_seed(0)).eval()
    >>> generate(model, torch.tensor([[1, 2]]), n_new=3).tokens.shape
    torch.Size([1, 3])
    >>> generate(model, torch.tensor([[1, 2]]), n_new=5)
    Traceback (most recent call last):
    ...
    ValueError: the context holds 5 tokens (n_ctx=5), too few for a prompt of 2 and 5 new ones
    """
    _check(model, n_new, n_beams, sampling, generator)
    writer = (model.target_tokenizer if isinstance(model, EncoderDecoder) else None) or model.tokenizer
    prompt = read_prompt(model, inputs, n_new=n_new, n_beams=n_beams, writer=writer, use_cache=use_cache)
    ends = _ends(model, stop, writer)
    pad = writer.pad_id or 0 if writer is not None else 0
    search = _Search.start(prompt)
    for _ in range(n_new):
        logits = search.prompt.next_logits(model)  # rows d_vocab
        search = search.beams(logits, n_beams, ends, pad) if n_beams > 1 else search.one(logits, sampling, generator, ends, pad)
        if not search.alive.any():
            break
    return search.result(n_beams, writer)


@dataclass(frozen=True)
class _Search:
    """Texts being written, `n_beams` rows for each example."""

    prompt: Prompt
    tokens: Int[Tensor, "rows new"]
    mask: Bool[Tensor, "rows new"]
    log_probabilities: Float[Tensor, "rows new"]
    alive: Bool[Tensor, "rows"]
    """has not ended"""

    @classmethod
    def start(cls, prompt: Prompt) -> _Search:
        nothing = prompt.tokens.new_zeros(len(prompt.tokens), 0)
        return cls(prompt, nothing, nothing.bool(), nothing.float(), torch.ones(len(nothing), dtype=torch.bool, device=nothing.device))

    def one(
        self, logits: Tensor, sampling: Greedy | Sampling, generator: torch.Generator | None, ends: Tensor, pad: int
    ) -> _Search:
        """One more token in every row, each on its own."""
        if isinstance(sampling, Greedy):
            chosen = logits.argmax(-1)
        else:
            chosen = torch.multinomial(sampling.probabilities(logits).to(generator.device), 1, generator=generator)[:, 0].to(logits.device)
        log_p = logits.float().log_softmax(-1).gather(1, chosen.unsqueeze(1))[:, 0]
        return self._with(chosen.masked_fill(~self.alive, pad), log_p.masked_fill(~self.alive, 0.0), ends)

    def beams(self, logits: Tensor, n_beams: int, ends: Tensor, pad: int) -> _Search:
        """The `n_beams` most likely continuations of each example; one that has ended goes on as it is."""
        n_vocab = logits.shape[-1]
        log_p = logits.float().log_softmax(-1)  # rows d_vocab
        unchanged = torch.full_like(log_p[0], -torch.inf).index_fill(0, ends.new_tensor([pad]), 0.0)
        log_p = torch.where(self.alive.unsqueeze(1), log_p, unchanged)
        scores = self.log_probabilities.sum(1)
        if self.tokens.shape[1] == 0:  # the beams are all the same: one of them counts
            scores = scores.unflatten(0, (-1, n_beams)).index_fill(1, torch.arange(1, n_beams, device=scores.device), -torch.inf).flatten()
        best = (scores.unsqueeze(1) + log_p).unflatten(0, (-1, n_beams)).flatten(1).topk(n_beams)  # batch n_beams
        first = torch.arange(len(best.indices), device=logits.device).unsqueeze(1) * n_beams
        rows, chosen = (first + best.indices // n_vocab).flatten(), (best.indices % n_vocab).flatten()
        possible = best.values.flatten().isfinite()  # at first there may be fewer texts than beams
        alive = self.alive[rows] & possible
        going = _Search(self.prompt.select(rows), self.tokens[rows], self.mask[rows], self.log_probabilities[rows], alive)
        return going._with(chosen, log_p[rows, chosen].masked_fill(~possible, -torch.inf), ends)

    def _with(self, chosen: Tensor, log_p: Tensor, ends: Tensor) -> _Search:
        def longer(old: Tensor, new: Tensor) -> Tensor:
            return torch.cat((old, new.unsqueeze(1)), dim=1)

        return replace(
            self, prompt=self.prompt.followed_by(chosen, self.alive),
            tokens=longer(self.tokens, chosen), mask=longer(self.mask, self.alive),
            log_probabilities=longer(self.log_probabilities, log_p), alive=self.alive & ~torch.isin(chosen, ends),
        )

    def result(self, n_beams: int, writer: Tokenizer | None) -> Generation:
        """The best row of each example."""
        scores = self.log_probabilities.sum(1).unflatten(0, (-1, n_beams))
        rows = scores.argmax(1) + torch.arange(len(scores), device=scores.device) * n_beams
        tokens, mask = self.tokens[rows], self.mask[rows]
        written = [row[real] for row, real in zip(tokens, mask, strict=True)]
        texts = None if writer is None else tuple(writer.decode(row, special=False) for row in written)
        return Generation(tokens, mask, self.log_probabilities[rows], texts)


def _counts(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 1


def _check(model: Model, n_new: int, n_beams: int, sampling: Greedy | Sampling, generator: torch.Generator | None) -> None:
    if isinstance(model, LSTMLanguageModel):
        raise ValueError("generate takes a Transformer or an EncoderDecoder, got an LSTMLanguageModel, which keeps no keys and values")
    if not isinstance(model, EncoderDecoder) and not model.config.causal:
        raise ValueError("generate needs a decoder, which predicts the next token, got an encoder (causal=False)")
    if model.unembed is None:
        raise ValueError("generate needs logits, got a model without a head (head='none')")
    for name, number in (("n_new", n_new), ("n_beams", n_beams)):
        if not _counts(number):
            raise ValueError(f"{name} must be a whole number of at least 1, got {number!r}")
    if not isinstance(sampling, Greedy | Sampling):
        raise ValueError(f"sampling must be Greedy() or Sampling(…), got {sampling!r}")
    if isinstance(sampling, Sampling) and n_beams > 1:
        raise ValueError(f"beams follow the likeliest texts and draw nothing, got n_beams={n_beams} together with {sampling}")
    if isinstance(sampling, Sampling) and generator is None:
        raise ValueError("sampling draws at random, got generator=None; pass torch.Generator().manual_seed(0)")


def _ends(model: Model, stop: Stop, writer: Tokenizer | None) -> Int[Tensor, "ends"]:
    """The ids that end a text."""
    if isinstance(stop, str) and stop != "eos":
        raise ValueError(f"stop must be token ids, 'eos' or None, got {stop!r}")
    if stop == "eos":
        stop = writer.eos_id if writer is not None else None
    ids = [] if stop is None else [stop] if isinstance(stop, int) else list(stop)
    d_vocab = (model.config.decoder if isinstance(model, EncoderDecoder) else model.config).d_vocab
    if wrong := [i for i in ids if not isinstance(i, int) or not 0 <= i < d_vocab]:
        raise ValueError(f"stop must hold token ids from 0 to {d_vocab - 1} (d_vocab={d_vocab}), got {wrong[0]!r}")
    return torch.tensor(ids, dtype=torch.long, device=model.device)
