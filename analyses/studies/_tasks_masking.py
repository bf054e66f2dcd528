"""What is a character that cannot be read? Masked language models and left-to-right ones, asked for the same characters of the same prose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses.studies._starts import PAPER
from analyses.studies._training import BASE, BATCH, LENGTH, RECIPE, Learnt, held_out, learn, recipe_of, windows
from model import Transformer
from model.training import evaluate
from model.training.objectives import Batch, Exercise, Objective
from model.zoo import _characters
from probes import Edit, linear_probe, record

MASK = 3
"""the token `<unk>`, which no prose holds"""
N_SPECIAL = 4
PLACES = (10, 13, 16, 19, 22)
"""of the characters that are asked for, in pieces of 32"""
PROBED = range(8, 25)
"""places whose states are probed"""
TUNING_RATE = 1e-3
"""of learning on plain text what a probe reads"""
DECODER = dataclasses.replace(PAPER, positions="rotary")
"""which asks by distance: an encoder whose positions are added to its embeddings takes thousands of updates to find the neighbour of a mask"""
ENCODER = dataclasses.replace(DECODER, causal=False)
Reads = Literal["both sides", "left"]


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """Some characters from all others: of each `rate`, `masked` become the mask, `random` any character, the rest stay (Devlin et al. 2019).

    >>> exercise = Corrupted(rate=0.5)((torch.full((1, 8), 9), None), torch.Generator().manual_seed(0))
    >>> exercise.n_tokens, int((exercise.inputs[0] == MASK).sum())
    (4, 4)
    """

    rate: float
    masked: float = 1.0
    random: float = 0.0

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens, mask = batch
        lots = torch.rand(tokens.shape, generator=generator).argsort(1).argsort(1)
        chosen = lots < max(1, round(self.rate * tokens.shape[1]))
        fate = torch.rand(tokens.shape, generator=generator)
        drawn = torch.randint(N_SPECIAL, BASE.d_vocab, tokens.shape, generator=generator)
        read = tokens.masked_fill(chosen & (fate < self.masked), MASK)
        read = torch.where(chosen & (fate >= self.masked) & (fate < self.masked + self.random), drawn, read)
        return Exercise((read, mask), tokens, chosen)


BERT = Corrupted(rate=0.4, masked=0.8, random=0.1)
"""BERT's shares at the rate of Wettig et al. 2023, with which small models learn sooner"""


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """One character, hidden by the mask from a model that reads both sides, or the left side with the mask at its end.

    >>> exercise = Hidden(place=1, reads="left")((torch.tensor([[7, 8, 9]]), None), torch.Generator())
    >>> exercise.inputs[0], exercise.answers[exercise.counted]
    (tensor([[7, 3]]), tensor([8]))
    """

    place: int
    reads: Reads = "both sides"

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens = batch[0] if self.reads == "both sides" else batch[0][:, : self.place + 1]
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, self.place] = True
        return Exercise((tokens.masked_fill(counted, MASK), None), tokens, counted)


@dataclass(frozen=True, kw_only=True)
class Following:
    """The same character, asked of a model that reads from left to right: what follows those before it?

    >>> exercise = Following(place=1)((torch.tensor([[7, 8, 9]]), None), torch.Generator())
    >>> exercise.inputs[0], exercise.answers[exercise.counted]
    (tensor([[7]]), tensor([8]))
    """

    place: int

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens = batch[0][:, : self.place]
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        counted[:, -1] = True
        return Exercise((tokens, None), batch[0][:, 1 : self.place + 1], counted)


def prefix_lengths(n: int) -> Int[Tensor, "batch"]:
    """How many characters of each of n windows are read from both sides: from 4 on and below 28, evenly over the windows.

    >>> prefix_lengths(BATCH)
    tensor([ 4,  5,  7,  8, 10, 11, 13, 14, 16, 17, 19, 20, 22, 23, 25, 26])
    """
    return 4 + torch.arange(n) * 24 // n


