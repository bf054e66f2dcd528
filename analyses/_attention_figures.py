"""How are attention scores shown? A map of layers and heads per score, entropy by layer, and the patterns of flagged heads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._attention_evidence import Part, parts_of
from analyses._attention_scores import ROLES, WITHOUT, Thresholds
from analyses._attention_thumbnails import thumbnails_of, whole_maps_of
from analyses._contract import Tables
from reports import AttentionMap, Figure, Heatmap, Lines, Series


@dataclass(frozen=True)
class _Map:
    """One score on the grid of layers and heads. `title` and `caption` may use {above}, {n}, {best}, {median}, {threshold}."""

    name: str
    column: str
    unit: str
    title: str
    caption: str
    threshold: float
    signed: bool = False


def draw(tables: Tables, above: Thresholds) -> tuple[Figure, ...]:
    """Every figure whose data are there, one kind of attention after another."""
    return tuple(figure for part in parts_of(tables) for figure in _drawn(part, tables, above))


def _drawn(part: Part, tables: Tables, above: Thresholds) -> Iterator[Figure]:
    layers, patterns = (frame[frame["attention"] == part.attention] for frame in (tables["layers"].frame, tables["patterns"].frame))
    maps = [_entropy(part), *_masses(part, above)]
    drawn: list[Figure] = [_heatmap(one, part) for one in maps if part.has(one.column)]
    if layers["median"].notna().any():
        drawn.insert(1 if drawn else 0, _entropy_by_layer(part, layers))
    if part.has("first_token_mass"):
        drawn.append(_sink_by_layer(part))
    yield from drawn
    if part.attention in set(tables["flagged"].frame["attention"]):
        yield _patterns(part, patterns, tables)


def _entropy(part: Part) -> _Map:
    return _Map(
        "entropy",
        part.entropy,
        "normalised entropy",
        f"Entropy without {part.left_out}: {{median}} of the maximum in the median head",
        f"Mean row entropy over ln(visible keys) on text, {_without(part)} left out and the rest renormalised: 0 looks at one token, 1 at all alike.",
        1.0,
    )


def _masses(part: Part, above: Thresholds) -> list[_Map]:
    ends = [
        _Map(
            f"{end}-token",
            f"{end}_token_mass",
            f"mass on {end} token",
            f"{end.capitalize()} token: {{above}} of {{n}} heads rest more than {{threshold}} of their attention on it, most of all {{best}}",
            f"Mean mass on the {end} token of {'the source' if part.sees == 'cross' else 'a text'}, over rows that see at least two keys: an attention sink where it is large.",
            above.sink,
        )
        for end in ("first", "last")
    ]
    if part.sees == "cross":
        return [*ends, _monotonicity(above.monotone)]
    if part.sees == "full":
        return [*ends, _neighbour("previous", "before", "_text", above.mass), _neighbour("next", "after", "_text", above.mass)]
    return [ends[0], _neighbour("previous", "before", "" if part.repeats else "_text", above.mass), _induction(above.mass)]


def _neighbour(which: str, where: str, ending: str, threshold: float) -> _Map:
    on, on_from = ("text", "from one position to its neighbour") if ending else ("repeated random tokens", "one position on")
    return _Map(
        f"{which}-token",
        f"{which}_token{ending}",
        f"mass on {which} token",
        f"{which.capitalize()} token: {{above}} of {{n}} heads above {{threshold}}, best {{best}}",
        f"Mean mass on the token {where}, on {on}: bright heads move information {on_from}.",
        threshold,
    )


def _induction(threshold: float) -> _Map:
    return _Map(
        "induction",
        "induction_without_first",
        "induction score",
        "Induction: {above} of {n} heads above {threshold} without the first token, best {best}",
        "Mean mass on the token that followed the earlier occurrence, on the second half of repeated random tokens, first token left out and the rest renormalised.",
        threshold,
    )


def _monotonicity(threshold: float) -> _Map:
    return _Map(
        "monotonicity",
        f"monotonicity_without_{WITHOUT['cross']}",
        "monotonicity",
        "Monotonicity: {above} of {n} heads above {threshold} follow the source in step with the target, best {best}",
        "Correlation of target and source position, every pair weighted by its attention, first and last source token left out: 1 follows the source, "
        "0 looks at the same tokens throughout, below 0 runs backwards.",
        threshold,
        signed=True,
    )


def _heatmap(one: _Map, part: Part) -> Heatmap:
    grid = part.heads.pivot(index="layer", columns="head", values=one.column)
    values = part.heads[one.column]
    ranked = part.heads.dropna(subset=[one.column]).sort_values(one.column, ascending=False, kind="stable").head(5)
    largest = [f"{_place(row)} {row[one.column]:.2f}" for _, row in ranked.iterrows()]
    facts = {
        "above": int((values > one.threshold).sum()),
        "n": len(values),
        "best": largest[0].replace(" ", ", "),
        "median": f"{values.median():.2f}",
        "threshold": one.threshold,
    }
    return Heatmap(
        part="heads",
        name=_name(part, one.name),
        title=_title(part, one.title.format(**facts)),
        caption=f"{one.caption} One cell per head, means over sequences; n = {len(values)} heads.",
        alt=f"Grid of {grid.shape[0]} layers by {grid.shape[1]} heads. Smallest {values.min():.2f}, median {values.median():.2f}; largest {', '.join(largest)}.",
        values=grid.to_numpy(dtype=float),
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        column_groups=_groups(part),
        row_label="layer",
        column_label="head",
        unit=one.unit,
        low=-1.0 if one.signed else 0.0,
        high=1.0,
        signed=one.signed,
    )


def _entropy_by_layer(part: Part, layers: pd.DataFrame) -> Lines:
    names = {"kept": "all keys", "left out": "first token left out" if part.sees == "causal" else "first and last left out"}
    split = {sinks: layers[layers["sinks"] == sinks] for sinks in names}
    series = {
        name: Series(y=split[sinks]["median"].to_numpy(), low=split[sinks]["p25"].to_numpy(), high=split[sinks]["p75"].to_numpy())
        for sinks, name in names.items()
    }
    medians = {sinks: rows["median"].median() for sinks, rows in split.items()}
    lowest = {sinks: rows.loc[rows["median"].idxmin()] if rows["median"].notna().any() else None for sinks, rows in split.items()}
    alt = ". ".join(
        f"{names[sinks].capitalize()}: median of layers {medians[sinks]:.2f}"
        + ("" if row is None else f", lowest {row['median']:.2f} in layer {int(row['layer'])}")
        for sinks, row in lowest.items()
    )
    without = "it" if part.sees == "causal" else "them"
    return Lines(
        part="layers",
        name=_name(part, "entropy-by-layer"),
        title=_title(
            part,
            f"Entropy looks like {medians['kept']:.2f} of the maximum with {part.left_out}, {medians['left out']:.2f} without {without}",
        ),
        caption=f"Median over all heads, texts and rows; the band holds the middle half of them (25–75 %, n = {int(layers['n_rows'].max()):,} rows per layer). "
        "A gap between the lines is the work of an attention sink.",
        alt=alt + ".",
        x=split["kept"]["layer"].to_numpy(dtype=float),
        series=series,
        x_label="layer",
        y_label="row entropy / ln(visible keys)",
    )


def _sink_by_layer(part: Part) -> Lines:
    """How much of their attention the heads of each block rest on the first token."""
    quantiles = part.heads.groupby("layer")["first_token_mass"].quantile([0.05, 0.5, 0.95, 1.0]).unstack()
    low, median, high, top = (quantiles[share].to_numpy() for share in (0.05, 0.5, 0.95, 1.0))
    peak = int(np.nanargmax(median))
    return Lines(
        part="layers",
        name=_name(part, "sink-by-layer"),
        title=_title(part, f"The median head rests {median[peak]:.0%} of its attention on the first token in layer {quantiles.index[peak]}, {median[0]:.0%} in the first"),
        caption="Mean mass on the first token over rows that see at least two keys; median over the heads of a layer, the band holds 5–95 % of them "
        f"(n = {len(part.heads) // len(quantiles)} heads per layer).",
        alt="Median " + ", ".join(f"{median[i]:.2f} in layer {quantiles.index[i]}" for i in range(0, len(median), max(1, len(median) // 6))) + f"; largest head {np.nanmax(top):.2f}.",
        x=quantiles.index.to_numpy(dtype=float),
        series={"median head": Series(y=median, low=low, high=high), "largest head": Series(y=top)},
        x_label="layer",
        y_label="mass on the first token",
    )


def _groups(part: Part) -> list[str]:
    """Which key-value head each query head reads, where they share them; nothing elsewhere."""
    read = part.heads.drop_duplicates("head").sort_values("head")["kv_head"]
    return [] if read.is_unique else [f"KV {i}" for i in read]


def _patterns(part: Part, maps: pd.DataFrame, tables: Tables) -> AttentionMap:
    flagged, kinds = (frame[frame["attention"] == part.attention] for frame in (tables["flagged"].frame, tables["attentions"].frame))
    tokens = tables["tokens"].frame
    queries, keys = (tokens.loc[tokens["sequence"] == kinds[axis].iloc[0], "token"].tolist() for axis in ("queries", "keys"))
    shape = {"n_queries": len(queries), "n_keys": len(keys), "causal": part.sees == "causal"}
    whole = {head_label("self", *place): pattern for place, pattern in whole_maps_of(maps, **shape).items()}
    notes = {_place(head): head["why"] for _, head in flagged.iterrows()}
    patterns = {label: whole[label] for label in [*notes, *sorted(whole.keys() - notes.keys())] if label in whole}
    strongest = (
        f"{label} query {len(p) - 1} looks at key {int(p[-1].argmax())} with {p[-1].max():.2f}" for label, p in patterns.items() if label in notes
    )
    return AttentionMap(
        part="attention",
        name=_name(part, "explorer"),
        title=_title(part, f"What {len(part.heads)} heads look at" + (f"; the most extreme are {', '.join(notes)}" if notes else "")),
        caption=f"{_what_is_shown(part, len(queries), len(keys))} A head's extreme was measured on all texts.",
        alt="At the last token, " + "; ".join(strongest) + ".",
        patterns=patterns,
        queries=queries,
        keys=keys,
        notes=notes,
        sees=part.sees,
        thumbnails=thumbnails_of(maps, **shape),
        scores=_scores(part),
        heads_per_kv=int(part.heads.groupby(["layer", "kv_head"])["head"].count().max()),
    )


def _scores(part: Part) -> dict[str, np.ndarray]:
    """What heads are sorted and filtered by, Float[layer, head]: the scores for which they are flagged."""
    called = {"broadest": "normalised entropy", "farthest": "distance in tokens"}
    columns = {role if part.has(role) else f"{role}_text": called.get(why, why) for role, why in ROLES[part.sees].items()}
    return {
        name: part.heads.pivot(index="layer", columns="head", values=column).to_numpy(float)
        for column, name in columns.items()
        if part.has(column)
    }


def _what_is_shown(part: Part, n_queries: int, n_keys: int) -> str:
    if part.sees == "cross":
        return f"Patterns on one pair; each row is one of {n_queries} tokens of the target that looks at the {n_keys} tokens of the source."
    whom = "itself and those before it" if part.sees == "causal" else "all of them"
    return f"Patterns on one text of {n_queries} tokens; each row is a token that looks at {whom}."


def _without(part: Part) -> str:
    return "first token" if part.sees == "causal" else "first and last token"


def _place(head: pd.Series) -> str:
    """The head's name within a figure, whose title names the kind of attention."""
    return head_label("self", int(head["layer"]), int(head["head"]))


def _name(part: Part, name: str) -> str:
    return name if part.alone else f"{part.attention}-{name}"


def _title(part: Part, title: str) -> str:
    return title if part.alone else f"{part.name[0].upper()}{part.name[1:]} · {title}"
