"""How does the loss fall with the length of context? Losses of chunks by position, in bins, with intervals over chunks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses._intervals import bootstrap_mean
from model import Transformer
from probes.metrics import token_losses

POSITIONS_AT_ONCE = 256
"""positions unembedded at once: the logits of a whole chunk would be the largest tensor by far"""


def losses_of(model: Transformer, chunk: Int[Tensor, "1 pos"]) -> np.ndarray:
    """Float[contexts]: one chunk, unembedded in slices."""
    state, n = model.start(chunk), chunk.shape[1]
    for i in range(model.n_layers):
        state = model.step(state, i)
    found = []
    for first in range(0, n - 1, POSITIONS_AT_ONCE):
        here = torch.arange(
            first, min(first + POSITIONS_AT_ONCE, n - 1) + 1, device=chunk.device
        )  # one more: the token that is predicted last
        found.append(token_losses(model.finish(state, here[None]), chunk[:, here])[0])
    return torch.cat(found).double().cpu().numpy()


def bins_of(n_contexts: int) -> list[tuple[int, int]]:
    """Contexts 1, 2–7, 8–15, 16–31, …: first and last of each; a last bin less than half full joins the one before.

    The first token stands alone: where it is an attention sink, what follows it is predicted badly whatever the model can do with context.
    """
    starts = [n for n in (1, 2, *(2**i for i in range(3, 64))) if n <= n_contexts]
    bins = (
        [
            (first, min(after - 1, n_contexts))
            for first, after in zip(starts, [*starts[1:], 2 * starts[-1] if starts[-1] > 2 else 8], strict=True)
        ]
        if starts
        else []
    )
    if len(bins) > 2 and bins[-1][1] - bins[-1][0] + 1 < bins[-1][0] / 2:
        bins[-2:] = [(bins[-2][0], bins[-1][1])]
    return bins


def per_bin(losses: np.ndarray, bins: list[tuple[int, int]]) -> np.ndarray:
    """Float[bins chunks]."""
    return np.stack([losses[:, first - 1 : last].mean(1) for first, last in bins]) if bins else np.empty((0, 0))


def loss_by_context(losses: np.ndarray, bins: list[tuple[int, int]], seed: int) -> pd.DataFrame:
    values = per_bin(losses, bins)
    low, high = bootstrap_mean(values, seed=seed) if bins else (np.empty(0), np.empty(0))
    rows = [
        {"first": a, "last": b, "loss": float(v.mean()), "low": lo, "high": hi, "n": len(v)}
        for (a, b), v, lo, hi in zip(bins, values, low, high, strict=True)
    ]
    return pd.DataFrame(rows, columns=["first", "last", "loss", "low", "high", "n"]).astype({"loss": float, "low": float, "high": float})


def differences_by_context(losses: np.ndarray, bins: list[tuple[int, int]], seed: int) -> pd.DataFrame:
    """The longest contexts against every other bin, in order."""
    values = per_bin(losses, bins)
    rows = []
    for (first, last), one in zip(bins[:-1], values[:-1], strict=True):
        low, high = bootstrap_mean(values[-1] - one, seed=seed)
        rows.append(
            {
                "against": f"{first}–{last}",
                "difference": float((values[-1] - one).mean()),
                "low": float(low),
                "high": float(high),
                "n": len(one),
            }
        )
    return pd.DataFrame(rows, columns=["against", "difference", "low", "high", "n"]).astype(
        {"difference": float, "low": float, "high": float}
    )
