"""Which scores has a head, by what it sees? A causal head, one that sees its whole sequence, and one that reads another sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from analyses._anatomy import AttentionKind, head_label
from probes.intervals import bootstrap_mean
from probes.statistics import View
from probes.statistics import attention_scores as score

WITHOUT: dict[str, score.Without] = {"causal": "first", "full": "ends", "cross": "ends"}
"""What a kind of attention sees → the keys that may be sinks: the first token, where later ones are seen the last one as well."""
ENTROPY = {
    "entropy": ("nats", "mean row entropy on text"),
    "entropy_without_first": ("nats", "the same without the first token, renormalised"),
    "entropy_normalised": ("1", "mean of row entropy over ln(visible keys), on text"),
    "entropy_normalised_without_first": ("1", "the same without the first token, renormalised"),
}
CAUSAL = ENTROPY | {
    "first_token_mass": ("1", "mean mass on the first token, on text, over rows that see at least two keys"),
    "sink_score": ("1", "α_1 of Gu et al. 2024: mass that the first token receives in the first T tokens of text"),
    "sink_share": ("1", "share of the texts in which α_1 exceeds ε"),
    "distance": ("tokens", "mean distance on text (Vig & Belinkov 2019)"),
    "distance_without_first": ("tokens", "the same without the first token"),
    "previous_token_text": ("1", "mean mass on the previous token, on text"),
    "previous_token_text_without_first": ("1", "the same without the first token, renormalised"),
}
ENDS = {name.replace("without_first", "without_ends"): what for name, what in ENTROPY.items()}
ENDS |= {name: (unit, "the same without the first and the last token, renormalised") for name, (unit, _) in ENDS.items() if "ends" in name}
ENDS |= {
    "first_token_mass": CAUSAL["first_token_mass"],
    "last_token_mass": ("1", "mean mass on the last token, on text, over rows that see at least two keys"),
}
FULL = ENDS | {
    "distance": CAUSAL["distance"],
    "distance_without_ends": ("tokens", "the same without the first and the last token"),
    "previous_token_text": CAUSAL["previous_token_text"],
    "previous_token_text_without_ends": ("1", "the same without the first and the last token, renormalised"),
    "next_token_text": ("1", "mean mass on the next token, on text"),
    "next_token_text_without_ends": ("1", "the same without the first and the last token, renormalised"),
    "same_token_text": ("1", "mean mass of a token on itself, on text"),
}
CROSS = ENDS | {
    "monotonicity": ("1", "correlation of target and source position, pairs weighted by their mass"),
    "monotonicity_without_ends": ("1", "the same without the first and the last token, renormalised"),
    "diagonal_share": ("1", "share of target tokens whose largest mass is within one token of a constant pace through the source"),
    "diagonal_share_without_ends": ("1", "the same without the first and the last token"),
}
TEXT = {"causal": CAUSAL, "full": FULL, "cross": CROSS}
"""What a kind of attention sees → the scores that it has on text, each with its unit and meaning."""
RANDOM = {
    "previous_token": ("1", "mean mass on the previous token, on repeated random tokens"),
    "previous_token_without_first": ("1", "the same without the first token, renormalised"),
    "induction": ("1", "mean mass on the token after the earlier occurrence, offset P − 1, second half of repeated random tokens"),
    "induction_without_first": ("1", "the same without the first token, renormalised"),
    "prefix_matching": ("1", "mean mass on tokens that followed an earlier occurrence, by token identity (Olsson et al. 2022)"),
    "duplicate_token": ("1", "mean mass on the earlier occurrence, offset P, second half of repeated random tokens"),
    "duplicate_token_without_first": ("1", "the same without the first token, renormalised"),
}
"""The scores on repeated random tokens: of a causal language model alone."""
WITH_INTERVAL = {
    "causal": ("first_token_mass", "previous_token", "induction", "induction_without_first", "duplicate_token"),
    "full": ("first_token_mass", "last_token_mass", "previous_token_text", "next_token_text"),
    "cross": ("first_token_mass", "last_token_mass", "monotonicity_without_ends"),
}
ROLES = {
    "causal": {
        "previous_token": "previous token",
        "induction_without_first": "induction",
        "duplicate_token_without_first": "duplicate token",
        "sink_score": "sink",
        "entropy_normalised_without_first": "broadest",
        "distance_without_first": "farthest",
    },
    "full": {
        "previous_token_text": "previous token",
        "next_token_text": "next token",
        "first_token_mass": "first token",
        "last_token_mass": "last token",
        "entropy_normalised_without_ends": "broadest",
        "distance_without_ends": "farthest",
    },
    "cross": {
        "monotonicity_without_ends": "monotone",
        "diagonal_share_without_ends": "constant pace",
        "first_token_mass": "first token",
        "last_token_mass": "last token",
        "entropy_normalised_without_ends": "broadest",
    },
}
"""What a kind sees → score → what the head with the largest is shown as; entropies are normalised, distances in tokens."""

Scores = dict[str, Float[Tensor, "batch head"]]
Entropies = dict[tuple[bool, bool], Float[Tensor, "batch head query"]]
"""(normalised?, sinks left out?) → row entropies"""


@dataclass(frozen=True)
class Thresholds:
    """Above which a head is called so: by mass on one kind of token, by mass on a sink, by monotonicity."""

    mass: float
    sink: float
    monotone: float


def sees(kind: AttentionKind) -> str:
    """What its queries see: "causal", "full" or "cross"."""
    return "cross" if kind.key == "cross" else "causal" if kind.causal else "full"


def row_entropies(pattern: Tensor, view: View) -> Entropies:
    """Every row's entropy, plain and normalised, with the sinks and without."""
    without: tuple[score.Without, score.Without] = ("nothing", WITHOUT[view.kind])
    return {
        (n, bool(i)): score.row_entropy(pattern, view, normalised=n, without=out) for n in (False, True) for i, out in enumerate(without)
    }