def hide_behind_prefix(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """No query sees a key that is later than itself and behind the prefix of its window.

    >>> (hide_behind_prefix(torch.zeros(1, 1, 6, 6))[0, 0] == 0).int()[[0, 3, 4, 5]]
    tensor([[1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 1]], dtype=torch.int32)
    """
    place = torch.arange(scores.shape[-1])
    behind = place >= prefix_lengths(len(scores))[:, None]  # batch key
    later = place > place[:, None]  # query key
    return scores.masked_fill((behind[:, None] & later)[:, None], -torch.inf)


PREFIX = Edit("blocks.*.attn.scores", hide_behind_prefix)
"""makes an encoder a prefix language model (Raffel et al. 2020): the prefix is read from both sides, the rest from the left"""


@dataclass(frozen=True, kw_only=True)
class BehindPrefix:
    """What follows, asked from the last character of the prefix on.

    >>> exercise = BehindPrefix()((torch.arange(8)[None], None), torch.Generator())
    >>> exercise.answers[exercise.counted]
    tensor([4, 5, 6, 7])
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        tokens = batch[0][:, :-1]
        counted = torch.arange(tokens.shape[1]) >= prefix_lengths(len(tokens))[:, None] - 1
        return Exercise((tokens, None), batch[0][:, 1:], counted)


def learn_prose(model: Transformer, objective: Objective, *, seed: int, steps: int, n_held_out: int = 8) -> Learnt:
    """A character model, taught by an objective on the windows of its seed."""
    recipe = dataclasses.replace(recipe_of(steps), seed=seed)
    lessons = windows(steps, LENGTH, BATCH, seed)
    return learn(model, lessons, objective, recipe, validation=held_out(LENGTH, n_held_out))


def loss_of_hidden(model: Transformer, n_held_out: int, reads: Reads | Literal["what precedes"] = "both sides") -> float:
    """Nats of the characters at `PLACES` of n held-out pieces, from both sides, from the left with a mask, or from what precedes them alone."""
    asked = [Following(place=place) if reads == "what precedes" else Hidden(place=place, reads=reads) for place in PLACES]
    return float(np.mean([evaluate(model, held_out(LENGTH, n_held_out), one, RECIPE) for one in asked]))


def to_the_end(tokens: Int[Tensor, "batch pos"], most: int = 3) -> Int[Tensor, "batch pos"]:
    """How many letters of the word follow those at each place, `most` for more; −1 where no letter stands.

    >>> to_the_end(torch.tensor([_characters.characters().encode("a word")]))
    tensor([[ 0, -1,  3,  2,  1,  0]])
    """
    vocab = _characters.characters().backend
    letters = torch.tensor([i >= N_SPECIAL and vocab.id_to_token(i).isalpha() for i in range(BASE.d_vocab)], device=tokens.device)[tokens]
    left, follow = torch.full_like(tokens, -1), torch.zeros_like(tokens[:, 0])
    for place in reversed(range(tokens.shape[1])):
        here = letters[:, place]
        left[:, place] = torch.where(here, follow.clamp(max=most), -1)
        follow = torch.where(here, follow + 1, 0)
    return left


@dataclass(frozen=True, kw_only=True)
class Remaining:
    """Of every letter in the middle, how many of its word follow: 0, 1, 2, more. Nothing is hidden; the answers are the four tokens that no prose holds.

    >>> exercise = Remaining()((torch.tensor([_characters.characters().encode("to be in a garden or on a hill  ")]), None), torch.Generator())
    >>> exercise.answers[exercise.counted].tolist()  # a, g a r d e n, o r, o n, a
    [0, 3, 3, 3, 2, 1, 0, 1, 0, 1, 0, 0]
    """

    def __call__(self, batch: Batch, generator: torch.Generator) -> Exercise:
        left, middle = to_the_end(batch[0]), torch.zeros_like(batch[0], dtype=torch.bool)
        middle[:, PROBED] = True
        return Exercise((batch[0], None), left.clamp(min=0), middle & (left >= 0))


def tuned(model: Transformer, *, seed: int, steps: int, n_held_out: int) -> float:
    """Nats per letter of the letters that remain, after as many updates on plain text. The model is changed."""
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=TUNING_RATE), seed=seed)
    return learn(model, windows(steps, LENGTH, BATCH, 1000 + seed), Remaining(), recipe, validation=held_out(LENGTH, n_held_out)).loss


@torch.no_grad()
def context_known(model: Transformer, n_pieces: int, seed: int) -> float:
    """Accuracy with which a line reads from the states of plain text behind all blocks how many letters of the word follow (0, 1, 2, more).

    The states of letters in the middle of held-out pieces; no piece is on both sides of the fit.
    """
    tokens = torch.cat([batch[0] for batch in held_out(LENGTH, n_pieces)])
    with record(model, "blocks.*.resid_post") as activations:
        model(tokens)
    states = torch.cat([activations[site] for site in activations], dim=-1)  # piece place layer·d_model
    left = to_the_end(tokens)[:, PROBED]
    piece, place = (left >= 0).nonzero(as_tuple=True)
    features = states[piece, place + PROBED.start].numpy()
    return float(linear_probe(features, left[piece, place].tolist(), groups=piece.tolist(), seed=seed)["accuracy"].iloc[0])
