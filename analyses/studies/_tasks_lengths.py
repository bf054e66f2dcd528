"""How does a character model fare behind the length that it was trained on? Its loss by the number of characters it has read."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from analyses.studies._training import LENGTH, held_out
from probes.metrics import token_losses

LONG = 4 * LENGTH
"""characters of a piece that is read in the end; windows of training have 32"""
SPANS = {"17–31": (17, 31), "32–39": (32, 39), "40–63": (40, 63), "64–127": (64, 127)}
"""characters read before the one that is predicted: the first span occurred in training (a window of 32 predicts after 1 to 31), the others did not"""


@torch.no_grad()
def losses_by_context(model: nn.Module, n: int | None = None) -> Float[Tensor, "piece context"]:
    """Nats of each character of the first n held-out pieces of 128 (None: all), after 1, 2, … 127 characters."""
    model.eval()
    return torch.cat([token_losses(model(tokens, mask), tokens) for tokens, mask in held_out(LONG, n)]).double()


def by_span(losses: Float[Tensor, "piece context"]) -> dict[str, float]:
    """The mean loss in every span.

    >>> by_span(torch.arange(1.0, 128.0).expand(2, -1))["32–39"]
    35.5
    """
    return {span: float(losses[:, first - 1 : last].mean()) for span, (first, last) in SPANS.items()}


@torch.no_grad()
def context_gain(model: nn.Module, n: int | None = None) -> float:
    """What the model gains from text that lies further back than its windows of training, in nats per character.

    The loss of the last 32 characters of each piece of 128 when the model reads the last 63 alone, minus that when it reads the
    whole piece: 0 for a model that makes nothing of what is far away, below 0 for one that is confused by it.
    """
    model.eval()
    gains = []
    for tokens, _ in held_out(LONG, n):
        near, last = tokens[:, -2 * LENGTH + 1 :], slice(-LENGTH, None)
        gains.append((token_losses(model(near), near)[:, last] - token_losses(model(tokens), tokens)[:, last]).double())
    return float(torch.cat(gains).mean())
