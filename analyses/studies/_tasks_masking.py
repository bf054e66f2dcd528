"""What is a character that cannot be read? Masked language models and left-to-right ones, asked for the same characters of the same prose."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from analyses.studies._training import BASE, BATCH, LENGTH, RECIPE, Learnt, held_out, learn, recipe_of, windows
from model import Transformer
from model.training import CausalLM, evaluate
from model.training.objectives import Batch, Exercise, Objective
from model.zoo import _characters
from probes import linear_probe, record

MASK = 3
"""the token `<unk>`, which no prose holds"""
N_SPECIAL = 4
PLACES = (10, 13, 16, 19, 22)
"""of the characters that are asked for, in pieces of 32"""
ENCODER = dataclasses.replace(BASE, causal=False)
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


def learn_prose(model: Transformer, objective: Objective | None, *, seed: int, steps: int, n_held_out: int = 8) -> Learnt:
    """A character model, taught by an objective (None: the next character) on the windows of its seed."""
    recipe = dataclasses.replace(recipe_of(steps), seed=seed)
    lessons = windows(steps, LENGTH, BATCH, seed)
    return learn(model, lessons, objective or CausalLM(), recipe, validation=held_out(LENGTH, n_held_out))


def loss_of_hidden(model: Transformer, n_held_out: int, reads: Reads = "both sides") -> float:
    """Nats of the characters at `PLACES` of n held-out pieces; a causal model reads the left side whatever is asked."""
    asked = [Following(place=place) if model.config.causal else Hidden(place=place, reads=reads) for place in PLACES]
    return float(np.mean([evaluate(model, held_out(LENGTH, n_held_out), one, RECIPE) for one in asked]))


def to_the_end(tokens: Tensor, place: int, most: int = 3) -> list[int]:
    """How many letters of the word follow those at a place, `most` for more; −1 where no letter stands.

    >>> letters = torch.tensor([_characters.characters().encode("a word")])
    >>> [to_the_end(letters, place)[0] for place in range(4)]
    [0, -1, 3, 2]
    """
    vocab = _characters.characters().backend
    found = []
    for row in tokens.tolist():
        text = "".join(vocab.id_to_token(token) if token >= N_SPECIAL else " " for token in row)
        rest = text[place:]
        n = next((i for i, letter in enumerate(rest) if not letter.isalpha()), len(rest))
        found.append(min(n - 1, most))
    return found


@torch.no_grad()
def context_known(model: Transformer, n_pieces: int, seed: int) -> float:
    """Accuracy with which a line reads from the last states of plain text how many letters of the word follow (0, 1, 2, more).

    The states of letters in the middle of held-out pieces; no piece is on both sides of the fit.
    """
    tokens = torch.cat([batch[0] for batch in held_out(LENGTH, n_pieces)])
    site = f"blocks.{model.config.n_layers - 1}.resid_post"
    with record(model, site) as activations:
        model(tokens)
    features, labels, groups = [], [], []
    for place in PLACES:
        for piece, label in enumerate(to_the_end(tokens, place)):
            if label >= 0:
                features.append(activations[site][piece, place].numpy())
                labels.append(label)
                groups.append(piece)
    return float(linear_probe(np.stack(features), labels, groups=groups, seed=seed)["accuracy"].iloc[0])