def text_scores(pattern: Tensor, view: View, entropies: Entropies, *, sink_length: int, sink_threshold: float) -> Scores:
    """The scores of `TEXT` for what the view sees."""
    out = WITHOUT[view.kind]
    if view.kind == "causal":
        sinks = score.sink_score(pattern, view, length=sink_length)
        ends = [score.first_token_mass(pattern, view), sinks, (sinks > sink_threshold).to(sinks.dtype)]
    else:
        ends = [score.first_token_mass(pattern, view), score.last_token_mass(pattern, view)]
    both = {
        "causal": (score.mean_distance, score.previous_token_score),
        "full": (score.mean_distance, score.previous_token_score, score.next_token_score),
        "cross": (score.monotonicity, score.diagonal_share),
    }[view.kind]
    rest = [of(pattern, view, without=without) for of in both for without in ("nothing", out)]
    rest += [score.same_token_score(pattern, view)] if view.kind == "full" else []
    return dict(zip(TEXT[view.kind], [*(rows.nanmean(-1) for rows in entropies.values()), *ends, *rest], strict=True))


def random_scores(pattern: Tensor, view: View, tokens: Tensor, period: int) -> Scores:
    """The scores of `RANDOM`, on tokens that repeat with this period."""
    found: Scores = {}
    for ending, without in (("", "nothing"), ("_without_first", "first")):
        found |= {
            f"previous_token{ending}": score.previous_token_score(pattern, view, without=without),
            f"induction{ending}": score.induction_score(pattern, period, view, without=without),
            f"duplicate_token{ending}": score.duplicate_token_score(pattern, period, view, without=without),
        }
    found["prefix_matching"] = score.prefix_matching_score(pattern, tokens, view)
    return {name: found[name] for name in RANDOM}


def heads_of(kind: AttentionKind, scores: dict[str, Float[np.ndarray, "layer head example"]], *, seed: int) -> pd.DataFrame:
    """A row per head: means over examples, and 95 % intervals of the scores that are held against a threshold."""
    n_layers, n_heads, _ = next(iter(scores.values())).shape
    layer, head = (grid.ravel() for grid in np.meshgrid(np.arange(n_layers), np.arange(n_heads), indexing="ij"))
    group = kind.side.config.n_heads // kind.side.config.n_kv_heads
    columns: dict[str, np.ndarray | str] = {"attention": kind.key, "layer": layer, "head": head, "kv_head": head // group}
    for name, values in scores.items():
        columns[name] = _mean(values).ravel()
        if name in WITH_INTERVAL[sees(kind)]:
            low, high = bootstrap_mean(values, seed=seed)
            columns |= {f"{name}_low": low.ravel(), f"{name}_high": high.ravel()}
    return pd.DataFrame(columns)


def flagged(heads: pd.DataFrame, kind: AttentionKind) -> pd.DataFrame:
    """The most extreme heads of one kind of attention; a head that is extreme twice stands once, with both reasons."""
    heads, reasons = heads[heads["attention"] == kind.key], {}
    roles = ROLES[sees(kind)]
    if "previous_token" not in heads:
        roles = {("previous_token_text" if column == "previous_token" else column): why for column, why in roles.items()}
    for column, why in roles.items():
        if column in heads and heads[column].notna().any():
            row = heads.loc[heads[column].idxmax()]
            reasons.setdefault((int(row["layer"]), int(row["head"])), []).append(f"{why} {row[column]:.2f}")
    rows = [(kind.key, head_label(kind.key, *place), *place, "; ".join(why)) for place, why in reasons.items()]
    return pd.DataFrame(rows, columns=["attention", "label", "layer", "head", "why"])


def missing(kind: AttentionKind, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What is measured where there is no input: every score is missing."""
    return {name: np.full((kind.side.config.n_layers, kind.side.config.n_heads, 0), np.nan) for name in names}


def _mean(values: Float[np.ndarray, "... examples"]) -> Float[np.ndarray, "..."]:
    """The mean over the examples in which a score is defined, NaN where it is in none."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(-1)
    return np.divide(total, there.sum(-1), out=np.full(total.shape, np.nan), where=there.any(-1))
