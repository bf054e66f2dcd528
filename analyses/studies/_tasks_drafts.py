"""How many passes does a text take? A cheap guess of the next tokens, checked by the model in one pass (Leviathan et al. 2023, greedy)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Draft = Callable[[Sequence[int], int], list[int]]
"""tokens so far, how many more → a guess of them"""


def ngram_draft(tokens: Sequence[int], order: int = 5) -> Draft:
    """What most often followed the longest of the last tokens, up to `order` of them, that `tokens` hold; the earlier on a tie.

    >>> ngram_draft([1, 2, 3, 1, 2, 3])([9, 1], 3)
    [2, 3, 1]
    """
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for i, token in enumerate(tokens):
        for n in range(min(order, i) + 1):
            counts[tuple(tokens[i - n : i])][token] += 1
    likeliest = {suffix: found.most_common(1)[0][0] for suffix, found in counts.items()}

    def draft(so_far: Sequence[int], n: int) -> list[int]:
        written = list(so_far)
        for _ in range(n):
            suffixes = (tuple(written[len(written) - k :]) for k in range(min(order, len(written)), -1, -1))
            written.append(next(likeliest[suffix] for suffix in suffixes if suffix in likeliest))
        return written[len(so_far) :]

    return draft


@torch.no_grad()
def write_checked(model: nn.Module, draft: Draft, prompt: Sequence[int], *, n_new: int, ahead: int = 4) -> tuple[list[int], int]:
    """The same `n_new` tokens that the model writes one at a time, each the likeliest, and the passes of the model that they took.

    A pass reads the text and a guess of up to `ahead` tokens; the guess is kept as far as it is what the model would write, and
    the model's own next token behind it.
    """
    written, passes = list(prompt), 0
    while len(written) - len(prompt) < n_new:
        left = n_new - (len(written) - len(prompt))
        guess = draft(written, min(ahead, left - 1))
        chosen = _choices(model, [*written, *guess])[len(written) - 1 :]
        kept = next((i for i, (mine, own) in enumerate(zip(guess, chosen, strict=False)) if mine != own), len(guess))
        written, passes = [*written, *chosen[: kept + 1]], passes + 1
    return written[len(prompt) :], passes


def _choices(model: nn.Module, tokens: list[int]) -> list[int]:
    """The likeliest token behind every place."""
    logits: Tensor = model(torch.tensor([tokens]))
    return logits[0].argmax(-1).tolist()
