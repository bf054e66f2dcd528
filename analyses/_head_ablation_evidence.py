"""Which numbers stand behind the verdict on heads, and what does it claim?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from reports import Evidence

TASK, LOSS = "logit_difference", "loss"
HEADLINE = ("mean", "resample", "zero")
"""which ablation the claim speaks of: the first that was run. Mean ablation needs no second input and stays near the distribution"""
STANDARD_ERRORS = 5.0
FAMILY_WISE = 0.05


def headline(effects: pd.DataFrame) -> str:
    return next(kind for kind in HEADLINE if kind in set(effects["ablation"]))


def clear(effects: pd.DataFrame, ablation: str) -> pd.DataFrame:
    """Heads whose interval excludes 0 and whose family-wise p is below 5 %, the largest effect first."""
    part = effects[effects["ablation"] == ablation]
    part = part[((part["low"] > 0) | (part["high"] < 0)) & (part["p_family"] < FAMILY_WISE)]
    return part.reindex(part["effect"].abs().sort_values(ascending=False, kind="stable").index)


def task(tables: Tables) -> tuple[float, float, int]:
    """Mean logit difference, its standard error, number of prompts."""
    clean = tables["prompts"].frame["clean"].to_numpy(float)
    error = float(clean.std(ddof=1) / np.sqrt(len(clean))) if len(clean) > 1 else float("nan")
    return float(clean.mean()), error, len(clean)


def claim(effects: pd.DataFrame, metric: str) -> str:
    part = effects[effects["metric"] == metric]
    kind = headline(part)
    told, n_heads = clear(part, kind), int((part["ablation"] == kind).sum())
    what, unit = ("logit difference", "logits") if metric == TASK else ("loss", "nats per token")
    if told.empty:
        return f"no head's effect on the {what} can be told from 0 under {kind} ablation, with all {n_heads} heads in view."
    top = told.iloc[0]
    others = ", ".join(f"L{r.layer}H{r.head} ({r.effect:+.2f})" for r in told.iloc[1:3].itertuples())
    return (
        f"L{top['layer']}H{top['head']} matters most for the {what}: {kind} ablation changes {top['clean']:.2f} {unit} by {top['effect']:+.2f} [{top['low']:.2f}, {top['high']:.2f}]"
        + (f", followed by {others}" if others else "")
        + f"; {len(told)} of {n_heads} heads differ from 0 family-wise."
    )


def evidence(tables: Tables) -> list[Evidence]:
    effects, prompts = tables["effects"].frame, tables["prompts"].frame
    found = [
        Evidence(
            name=f"no-op: {g.gate}",
            measured=g.measured,
            unit="logits or nats per token",
            threshold=g.bound,
            relation="<=",
            source="100 units of rounding of the largest logit",
        )
        for g in tables["gates"].frame.itertuples()
    ]
    if len(prompts):
        found.append(
            Evidence(
                name="clean logit difference of the first prompt",
                measured=float(prompts["clean"].iloc[0]),
                unit="logits",
                where=prompts["prompt"].iloc[0],
            )
        )
        mean_, error, n = task(tables)
        found.append(Evidence(name=f"mean clean logit difference over {n} prompts", measured=mean_, unit="logits"))
        if (paired := prompts.dropna(subset="corrupt")).shape[0]:
            found.append(
                Evidence(
                    name=f"how much of it the corrupt prompts take away, mean over {len(paired)} prompts",
                    measured=float((paired["clean"] - paired["corrupt"]).mean()),
                    unit="logits",
                )
            )
        if error > 0:
            found.append(
                Evidence(
                    name="the same in standard errors",
                    measured=mean_ / error,
                    unit="1",
                    threshold=STANDARD_ERRORS,
                    relation=">=",
                    source="convention of prosect: below it, the model is not said to do the task",
                )
            )
    for (metric, kind), part in effects.groupby(["metric", "ablation"], sort=False):
        what, unit, n = ("logit difference", "logits", len(part)) if metric == TASK else ("loss", "nats per token", len(part))
        top = part.loc[part["effect"].abs().idxmax()]
        found.append(
            Evidence(
                name=f"largest effect on the {what}, {kind} ablation",
                measured=float(top["effect"]),
                unit=unit,
                where=f"L{top['layer']}H{top['head']}",
            )
        )
        if part["low"].notna().all():
            outside = int(((part["low"] > 0) | (part["high"] < 0)).sum())
            found.append(
                Evidence(
                    name=f"heads whose own 95 % interval of the {what} excludes 0, {kind} ablation ({0.05 * n:.1f} of {n} by chance)",
                    measured=float(outside),
                    unit="heads",
                )
            )
        if 2.0 ** (1 - int(part["n"].iloc[0])) < FAMILY_WISE:  # the least p that so few examples can give
            found.append(
                Evidence(
                    name=f"heads that differ from 0 family-wise, {what}, {kind} ablation",
                    measured=float(len(clear(part, kind))),
                    unit="heads",
                )
            )
    for row in tables["agreement"].frame.dropna().itertuples():
        found.append(
            Evidence(
                name=f"rank correlation of effects on {row.metric.replace('_', ' ')}: {row.first} and {row.second}",
                measured=row.rank_correlation,
                unit="1",
            )
        )
    return found
