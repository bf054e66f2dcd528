"""Which numbers stand behind the verdict on patches, and what does it claim?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._contract import Tables
from reports import Evidence

STANDARD_ERRORS = 5.0
FAMILY_WISE = 0.05
WHY = "What a patch restores, the activation carries: causally, and with all that follows from it."
VERBS = {
    "denoise": ("restores", "patching its clean output into the corrupt run restores"),
    "noise": ("breaks", "patching its corrupt output into the clean run takes away"),
}
"""Direction → what a head does, and how it was found out."""
NAMES = {"resid_pre": "the stream", "attn_out": "attention", "cross_attn_out": "cross-attention", "mlp_out": "the feed-forward network"}


def clear(heads: pd.DataFrame) -> pd.DataFrame:
    """Heads whose interval excludes 0 and whose family-wise p is below 5 %, what restores most first."""
    part = heads[((heads["low"] > 0) | (heads["high"] < 0)) & (heads["p_family"] < FAMILY_WISE)]
    return part.reindex(part["share"].abs().sort_values(ascending=False, kind="stable").index)


def label(row: tuple) -> str:
    """What the head of a row is called."""
    return head_label(row.attention, row.layer, row.head)


def gap(tables: Tables) -> tuple[float, float, int]:
    """By how much the clean prompts exceed the corrupt ones: mean, its standard error, how many prompts are used."""
    prompts = tables["prompts"].frame
    used = prompts[prompts["used"].astype(bool)]
    values = (used["clean_metric"] - used["corrupt_metric"]).to_numpy(float)
    error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
    return (float(values.mean()) if len(values) else float("nan")), error, len(values)


def claim(tables: Tables) -> str:
    """Which heads, with their numbers, and where in the first map the layers' attention and networks do."""
    task, heads = tables["task"].frame.iloc[0], tables["heads"].frame
    verb, how = VERBS[task["direction"]]
    told = clear(heads)
    if told.empty:
        return f"No head's share of the {task['metric']} can be told from 0, with all {len(heads)} heads in view.{_places(tables)}"
    top, *others = list(told.itertuples())[:3]
    more = ", ".join(f"{label(r)} ({r.share:+.0%})" for r in others)
    return (
        f"{label(top)} {verb} most: {how} {top.share:.0%} of what corruption changes in the {task['metric']} [{top.low:.0%}, {top.high:.0%}]"
        + (f", followed by {more}" if more else "")
        + f"; {len(told)} of {len(heads)} heads differ from 0 family-wise.{_places(tables)}"
    )


def strongest(part: pd.DataFrame) -> pd.Series | None:
    """The cell of a map that restores most, None where there is none."""
    values = part["share"].abs().replace(np.inf, np.nan).dropna()
    return None if values.empty else part.loc[values.idxmax()]


def _places(tables: Tables) -> str:
    """Where in the first prompt attention restores most: the stream only passes on, and the first feed-forward network reads the changed token itself."""
    cells = tables["maps"].frame
    cells = cells[(cells["example"] == cells["example"].min()) & cells["part"].isin(["attn_out", "cross_attn_out"])]
    top = strongest(cells)
    if top is None:
        return ""
    stack = f"the {top['stack']}'s " if top["stack"] else ""
    return f" In the first prompt, {stack}{NAMES[top['part']].removeprefix('the ')} of layer {top['layer']} at {top['token']!r} has the largest share of one place, {top['share']:.0%}."


def evidence(tables: Tables) -> list[Evidence]:
    """Every number of the claim, and what speaks for and against it."""
    task = tables["task"].frame.iloc[0]
    found = [
        Evidence(
            name=f"identity: {gate.gate}",
            measured=gate.measured,
            unit=task["unit"],
            threshold=gate.bound,
            relation="<=",
            source="100 units of rounding of the largest output, or of 1",
        )
        for gate in tables["gates"].frame.itertuples()
    ]
    mean, error, n = gap(tables)
    refused = len(tables["prompts"].frame) - n
    found.append(
        Evidence(
            name="prompts left out, whose two versions differ by less than 10 % of the clean one", measured=float(refused), unit="prompts"
        )
    )
    if n:
        found.append(Evidence(name=f"clean − corrupt, mean over {n} prompts", measured=mean, unit=task["unit"]))
    if error > 0:
        found.append(
            Evidence(
                name="the same in standard errors",
                measured=abs(mean) / error,
                unit="1",
                threshold=STANDARD_ERRORS,
                relation=">=",
                source="convention of prosect: below it, there is no common effect to restore",
            )
        )
    return found + _of_heads(tables["heads"].frame) + _of_maps(tables["maps"].frame)


def _of_heads(heads: pd.DataFrame) -> list[Evidence]:
    if heads.empty:
        return []
    top = next(heads.reindex(heads["share"].abs().sort_values(ascending=False, kind="stable").index).itertuples())
    found = [
        Evidence(name="largest share of one head", measured=float(top.share), unit="1", where=label(top)),
        Evidence(name="sum of the shares of all heads", measured=float(heads["share"].sum()), unit="1"),
    ]
    if 2.0 ** (1 - int(heads["n"].iloc[0])) < FAMILY_WISE:  # the least p that so few prompts can give
        found.append(Evidence(name="heads that differ from 0 family-wise", measured=float(len(clear(heads))), unit="heads"))
    return found


def _of_maps(cells: pd.DataFrame) -> list[Evidence]:
    """The largest place of each map of the first prompt."""
    found = []
    for (stack, part), some in cells[cells["example"] == cells["example"].min()].groupby(["stack", "part"], sort=False):
        top = strongest(some)
        if top is not None:
            where = f"layer {top['layer']} at {top['token']}"
            name = f"largest share of {NAMES[part]}{f' of the {stack}' if stack else ''} at one place of the first prompt"
            found.append(Evidence(name=name, measured=float(top["share"]), unit="1", where=where))
    return found
