"""Which tables hold the attention scores, and what do their columns mean?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from analyses._anatomy import AttentionKind
from analyses._attention_recording import Measured
from analyses._attention_scores import RANDOM, TEXT, sees
from analyses._contract import table
from reports import Table

QUANTILES = {"p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95}
KIND = ("", "self (of the only stack), encoder, decoder or cross")


def attentions_table(text: Sequence[Measured]) -> Table:
    rows = [
        {
            "attention": one.kind.key,
            "name": one.kind.name,
            "sees": sees(one.kind),
            "queries": _sequence(one.kind, queries=True),
            "keys": _sequence(one.kind, queries=False),
            "n_heads": one.kind.side.config.n_layers * one.kind.side.config.n_heads,
            "n_examples": next(iter(one.scores.values())).shape[-1],
            "n_rows": one.n_rows,
        }
        for one in text
    ]
    return table(
        pd.DataFrame(rows),
        "The kinds of attention that the model has.",
        attention=KIND,
        name=("", "in words"),
        sees=("", "causal: itself and earlier tokens; full: its whole sequence; cross: another sequence"),
        queries=("", "the tokens that attend"),
        keys=("", "the tokens attended to"),
        n_heads=("heads", "heads of all layers"),
        n_examples=("examples", "texts, or pairs of source and target"),
        n_rows=("rows", "tokens that attend, padding not counted"),
    )


def heads_table(heads: pd.DataFrame) -> Table:
    known: dict[str, tuple[str, str]] = {
        "attention": KIND,
        "layer": ("", "block"),
        "head": ("", "query head"),
        "kv_head": ("", "key-value head that it reads"),
    }
    for name, (unit, meaning) in (TEXT["causal"] | TEXT["full"] | TEXT["cross"] | RANDOM).items():
        known |= {
            name: (unit, meaning),
            f"{name}_low": (unit, "lower end of its 95 % interval"),
            f"{name}_high": (unit, "upper end of its 95 % interval"),
        }
    return table(heads, "Scores of every head, means over sequences.", **{name: known[name] for name in heads.columns})


def layers_table(text: Sequence[Measured]) -> Table:
    rows = []
    for one in text:
        for layer, entropies in enumerate(one.entropies):
            for dropped, sinks in ((False, "kept"), (True, "left out")):
                normalised, plain = entropies[True, dropped], entropies[False, dropped]
                quantiles = np.quantile(normalised, list(QUANTILES.values())) if normalised.size else [np.nan] * len(QUANTILES)
                median = float(np.median(plain)) if plain.size else np.nan
                row = {"attention": one.kind.key, "layer": layer, "sinks": sinks, "n_rows": normalised.size, "entropy_median": median}
                rows.append(row | dict(zip(QUANTILES, quantiles, strict=True)))
    return table(
        pd.DataFrame(rows, columns=["attention", "layer", "sinks", "n_rows", "entropy_median", *QUANTILES]),
        "Row entropy by layer, over all heads, texts and rows that see at least two keys.",
        attention=KIND,
        layer=("", "block"),
        sinks=("", "is the first token, and where later tokens are seen the last one, among the keys?"),
        n_rows=("rows", "rows of patterns"),
        entropy_median=("nats", "median row entropy"),
        **{name: ("1", f"{name} of normalised row entropy") for name in QUANTILES},
    )


def gates_table(runs: Sequence[Measured], dtype: torch.dtype) -> Table:
    """Every entry of a row may be off by half a unit of its last place, the softmax by a few more."""
    rounding = max(1e-5, 4 * torch.finfo(dtype).eps)
    gates: dict[tuple[str, str], tuple[float, float]] = {}
    for run in runs:
        found = (("deviation of a row's sum from 1", run.row_sum_error, rounding), (f"mass on {_hidden(run.kind)}", run.hidden_mass, 0.0))
        for gate, measured, bound in found:
            if measured is not None:
                before = gates.get((run.kind.key, gate), (measured, bound))[0]
                gates[run.kind.key, gate] = float(np.max([before, measured])), bound  # NaN stays
    rows = [(*key, *value) for key, value in gates.items()]
    return table(
        pd.DataFrame(rows, columns=["attention", "gate", "measured", "bound"]),
        "What must hold whatever the model has learned.",
        attention=KIND,
        gate=("", "identity"),
        measured=("1", "largest deviation"),
        bound=("1", "largest allowed"),
    )


def repeats_table(losses: Mapping[str, tuple[float, int]]) -> Table:
    rows = [{"half": half, "loss": loss, "n_tokens": n} for half, (loss, n) in losses.items()]
    return table(
        pd.DataFrame(rows, columns=["half", "loss", "n_tokens"]),
        "Does the model use the repetition? Mean loss on repeated random tokens.",
        half=("", "first or second occurrence"),
        loss=("nats", "mean cross-entropy of the next token"),
        n_tokens=("tokens", "tokens predicted"),
    )


def flagged_table(flagged: pd.DataFrame) -> Table:
    return table(
        flagged,
        "The most extreme heads.",
        attention=KIND,
        label=("", "layer and head"),
        layer=("", "block"),
        head=("", "head in its layer"),
        why=("", "what it is the extreme of"),
    )


def tokens_table(sequences: Sequence[tuple[str, Sequence[str]]]) -> Table:
    rows = [(sequence, position, token) for sequence, tokens in sequences for position, token in enumerate(tokens)]
    return table(
        pd.DataFrame(rows, columns=["sequence", "position", "token"]),
        "The example, as the model saw it.",
        sequence=("", "text, or source and target"),
        position=("", "position"),
        token=("", "text of the token"),
    )


def _sequence(kind: AttentionKind, *, queries: bool) -> str:
    if kind.key == "self":
        return "text"
    return "source" if kind.key == "encoder" or not queries and kind.key == "cross" else "target"


def _hidden(kind: AttentionKind) -> str:
    """What a query must not see."""
    if kind.key == "self" and kind.causal:
        return "a later token"
    return "a later or masked token" if kind.causal else "a masked token"
