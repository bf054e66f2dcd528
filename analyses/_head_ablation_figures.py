"""How are effects of head ablation shown? A map of all heads per ablation, the strongest heads side by side, and the prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._contract import Tables
from analyses._head_ablation_evidence import HEADLINE, WORDS
from analyses._head_ablation_measure import SHIFT, TASK
from reports import Bars, Figure, Heatmap

SHOWN = 15
READING = {
    TASK: "red: without the head the model does better at the task, blue: worse",
    SHIFT: "the redder, the further the output moves without the head",
}
KINDS = {"self": "", "encoder": "encoder self-attention", "decoder": "decoder self-attention", "cross": "cross-attention"}


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Bars of the strongest heads, then maps; nothing for what was not measured."""
    effects = tables["effects"].frame
    if effects.empty:
        return ()
    shown = {metric: next(kind for kind in HEADLINE if (part["ablation"] == kind).any()) for metric, part in effects.groupby("metric", sort=False)}
    maps = [_map(part, metric, kind, key, kind == shown[metric]) for (metric, kind, key), part in effects.groupby(["metric", "ablation", "attention"], sort=False)]
    metrics = effects["metric"].unique()
    chosen = TASK if TASK in metrics else None if set(effects["attention"]) == {"self"} and metrics[0] == "loss" else metrics[0]
    bars = [] if chosen is None else [_strongest(effects[effects["metric"] == chosen], chosen)]
    return (*bars, *maps)


def _map(part: pd.DataFrame, metric: str, kind: str, key: str, headline: bool) -> Heatmap:
    """One ablation and metric of one kind of attention; the headline ablation of each metric stands with the other maps of heads."""
    what, unit = WORDS[metric]
    grid = part.pivot(index="layer", columns="head", values="effect")
    top = part.loc[part["effect"].abs().idxmax()]
    name, n = f"L{top['layer']}H{top['head']}", int(part["n"].iloc[0])
    examples = "prompts" if metric == TASK else "pieces of text" if key == "self" else "pairs of source and target"
    meaning = READING.get(metric, "red: without the head the loss is higher, blue: lower")
    where = f" in {KINDS[key]}" if key != "self" else ""
    digits = ".3f" if metric == SHIFT else ".2f"
    return Heatmap(
        part="heads" if headline else "",
        name="-".join(["map", *([] if key == "self" else [key]), metric.replace("_", "-"), kind]),
        title=f"{kind.capitalize()} ablation{where}: {name} changes the {what} most, by {top['effect']:+{digits}} {unit}",
        caption=f"Effect of {kind} ablation of each head{where} on the {what} (clean: {top['clean']:.2f} {unit}), mean over {n} {examples}. The sign is ablated − clean; {meaning}.",
        alt=f"{len(part)} heads. Largest effect {top['effect']:+{digits}} {unit} at {name}, median of |effect| {part['effect'].abs().median():.3f}, {int((part['effect'].abs() > 0.1 * abs(top['effect'])).sum())} heads above a tenth of the largest.",
        values=grid.to_numpy(float),
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        row_label="layer",
        column_label="head",
        unit=unit,
        signed=True,
    )


def _strongest(effects: pd.DataFrame, metric: str) -> Bars:
    """The strongest heads by their largest |effect| over ablations; the ablations of one head stand together."""
    kinds = list(dict.fromkeys(effects["ablation"]))
    what, unit = WORDS[metric]
    head = ["attention", "layer", "head"]
    sizes = effects.assign(size=effects["effect"].abs()).groupby(head, sort=False)["size"].max()
    order = sizes.sort_values(ascending=False, kind="stable").index[:SHOWN]
    rows = effects.set_index([*head, "ablation"]).sort_index()
    chosen = [(*one, kind) for one in order for kind in kinds]
    picked = rows.loc[chosen]
    first = rows.loc[order[0]]["effect"]
    values = ", ".join(f"{kind} {first[kind]:+.2f}" for kind in kinds)
    spread = f"The {len(kinds)} ablations" if len(kinds) > 1 else "The ablation"
    examples = "prompts" if metric == TASK else "examples"
    labels = [f"{head_label(*one[:3])} {one[3]}" for one in chosen]
    told = "; ".join(f"{name} {e:+.2f}" for name, e in zip(labels[: 3 * len(kinds)], picked["effect"], strict=False))
    return Bars(
        part="heads",
        name="strongest-heads",
        title=f"{head_label(*order[0])} has the largest effect on the {what}: {values} {unit}",
        caption=f"{spread} side by side, for the {len(order)} heads with the largest effect under any of them, ablated − clean, mean over {_counts(picked)} {examples}. Lines: 95 % bootstrap intervals over {examples}, "
        "of one head at a time; heads were chosen for their size, which makes them look larger than they are.",
        alt=f"{told} {unit}.",
        labels=labels,
        values=picked["effect"].to_numpy(float),
        unit=unit,
        signed=True,
        low=picked["low"].to_numpy(float),
        high=picked["high"].to_numpy(float),
    )


def _counts(picked: pd.DataFrame) -> str:
    counts = np.unique(picked["n"])
    return " or ".join(str(n) for n in counts)
