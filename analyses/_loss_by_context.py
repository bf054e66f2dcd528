"""How does the loss fall with the length of context? Losses by position, in bins, with intervals over chunks of text or targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float

from analyses._anatomy import Inputs, Model
from analyses._corpus import Corpus, CorpusError
from analyses._examples import examples
from model import EncoderDecoder
from probes.inputs import written
from probes.intervals import bootstrap_mean
from probes.metrics import token_losses

POSITIONS_AT_ONCE = 256
"""positions unembedded at once: the logits of a whole chunk would be the largest tensor by far"""
LossOf = Literal["text", "given targets", "own targets", "nothing"]


@dataclass(frozen=True)
class Read:
    """What the loss by position is taken on: the inputs, one example each, and what they are."""

    inputs: tuple[Inputs, ...]
    loss_of: LossOf

    @property
    def lengths(self) -> list[int]:
        """Tokens of the texts that the loss is of."""
        return [written(one)[0].shape[1] for one in self.inputs]


def what_is_read(model: Model, corpus: Corpus, n_chunks: int, length: int) -> Read:
    """Chunks of the text in a decoder, pairs without their padding in an encoder-decoder; nothing where there is no loss by position.

    That is an encoder, which sees all positions at once, and a model without a head.
    """
    two = isinstance(model, EncoderDecoder)
    config = model.config.decoder if two else model.config
    if config.head == "none" or not config.causal:
        return Read((), "nothing")
    given = all(p.target is not None for p in corpus.prompts) and corpus.prompts
    loss_of: LossOf = "text" if not two else "given targets" if given else "own targets"
    if not two:
        length = min(length, model.config.n_ctx, max(2, len(corpus.tokens) // 2))
    try:
        inputs = examples(model, corpus, n_chunks, length) if length > 1 else ()
    except CorpusError:
        inputs = ()
    if two and inputs:
        source, target, source_mask, target_mask = inputs
        pairs = zip(source, target, source_mask, target_mask, strict=True)
        return Read(tuple((s[real][None], t[written_][None]) for s, t, real, written_ in pairs), loss_of)
    return Read(tuple((chunk[None],) for chunk in inputs[0]) if inputs else (), loss_of)


def losses_by_context(model: Model, read: Read) -> Float[np.ndarray, "chunks contexts"]:
    """The loss after 1, 2, … tokens, NaN behind the end of a target; as many as at least half of the targets have, and two of them."""
    losses = [losses_of(model, one) for one, n in zip(read.inputs, read.lengths, strict=True) if n > 1]
    if not losses:
        return np.empty((0, 0))
    joined = np.full((len(losses), max(map(len, losses))), np.nan)
    for row, values in zip(joined, losses, strict=True):
        row[: len(values)] = values
    least = min(len(losses), max(2, -(-len(losses) // 2)))
    return joined[:, (~np.isnan(joined)).sum(0) >= least]


def losses_of(model: Model, inputs: Inputs) -> Float[np.ndarray, "contexts"]:
    """One example without padding, unembedded in slices."""
    tokens, state = written(inputs)[0], model.start(*inputs)
    for i in range(model.n_layers):
        state = model.step(state, i)
    found, n = [], tokens.shape[1]
    for first in range(0, n - 1, POSITIONS_AT_ONCE):
        last = min(first + POSITIONS_AT_ONCE, n - 1)
        here = torch.arange(first, last + 1, device=tokens.device)  # one more: the token that is predicted last
        found.append(token_losses(model.finish(state, here[None]), tokens[:, here])[0])
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


def per_bin(losses: Float[np.ndarray, "chunks contexts"], bins: list[tuple[int, int]]) -> Float[np.ndarray, "bins chunks"]:
    """The mean of every chunk over the contexts of a bin that it has, NaN where it has none."""
    return np.stack([_mean(losses[:, first - 1 : last]) for first, last in bins]) if bins else np.empty((0, 0))


def _mean(values: Float[np.ndarray, "chunks contexts"]) -> Float[np.ndarray, "chunks"]:
    known = _known(values)
    if known.all():
        return values.mean(1)
    n = known.sum(1)
    return np.where(n > 0, np.where(known, values, 0).sum(1) / np.maximum(n, 1), np.nan)


def _known(values: np.ndarray) -> Bool[np.ndarray, "..."]:
    return ~np.isnan(values)


def _interval(values: Float[np.ndarray, "bins chunks"], seed: int) -> list[tuple[float, float]]:
    """Of the mean over the chunks that a bin has; all bins share their resamples where every chunk has all of them."""
    if _known(values).all():
        return list(zip(*bootstrap_mean(values, seed=seed), strict=True))
    return [bootstrap_mean(one[_known(one)], seed=seed) for one in values]


def loss_by_context(losses: np.ndarray, bins: list[tuple[int, int]], seed: int) -> pd.DataFrame:
    """The mean loss of every bin with its interval."""
    values = per_bin(losses, bins)
    ends = _interval(values, seed) if bins else []
    rows = [
        {"first": a, "last": b, "loss": float(v[_known(v)].mean()), "low": float(lo), "high": float(hi), "n": int(_known(v).sum())}
        for (a, b), v, (lo, hi) in zip(bins, values, ends, strict=True)
    ]
    return pd.DataFrame(rows, columns=["first", "last", "loss", "low", "high", "n"]).astype({"loss": float, "low": float, "high": float})


def differences_by_context(losses: np.ndarray, bins: list[tuple[int, int]], seed: int) -> pd.DataFrame:
    """The longest contexts against every other bin, in order, over the chunks that have both."""
    values = per_bin(losses, bins)
    rows = []
    for (first, last), one in zip(bins[:-1], values[:-1], strict=True):
        change = (values[-1] - one)[_known(values[-1] - one)]
        low, high = bootstrap_mean(change, seed=seed)
        row = {"against": f"{first}–{last}", "difference": float(change.mean()), "low": float(low), "high": float(high)}
        rows.append(row | {"n": len(change)})
    return pd.DataFrame(rows, columns=["against", "difference", "low", "high", "n"]).astype(
        {"difference": float, "low": float, "high": float}
    )
