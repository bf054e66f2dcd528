"""How are attention scores shown? A map of layers and heads per score, entropy by layer, and the patterns of flagged heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses._contract import Tables
from reports import AttentionMap, Figure, Heatmap, Lines, Series


def label_of(row: pd.Series) -> str:
    """The name of the head in a row."""
    return f"L{int(row['layer'])}H{int(row['head'])}"


def best(heads: pd.DataFrame, column: str) -> str:
    """The head with the largest score, and the score."""
    if heads[column].isna().all():
        return "undefined"
    row = heads.loc[heads[column].idxmax()]
    return f"{label_of(row)}, {row[column]:.2f}"


@dataclass(frozen=True)
class _Map:
    """One score on the grid of layers and heads. `title` and `caption` may use {above}, {n}, {best}, {median}, {threshold}."""

    name: str
    column: str
    unit: str
    title: str
    caption: str
    threshold: float


def draw(tables: Tables, *, threshold: float, sink_threshold: float) -> tuple[Figure, ...]:
    """Every figure whose data are there."""
    heads = tables["heads"].frame
    maps = [
        _Map(
            "entropy",
            "entropy_normalised_without_first",
            "normalised entropy",
            "Entropy without the first token: {median} of the maximum in the median head",
            "Mean row entropy over ln(visible keys) on text, first token left out and the rest renormalised: 0 looks at one token, 1 at all alike.",
            1.0,
        ),
        _Map(
            "first-token",
            "first_token_mass",
            "mass on first token",
            "First token: {above} of {n} heads rest more than {threshold} of their attention on it, most of all {best}",
            "Mean mass on the first token of a text, over rows that see at least two keys: an attention sink where it is large.",
            sink_threshold,
        ),
        _Map(
            "previous-token",
            "previous_token",
            "mass on previous token",
            "Previous token: {above} of {n} heads above {threshold}, best {best}",
            "Mean mass on the token before, on repeated random tokens: bright heads move information one position on.",
            threshold,
        ),
        _Map(
            "induction",
            "induction_without_first",
            "induction score",
            "Induction: {above} of {n} heads above {threshold} without the first token, best {best}",
            "Mean mass on the token that followed the earlier occurrence, on the second half of repeated random tokens, first token left out and the rest renormalised.",
            threshold,
        ),
    ]
    drawn: list[Figure] = [_heatmap(one, heads) for one in maps if heads[one.column].notna().any()]
    if tables["layers"].frame["median"].notna().any():
        drawn.insert(1 if drawn else 0, _entropy_by_layer(tables["layers"].frame))
    if not tables["patterns"].frame.empty:
        drawn.append(_patterns(tables))
    return tuple(drawn)


def _heatmap(one: _Map, heads: pd.DataFrame) -> Heatmap:
    grid = heads.pivot(index="layer", columns="head", values=one.column)
    values = heads[one.column]
    facts = {
        "above": int((values > one.threshold).sum()),
        "n": len(heads),
        "best": best(heads, one.column),
        "median": f"{values.median():.2f}",
        "threshold": one.threshold,
    }
    ranked = heads.dropna(subset=[one.column]).sort_values(one.column, ascending=False, kind="stable").head(5)
    largest = ", ".join(f"{label_of(row)} {row[one.column]:.2f}" for _, row in ranked.iterrows())
    return Heatmap(
        name=one.name,
        title=one.title.format(**facts),
        caption=f"{one.caption} One cell per head, means over sequences; n = {len(heads)} heads.",
        alt=f"Grid of {grid.shape[0]} layers by {grid.shape[1]} heads. Smallest {values.min():.2f}, median {values.median():.2f}; largest {largest}.",
        values=grid.to_numpy(dtype=float),
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        row_label="layer",
        column_label="head",
        unit=one.unit,
        low=0.0,
        high=1.0,
    )


def _entropy_by_layer(layers: pd.DataFrame) -> Lines:
    names = {"kept": "all keys", "left out": "first token left out"}
    parts = {first: layers[layers.first_token == first] for first in names}
    series = {
        name: Series(y=parts[first]["median"].to_numpy(), low=parts[first].p25.to_numpy(), high=parts[first].p75.to_numpy())
        for first, name in names.items()
    }
    medians = {first: part["median"].median() for first, part in parts.items()}
    lowest = {first: part.loc[part["median"].idxmin()] if part["median"].notna().any() else None for first, part in parts.items()}
    alt = ". ".join(
        f"{names[first].capitalize()}: median of layers {medians[first]:.2f}"
        + ("" if row is None else f", lowest {row['median']:.2f} in layer {int(row['layer'])}")
        for first, row in lowest.items()
    )
    return Lines(
        name="entropy-by-layer",
        title=f"Entropy looks like {medians['kept']:.2f} of the maximum with the first token, {medians['left out']:.2f} without it",
        caption=f"Median over all heads, texts and rows; the band holds the middle half of them (25–75 %, n = {int(layers.n_rows.max()):,} rows per layer). A gap between the lines is the work of an attention sink.",
        alt=alt + ".",
        x=parts["kept"].layer.to_numpy(dtype=float),
        series=series,
        x_label="layer",
        y_label="row entropy / ln(visible keys)",
    )


def _patterns(tables: Tables) -> AttentionMap:
    long, flagged = tables["patterns"].frame, tables["flagged"].frame
    tokens = tables["tokens"].frame.token.tolist()
    patterns = {}
    for label in flagged.label:
        rows = long[long.label == label]
        patterns[label] = np.zeros((len(tokens), len(tokens)))
        patterns[label][rows["query"], rows.key] = rows.mass
    strongest = [
        f"{label} query {i} looks at key {int(p[i].argmax())} with {p[i].max():.2f}"
        for label, p in patterns.items()
        for i in [len(tokens) - 1]
    ]
    return AttentionMap(
        name="flagged-heads",
        title="What the most extreme heads look at: " + ", ".join(patterns),
        caption=f"Patterns on one text of {len(tokens)} tokens; each row is a token that looks at itself and those before it. A head's extreme was measured on other texts. Attention is not importance: see ablation.",
        alt="At the last token, " + "; ".join(strongest) + ".",
        patterns=patterns,
        queries=tokens,
        keys=tokens,
        notes=dict(zip(flagged.label, flagged.why, strict=True)),
    )
