"""Which numbers stand behind the verdict on heads, and what does it claim?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._contract import Tables
from analyses._head_ablation_measure import SHIFT, TASK
from reports import Evidence, Verdict

WORDS = {
    TASK: ("logit difference", "logits"), "loss": ("loss", "nats per token"), "masked_loss": ("loss of masked tokens", "nats per token"),
    SHIFT: ("pooled output", "of 1 − cosine"),
}
"""Metric → what it is called, and its unit."""
HEADLINE = ("mean", "resample", "zero")
"""which ablation the claim speaks of: the first that was run. Mean ablation needs no second input and stays near the distribution"""
STANDARD_ERRORS = 5.0
FAMILY_WISE = 0.05
WHY = "Ablation is the exact check of every cheaper score: a head that looks busy and changes nothing does not matter here."


def headline(effects: pd.DataFrame) -> str:
    return next(kind for kind in HEADLINE if kind in set(effects["ablation"]))


def clear(effects: pd.DataFrame, ablation: str) -> pd.DataFrame:
    """Heads whose interval excludes 0 and whose family-wise p is below 5 %, the largest effect first. A shift is never
    negative: there is nothing to tell its heads apart from chance, and none is named."""
    part = effects[effects["ablation"] == ablation]
    part = part[((part["low"] > 0) | (part["high"] < 0)) & (part["p_family"] < FAMILY_WISE)]
    return part.reindex(part["effect"].abs().sort_values(ascending=False, kind="stable").index)


def label(row: pd.Series | tuple) -> str:
    """What the head of a row is called."""
    return head_label(row.attention, row.layer, row.head) if isinstance(row, tuple) else head_label(row["attention"], row["layer"], row["head"])


def without_prompts(effects: pd.DataFrame, evidence: tuple[Evidence, ...]) -> Verdict:
    """The verdict where there is no contrast of two answers. A decoder is then not known to do anything; the target of an
    encoder-decoder, and masked tokens, are tasks of their own."""
    metric = effects["metric"].iloc[0]
    said = claim(effects, metric)
    if metric == "loss" and set(effects["attention"]) == {"self"}:
        return Verdict(status="inconclusive", claim=f"There is no prompt with target and foil, so no task; {said}", evidence=evidence)
    status = "pass" if metric == SHIFT or len(clear(effects, headline(effects))) else "inconclusive"
    return Verdict(status=status, claim=said[0].upper() + said[1:], evidence=evidence, why=WHY)


def task(tables: Tables) -> tuple[float, float, int]:
    """Mean logit difference, its standard error, number of prompts."""
    clean = tables["prompts"].frame["clean"].to_numpy(float)
    error = float(clean.std(ddof=1) / np.sqrt(len(clean))) if len(clean) > 1 else float("nan")
    return float(clean.mean()), error, len(clean)


def claim(effects: pd.DataFrame, metric: str) -> str:
    part = effects[effects["metric"] == metric]
    kind = headline(part)
    told, n_heads = clear(part, kind), int((part["ablation"] == kind).sum())
    what, unit = WORDS[metric]
    if metric == SHIFT:
        ranked = part[part["ablation"] == kind].sort_values("effect", ascending=False, kind="stable")
        others = ", ".join(f"{label(r)} ({r.effect:.3f})" for r in ranked.iloc[1:3].itertuples())
        top = ranked.iloc[0]
        return f"{label(top)} moves the {what} most: {kind} ablation by {top['effect']:.3f} {unit} [{top['low']:.3f}, {top['high']:.3f}], followed by {others or 'no other'}."
    if told.empty:
        return f"no head's effect on the {what} can be told from 0 under {kind} ablation, with all {n_heads} heads in view."
    top = told.iloc[0]
    others = ", ".join(f"{label(r)} ({r.effect:+.2f})" for r in told.iloc[1:3].itertuples())
    return (
        f"{label(top)} matters most for the {what}: {kind} ablation changes {top['clean']:.2f} {unit} by {top['effect']:+.2f} [{top['low']:.2f}, {top['high']:.2f}]"
        + (f", followed by {others}" if others else "")
        + f"; {len(told)} of {n_heads} heads differ from 0 family-wise."
    )


def evidence(tables: Tables) -> list[Evidence]:
    """Every number of the claim, and what speaks for and against it."""
    effects = tables["effects"].frame
    found = [
        Evidence(
            name=f"no-op: {g.gate}", measured=g.measured, unit="1", threshold=g.bound, relation="<=",
            source="100 units of rounding of the largest output, or of 1",
        )
        for g in tables["gates"].frame.itertuples()
    ]
    found += _of_the_task(tables)
    for (metric, kind), part in effects.groupby(["metric", "ablation"], sort=False):
        found += _of_one_ablation(part, metric, kind)
    return found + [
        Evidence(
            name=f"rank correlation of effects on {row.metric.replace('_', ' ')}: {row.first} and {row.second}",
            measured=row.rank_correlation, unit="1",
        )
        for row in tables["agreement"].frame.dropna().itertuples()
    ]


def _of_the_task(tables: Tables) -> list[Evidence]:
    """Does the model do the task at all?"""
    prompts = tables["prompts"].frame
    if prompts.empty:
        return []
    mean_, error, n = task(tables)
    first = prompts.iloc[0]
    found = [
        Evidence(name="clean logit difference of the first prompt", measured=float(first["clean"]), unit="logits", where=first["prompt"]),
        Evidence(name=f"mean clean logit difference over {n} prompts", measured=mean_, unit="logits"),
    ]
    if (paired := prompts.dropna(subset="corrupt")).shape[0]:
        taken = float((paired["clean"] - paired["corrupt"]).mean())
        name = f"how much of it the corrupt prompts take away, mean over {len(paired)} prompts"
        found.append(Evidence(name=name, measured=taken, unit="logits"))
    if error > 0:
        found.append(
            Evidence(
                name="the same in standard errors", measured=mean_ / error, unit="1", threshold=STANDARD_ERRORS, relation=">=",
                source="convention of prosect: below it, the model is not said to do the task",
            )
        )
    return found


def _of_one_ablation(part: pd.DataFrame, metric: str, kind: str) -> list[Evidence]:
    """The largest effect, and how many heads can be told from 0."""
    (what, unit), n = WORDS[metric], len(part)
    top = part.loc[part["effect"].abs().idxmax()]
    found = [Evidence(name=f"largest effect on the {what}, {kind} ablation", measured=float(top["effect"]), unit=unit, where=label(top))]
    if metric == SHIFT:
        return found
    if part["low"].notna().all():
        outside = int(((part["low"] > 0) | (part["high"] < 0)).sum())
        name = f"heads whose own 95 % interval of the {what} excludes 0, {kind} ablation ({0.05 * n:.1f} of {n} by chance)"
        found.append(Evidence(name=name, measured=float(outside), unit="heads"))
    if 2.0 ** (1 - int(part["n"].iloc[0])) < FAMILY_WISE:  # the least p that so few examples can give
        name = f"heads that differ from 0 family-wise, {what}, {kind} ablation"
        found.append(Evidence(name=name, measured=float(len(clear(part, kind))), unit="heads"))
    return found
