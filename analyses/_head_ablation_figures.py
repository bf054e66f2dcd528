"""How are effects of head ablation shown? A map of all heads per ablation, the strongest heads side by side, and the prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from reports import Bars, Figure, Heatmap

SHOWN = 15
WORDS = {"logit_difference": ("logit difference", "logits"), "loss": ("loss", "nats per token")}


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Maps, then bars; nothing for what was not measured."""
    effects = tables["effects"].frame
    maps = [_map(part, metric, kind) for (metric, kind), part in effects.groupby(["metric", "ablation"], sort=False)]
    task = effects[effects["metric"] == "logit_difference"]
    bars = [_strongest(task)] if len(task) else []
    return (*bars, *maps)


def _map(part: pd.DataFrame, metric: str, kind: str) -> Heatmap:
    what, unit = WORDS[metric]
    grid = part.pivot(index="layer", columns="head", values="effect")
    top = part.loc[part["effect"].abs().idxmax()]
    name, n = f"L{top['layer']}H{top['head']}", int(part["n"].iloc[0])
    examples = "prompts" if metric == "logit_difference" else "chunks of text"
    meaning = (
        "red: without the head the model does better at the task, blue: worse"
        if metric == "logit_difference"
        else "red: without the head the loss is higher, blue: lower"
    )
    return Heatmap(
        name=f"map-{metric.replace('_', '-')}-{kind}",
        title=f"{kind.capitalize()} ablation: {name} changes the {what} most, by {top['effect']:+.2f} {unit}",
        caption=f"Effect of {kind} ablation of each head on the {what} (clean: {top['clean']:.2f} {unit}), mean over {n} {examples}. The sign is ablated − clean; {meaning}.",
        alt=f"{len(part)} heads. Largest effect {top['effect']:+.2f} {unit} at {name}, median of |effect| {part['effect'].abs().median():.3f}, {int((part['effect'].abs() > 0.1 * abs(top['effect'])).sum())} heads above a tenth of the largest.",
        values=grid.to_numpy(float),
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        row_label="layer",
        column_label="head",
        unit=unit,
        signed=True,
    )


def _strongest(task: pd.DataFrame) -> Bars:
    """The strongest heads by their largest |effect| over ablations; the ablations of one head stand together."""
    kinds = list(dict.fromkeys(task["ablation"]))
    order = (
        task.assign(size=task["effect"].abs())
        .groupby(["layer", "head"])["size"]
        .max()
        .sort_values(ascending=False, kind="stable")
        .index[: max(1, SHOWN)]
    )
    rows = task.set_index(["layer", "head", "ablation"]).sort_index()
    chosen = [(layer, head, kind) for layer, head in order for kind in kinds]
    picked = rows.loc[chosen]
    layer, head = order[0]
    first = rows.loc[(layer, head)]["effect"]
    values = ", ".join(f"{kind} {first[kind]:+.2f}" for kind in kinds)
    spread = f"The {len(kinds)} ablations" if len(kinds) > 1 else "The ablation"
    return Bars(
        name="strongest-heads",
        title=f"L{layer}H{head} has the largest effect on the logit difference: {values} logits",
        caption=f"{spread} side by side, for the {len(order)} heads with the largest effect under any of them, ablated − clean, mean over {_counts(picked)} prompts. Lines: 95 % bootstrap intervals over prompts, "
        "of one head at a time; heads were chosen for their size, which makes them look larger than they are.",
        alt="; ".join(f"L{i}H{j} {k} {e:+.2f}" for (i, j, k), e in zip(chosen[: 3 * len(kinds)], picked["effect"], strict=False))
        + " logits.",
        labels=[f"L{i}H{j} {k}" for i, j, k in chosen],
        values=picked["effect"].to_numpy(float),
        unit="logits",
        signed=True,
        low=picked["low"].to_numpy(float),
        high=picked["high"].to_numpy(float),
    )


def _counts(picked: pd.DataFrame) -> str:
    counts = np.unique(picked["n"])
    return " or ".join(str(n) for n in counts)
