"""What is to be predicted? The next token, the token behind a mask, or the next token of a translation.

A batch is what the model is called with, as `model.tokenize` returns it. An objective turns it into an exercise: what the
model reads, the right answers, and which of them count. The loss is then the same for all: cross-entropy in nats.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

Batch = tuple[Tensor | None, ...]


@dataclass(frozen=True)
class Exercise:
    """What the model is called with, and what it should answer at each position that counts."""

    inputs: Batch
    answers: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]

    @property
    def n_tokens(self) -> int:
        """How many answers count."""
        return int(self.counted.sum())


class Objective(Protocol):
    """Makes an exercise of a batch; whatever is drawn at random comes from the generator, which lives on the CPU."""

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise: ...


@dataclass(frozen=True, kw_only=True)
class CausalLM:
    """Every token from those before it (Radford et al. 2019). A batch is (tokens, mask) or (tokens,).

    >>> exercise = CausalLM()((torch.tensor([[5, 6, 7]]),), torch.Generator())
    >>> exercise.answers, exercise.n_tokens
    (tensor([[6, 7, 7]]), 2)
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        """Raises ValueError for a batch of another length, and where the mask has not the shape of the tokens."""
        tokens, mask = _tokens_and_mask(batch)
        return Exercise((tokens, mask), *_next_tokens(tokens, mask))


@dataclass(frozen=True, kw_only=True)
class SequenceToSequence:
    """Every target token from the source and the target tokens before it (Vaswani et al. 2017), which are given: teacher forcing.

    A batch is (source, target, source_mask, target_mask), as `model.tokenize(texts, target)` returns it: the target begins with
    its start token and lacks its end token. `end_id` is that end, to be predicted behind the last token; None where the targets
    hold their own.
    """

    end_id: int | None = None

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        """Raises ValueError for a batch of another length, and where a mask has not the shape of its tokens."""
        if len(batch) != 4:
            raise ValueError(f"a batch is (source, target, source_mask, target_mask), got {len(batch)} tensors")
        source, target, source_mask, target_mask = batch
        source_mask, target_mask = _mask(source, source_mask), _mask(target, target_mask)
        answers, counted = _next_tokens(target, target_mask)
        if self.end_id is not None:
            last = target_mask & ~counted  # no real token follows
            answers, counted = answers.masked_fill(last, self.end_id), target_mask
        return Exercise((source, target, source_mask, target_mask), answers, counted)


@dataclass(frozen=True, kw_only=True)
class MaskedLM:
    """Some tokens from all others (Devlin et al. 2019). A batch is (tokens, mask) or (tokens,).

    In each row `rate` of the tokens are chosen, at least one. Of these 80 % become `mask_id`, 10 % a random token of the
    `d_vocab`, and 10 % stay what they are. `never` are tokens that are neither chosen nor drawn: those with a role.

    >>> objective = MaskedLM(mask_id=3, d_vocab=50, never=(0, 1, 2))
    >>> objective((torch.full((1, 20), 7),), torch.Generator().manual_seed(0)).n_tokens
    3
    """

    mask_id: int
    d_vocab: int
    never: tuple[int, ...] = ()
    rate: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.rate <= 1:
            raise ValueError(f"rate is a share of the tokens above 0, got rate={self.rate!r}")
        if not 0 <= self.mask_id < self.d_vocab:
            raise ValueError(f"mask_id must be from 0 to {self.d_vocab - 1} (d_vocab={self.d_vocab}), got mask_id={self.mask_id}")
        if not set(range(self.d_vocab)) - set(self.never) - {self.mask_id}:
            raise ValueError(f"no token is left to draw: never and mask_id hold all {self.d_vocab} of the vocabulary")

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        """Raises ValueError for a batch of another length, a mask that has not the shape of the tokens, and tokens that are not of
        the vocabulary."""
        tokens, mask = _tokens_and_mask(batch)
        if int(tokens.max()) >= self.d_vocab:
            raise ValueError(f"token ids must be from 0 to {self.d_vocab - 1} (d_vocab={self.d_vocab}), got {int(tokens.max())}")
        drawable = torch.ones(self.d_vocab, dtype=torch.bool)
        drawable[[*self.never, self.mask_id]] = False
        chosen = self._choose(tokens.cpu(), mask.cpu(), drawable, generator)
        fate = torch.rand(tokens.shape, generator=generator)
        words = drawable.nonzero().squeeze(-1)
        drawn = words[torch.randint(len(words), tokens.shape, generator=generator)]
        read = tokens.cpu().clone()
        read[chosen & (fate < 0.8)] = self.mask_id
        read = torch.where(chosen & (fate >= 0.9), drawn.to(read.dtype), read)
        return Exercise((read.to(tokens.device), mask), tokens, chosen.to(tokens.device))

    def _choose(self, tokens: Tensor, mask: Tensor, drawable: Tensor, generator: torch.Generator) -> Bool[Tensor, "batch pos"]:
        """The tokens of each row with the smallest of random numbers, as many as `rate` says."""
        able = mask & drawable[tokens]
        n = (able.sum(-1) * self.rate).round().clamp(min=1)
        lots = torch.rand(tokens.shape, generator=generator).masked_fill(~able, 2.0)
        rank = lots.argsort(-1).argsort(-1)  # batch pos
        return able & (rank < n.unsqueeze(-1))


def token_loss(logits: Float[Tensor, "batch pos d_vocab"], exercise: Exercise, label_smoothing: float = 0.0) -> Float[Tensor, ""]:
    """Cross-entropy in nats, summed over the answers that count, in fp32 at least.

    With label smoothing ε it is (1 − ε) · (−ln p of the answer) + ε · mean over the vocabulary of −ln p (Szegedy et al. 2016).

    >>> exercise = CausalLM()((torch.tensor([[0, 1, 2]]),), torch.Generator())
    >>> token_loss(torch.zeros(1, 3, 4), exercise) / 2
    tensor(1.3863)
    """
    read = logits[exercise.counted]  # counted d_vocab
    read = read.to(torch.promote_types(read.dtype, torch.float32))
    return F.cross_entropy(read, exercise.answers[exercise.counted].long(), reduction="sum", label_smoothing=label_smoothing)


def _next_tokens(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The token that follows each position, and whether both are real."""
    following = torch.cat((tokens[:, 1:], tokens[:, -1:]), dim=1)
    counted = torch.zeros_like(mask)
    counted[:, :-1] = mask[:, :-1] & mask[:, 1:]
    return following, counted


def _tokens_and_mask(batch: Batch) -> tuple[Tensor, Tensor]:
    if len(batch) not in (1, 2):
        raise ValueError(f"a batch is (tokens, mask) or (tokens,), got {len(batch)} tensors")
    return batch[0], _mask(batch[0], batch[1] if len(batch) == 2 else None)


def _mask(tokens: Tensor, mask: Tensor | None) -> Bool[Tensor, "batch pos"]:
    if mask is not None and mask.shape != tokens.shape:
        raise ValueError(f"mask must have the shape of tokens {tuple(tokens.shape)}, got {tuple(mask.shape)}")
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
