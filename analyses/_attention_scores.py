"""How are the patterns of a model reduced to scores per head? One layer's patterns exist at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses._intervals import bootstrap_mean
from model import State, Transformer
from probes import record
from probes.metrics import token_losses
from probes.statistics.attention_scores import (
    duplicate_token_score,
    first_token_mass,
    hidden_mass,
    induction_score,
    mean_distance,
    prefix_matching_score,
    previous_token_score,
    row_entropy,
    row_sum_error,
    sink_score,
)

TEXT = {
    "entropy": ("nats", "mean row entropy on text"),
    "entropy_without_first": ("nats", "the same without the first token, renormalised"),
    "entropy_normalised": ("1", "mean of row entropy over ln(visible keys), on text"),
    "entropy_normalised_without_first": ("1", "the same without the first token, renormalised"),
    "first_token_mass": ("1", "mean mass on the first token, on text, over rows that see at least two keys"),
    "sink_score": ("1", "α_1 of Gu et al. 2024: mass that the first token receives in the first T tokens of text"),
    "sink_share": ("1", "share of the texts in which α_1 exceeds ε"),
    "distance": ("tokens", "mean distance on text (Vig & Belinkov 2019)"),
    "distance_without_first": ("tokens", "the same without the first token"),
    "previous_token_text": ("1", "mean mass on the previous token, on text"),
    "previous_token_text_without_first": ("1", "the same without the first token, renormalised"),
}
RANDOM = {
    "previous_token": ("1", "mean mass on the previous token, on repeated random tokens"),
    "previous_token_without_first": ("1", "the same without the first token, renormalised"),
    "induction": ("1", "mean mass on the token after the earlier occurrence, offset P − 1, second half of repeated random tokens"),
    "induction_without_first": ("1", "the same without the first token, renormalised"),
    "prefix_matching": ("1", "mean mass on tokens that followed an earlier occurrence, by token identity (Olsson et al. 2022)"),
    "duplicate_token": ("1", "mean mass on the earlier occurrence, offset P, second half of repeated random tokens"),
    "duplicate_token_without_first": ("1", "the same without the first token, renormalised"),
}
WITH_INTERVAL = ("first_token_mass", "previous_token", "induction", "induction_without_first", "duplicate_token")

Scores = dict[str, Float[Tensor, "batch head"]]


@dataclass(frozen=True)
class Measured:
    """Scores, name → Float[layer head example]; the two correctness gates; normalised and plain row entropies by layer; the loss by half."""

    scores: dict[str, Float[np.ndarray, "layer head example"]]
    row_sum_error: float | None = None
    hidden_mass: float | None = None
    entropies: list[dict[tuple[bool, bool], np.ndarray]] = field(default_factory=list)
    """one per layer: (normalised, without_first) → entropies of all rows of all heads and texts"""
    losses: dict[str, tuple[float, int]] = field(default_factory=dict)
    """half → mean loss, tokens predicted"""


def nothing(names: Sequence[str], model: Transformer) -> Measured:
    """What is measured where there is no input: every score is missing."""
    return Measured({name: np.full((model.n_layers, model.n_heads, 0), np.nan) for name in names})


def on_text(model: Transformer, tokens: Int[Tensor, "batch pos"], *, batch_size: int, sink_length: int, sink_threshold: float) -> Measured:
    """The scores of `TEXT`."""
    rows: list[dict[tuple[bool, bool], list[np.ndarray]]] = [{} for _ in range(model.n_layers)]

    def look(layer: int, pattern: Tensor, tokens: Tensor) -> Scores:
        entropies = {(n, w): row_entropy(pattern, normalised=n, without_first=w) for n in (False, True) for w in (False, True)}
        for version, entropy in entropies.items():
            rows[layer].setdefault(version, []).append(_numpy(entropy).ravel())
        sinks = sink_score(pattern, length=sink_length)
        values = [
            *(entropy.nanmean(-1) for entropy in entropies.values()),
            first_token_mass(pattern),
            sinks,
            (sinks > sink_threshold).to(sinks.dtype),
            mean_distance(pattern),
            mean_distance(pattern, without_first=True),
            previous_token_score(pattern),
            previous_token_score(pattern, without_first=True),
        ]
        return dict(zip(TEXT, values, strict=True))

    scores, row_sum, hidden, _ = _run(model, tokens, batch_size, look)
    joined = [{version: np.concatenate(parts) for version, parts in layer.items()} for layer in rows]
    return Measured(scores, row_sum, hidden, entropies=[{v: x[~np.isnan(x)] for v, x in layer.items()} for layer in joined])


def on_random_tokens(model: Transformer, tokens: Int[Tensor, "batch pos"], *, batch_size: int) -> Measured:
    """The scores of `RANDOM`, on tokens whose second half repeats the first."""
    period = tokens.shape[1] // 2

    def look(layer: int, pattern: Tensor, tokens: Tensor) -> Scores:
        values = [
            score
            for without_first in (False, True)
            for score in (
                previous_token_score(pattern, without_first=without_first),
                induction_score(pattern, period, without_first=without_first),
                duplicate_token_score(pattern, period, without_first=without_first),
            )
        ]
        names = [f"{name}{ending}" for ending in ("", "_without_first") for name in ("previous_token", "induction", "duplicate_token")]
        return dict(zip(names, values, strict=True)) | {"prefix_matching": prefix_matching_score(pattern, tokens)}

    scores, row_sum, hidden, losses = _run(model, tokens, batch_size, look, lambda state, batch: token_losses(model.finish(state), batch))
    halves = {"first": losses[:, : period - 1], "second": losses[:, period:]}
    return Measured(
        {name: scores[name] for name in RANDOM}, row_sum, hidden, losses={half: (float(x.mean()), x.size) for half, x in halves.items()}
    )


def repeated_tokens(drawable: Sequence[int], n_sequences: int, period: int, *, seed: int) -> Int[Tensor, "batch pos"]:
    """`period` different tokens at random, twice, in every sequence (Olsson et al. 2022).

    >>> repeated_tokens(range(10, 20), 2, 3, seed=0).shape
    torch.Size([2, 6])
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.as_tensor(list(drawable))
    once = torch.stack([ids[torch.randperm(len(ids), generator=generator)[:period]] for _ in range(n_sequences)])
    return torch.cat([once, once], dim=1)


