"""How is shown what patches restore? The strongest heads, a map of all heads, and maps of layers and tokens for single prompts."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._contract import Tables
from analyses._patching_circuit_figures import graph
from analyses._patching_evidence import NAMES, VERBS, label, strongest
from reports import Bars, Figure, Heatmap

SHOWN = 15
KINDS = {"self": "", "encoder": " of the encoder", "decoder": " of the decoder", "cross": " of cross-attention"}
UNIT = "share of clean − corrupt"


def draw(tables: Tables) -> tuple[Figure, ...]:
    """Bars, maps of heads, then maps of prompts; nothing for what was not measured."""
    heads, cells, task = tables["heads"].frame, tables["maps"].frame, tables["task"].frame.iloc[0]
    if heads.empty:
        return ()
    by_kind = [_heads(part, str(kind), task) for kind, part in heads.groupby("attention", sort=False)]
    groups = cells.groupby(["example", "stack", "part"], sort=False)
    return (_strongest(heads, task), *by_kind, *graph(tables), *(_map(part, *key, tables) for key, part in groups if strongest(part) is not None))


def _strongest(heads: pd.DataFrame, task: pd.Series) -> Bars:
    part = heads.reindex(heads["share"].abs().sort_values(ascending=False, kind="stable").index)[:SHOWN]
    names = [label(row) for row in part.itertuples()]
    told = "; ".join(f"{name} {share:+.0%}" for name, share in zip(names[:5], part["share"], strict=False))
    return Bars(
        name="strongest-heads",
        title=f"{names[0]} {VERBS[task['direction']][0]} the largest share of the gap in {task['metric']}: {part['share'].iloc[0]:.0%}",
        caption=f"The {len(part)} heads with the largest share, over {part['n'].iloc[0]} prompts. {_meaning(task)} Lines: 95 % bootstrap intervals over prompts, of one "
        "head at a time; heads were chosen for their size, which makes them look larger than they are.",
        alt=f"{told}.",
        labels=names,
        values=part["share"].to_numpy(float),
        unit=UNIT,
        signed=True,
        low=part["low"].to_numpy(float),
        high=part["high"].to_numpy(float),
    )


def _heads(part: pd.DataFrame, kind: str, task: pd.Series) -> Heatmap:
    grid = part.pivot(index="layer", columns="head", values="share")
    top = part.loc[part["share"].abs().idxmax()]
    name = head_label(kind, top["layer"], top["head"])
    return Heatmap(
        name="heads" if kind == "self" else f"heads-{kind}",
        title=f"Heads{KINDS[kind]}: {name} {VERBS[task['direction']][0]} {top['share']:.0%} of the gap in {task['metric']}",
        caption=f"Each head's output z, patched at every position, over {part['n'].iloc[0]} prompts. {_meaning(task)}",
        alt=f"{len(part)} heads. Largest share {top['share']:.0%} at {name}, median of |share| {part['share'].abs().median():.1%}.",
        values=grid.to_numpy(float),
        rows=[str(i) for i in grid.index],
        columns=[str(i) for i in grid.columns],
        row_label="layer",
        column_label="head",
        unit=UNIT,
        signed=True,
    )


def _map(part: pd.DataFrame, example: int, stack: str, word: str, tables: Tables) -> Heatmap:
    task, prompts = tables["task"].frame.iloc[0], tables["prompts"].frame.set_index("example")
    grid = part.pivot(index="layer", columns="position", values="share")
    tokens = part.drop_duplicates("position").set_index("position").loc[grid.columns]
    columns = [a if a == b else f"*{a}" for a, b in zip(tokens["token"], tokens["corrupt_token"], strict=True)]
    top = strongest(part)
    where = f"{NAMES[word]}{f' of the {stack}' if stack else ''}"
    return Heatmap(
        name="-".join(["prompt", str(example + 1), *([stack] if stack else []), word.replace("_", "-")]),
        title=f"Prompt {example + 1}, {where}: layer {top['layer']} at {top['token']} {VERBS[task['direction']][0]} {top['share']:.0%}",
        caption=f"{word} patched at one layer and position, of “{prompts.loc[example, 'prompt']}” against “{prompts.loc[example, 'corrupt']}”. Tokens with * differ in the corrupt version"
        f"{'' if stack else '; before the first of them a patch changes nothing'}. {_meaning(task)}",
        alt=f"{grid.shape[0]} layers × {grid.shape[1]} positions. Largest share {top['share']:.0%} in layer {top['layer']} at {top['token']}, median of |share| {part['share'].abs().median():.1%}.",
        values=np.where(np.isfinite(grid.to_numpy(float)), grid.to_numpy(float), np.nan),
        rows=[str(i) for i in grid.index],
        columns=columns,
        row_label="layer",
        column_label="token",
        unit=UNIT,
        signed=True,
    )


def _meaning(task: pd.Series) -> str:
    if task["direction"] == "denoise":
        return "0: the run is as corrupt as without the patch; 1: all of clean − corrupt is restored; below 0 the patch makes it worse."
    return "0: the run is as clean as without the patch; 1: nothing of clean − corrupt is left; below 0 the patch makes it better."
