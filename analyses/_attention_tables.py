"""Which tables hold the attention scores, and what do their columns mean?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from analyses._attention_scores import RANDOM, TEXT, WITH_INTERVAL, Measured
from analyses._contract import table
from reports import Table

QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}


def heads_table(heads: pd.DataFrame) -> Table:
    known: dict[str, tuple[str, str]] = {
        "layer": ("", "block"),
        "head": ("", "query head"),
        "kv_head": ("", "key-value head that it reads"),
    }
    for name, (unit, meaning) in (TEXT | RANDOM).items():
        known[name] = (unit, meaning)
        if name in WITH_INTERVAL:
            known |= {f"{name}_low": (unit, "lower end of its 95 % interval"), f"{name}_high": (unit, "upper end of its 95 % interval")}
    return table(heads, "Scores of every head, means over sequences.", **known)


def layers_table(text: Measured) -> Table:
    rows = []
    for layer, entropies in enumerate(text.entropies):
        for dropped, first_token in ((False, "kept"), (True, "left out")):
            normalised, plain = entropies[True, dropped], entropies[False, dropped]
            quantiles = np.quantile(normalised, list(QUANTILES.values())) if normalised.size else [np.nan] * len(QUANTILES)
            rows.append(
                {
                    "layer": layer,
                    "first_token": first_token,
                    "n_rows": normalised.size,
                    "entropy_median": float(np.median(plain)) if plain.size else np.nan,
                }
                | dict(zip(QUANTILES, quantiles, strict=True))
            )
    frame = pd.DataFrame(rows, columns=["layer", "first_token", "n_rows", "entropy_median", *QUANTILES])
    return table(
        frame,
        "Row entropy by layer, over all heads, texts and rows that see at least two keys.",
        layer=("", "block"),
        first_token=("", "is the first token among the keys?"),
        n_rows=("rows", "rows of patterns"),
        entropy_median=("nats", "median row entropy"),
        **{name: ("1", f"{name} of normalised row entropy") for name in QUANTILES},
    )


def gates_table(runs: list[Measured], dtype: torch.dtype) -> Table:
    """Every entry of a row may be off by half a unit of its last place, the softmax by a few more."""
    measured = [run for run in runs if run.row_sum_error is not None]
    rounding = max(1e-5, 4 * torch.finfo(dtype).eps)
    rows = (
        [
            ("deviation of a row's sum from 1", max(run.row_sum_error for run in measured), rounding),
            ("mass on a later token", max(run.hidden_mass for run in measured), 0.0),
        ]
        if measured
        else []
    )
    return table(
        pd.DataFrame(rows, columns=["gate", "measured", "bound"]),
        "What must hold whatever the model has learned.",
        gate=("", "identity"),
        measured=("1", "largest deviation"),
        bound=("1", "largest allowed"),
    )


def patterns_table(patterns: Mapping[tuple[int, int], np.ndarray]) -> Table:
    frames = []
    for (layer, head), pattern in patterns.items():
        query, key = np.tril_indices(len(pattern))
        frames.append(pd.DataFrame({"label": f"L{layer}H{head}", "query": query, "key": key, "mass": pattern[query, key]}))
    frame = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["label", "query", "key", "mass"])
    return table(
        frame,
        "Patterns of the flagged heads on the example; the mass on later tokens is 0 and left out.",
        label=("", "layer and head"),
        query=("", "position that attends"),
        key=("", "position attended to"),
        mass=("1", "attention probability"),
    )