def drawable(model: Transformer) -> list[int]:
    """The vocabulary without special tokens, and without rows of the embedding that no token has."""
    if model.tokenizer is None:
        return list(range(model.config.d_vocab))
    tokenizer = model.tokenizer
    special = {tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id} | set(tokenizer.backend.get_added_tokens_decoder())
    return [i for i in range(min(model.config.d_vocab, tokenizer.backend.get_vocab_size())) if i not in special]


def heads_of(measured: dict[str, Float[np.ndarray, "layer head example"]], *, n_kv_heads: int, seed: int) -> pd.DataFrame:
    """A row per head: means over examples, and 95 % intervals of the scores that are held against a threshold."""
    n_layers, n_heads, _ = next(iter(measured.values())).shape
    layer, head = (grid.ravel() for grid in np.meshgrid(np.arange(n_layers), np.arange(n_heads), indexing="ij"))
    columns: dict[str, np.ndarray] = {"layer": layer, "head": head, "kv_head": head // (n_heads // n_kv_heads)}
    for name, values in measured.items():
        columns[name] = _mean(values).ravel()
        if name in WITH_INTERVAL:
            low, high = bootstrap_mean(values, seed=seed)
            columns |= {f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
    return pd.DataFrame(columns)


def patterns_of(
    model: Transformer, tokens: Int[Tensor, "1 pos"], heads: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], Float[np.ndarray, "query key"]]:
    """The patterns of some (layer, head) on one sequence."""
    if not heads:
        return {}
    with record(model, sorted({f"blocks.{layer}.attn.pattern" for layer, _ in heads})) as activations:
        model(tokens)
    return {(layer, head): _numpy(activations[f"blocks.{layer}.attn.pattern"][0, head]) for layer, head in heads}


def _run(
    model: Transformer,
    tokens: Tensor,
    batch_size: int,
    look: Callable[[int, Tensor, Tensor], Scores],
    end: Callable[[State, Tensor], Tensor] | None = None,
) -> tuple[dict[str, np.ndarray], float, float, np.ndarray | None]:
    """`look` at every layer's patterns in turn, and at the `end` at the last state. Scores, the two gates, what `end` gave, by example."""
    collected: list[list[dict[str, np.ndarray]]] = []  # batch, layer
    row_sums, hidden, ends = [], [], []
    for batch in tokens.split(batch_size):
        state = model.start(batch)
        collected.append([])
        for layer in range(model.n_layers):
            site = f"blocks.{layer}.attn.pattern"
            with record(model, site) as activations:
                state = model.step(state, layer)
            pattern = activations[site]
            row_sums.append(row_sum_error(pattern))
            hidden.append(hidden_mass(pattern))
            collected[-1].append({name: _numpy(score) for name, score in look(layer, pattern, batch).items()})
        if end is not None:
            ends.append(_numpy(end(state, batch)))
    names = collected[0][0]
    scores = {
        name: np.stack([np.concatenate([batch[layer][name] for batch in collected]).T for layer in range(model.n_layers)]) for name in names
    }
    return scores, float(np.max(row_sums)), float(np.max(hidden)), np.concatenate(ends) if ends else None


def _mean(values: Float[np.ndarray, "... examples"]) -> Float[np.ndarray, "..."]:
    """The mean over the examples in which a score is defined, NaN where it is in none."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(-1)
    return np.divide(total, there.sum(-1), out=np.full(total.shape, np.nan), where=there.any(-1))


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
