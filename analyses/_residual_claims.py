"""Which numbers stand behind the verdict on the residual stream, and how is it said?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses import _residual_measure as measured
from analyses._contract import Tables
from analyses._residual_series import lasting
from analyses._residual_tables import by_stack
from reports import Evidence

CLOSE = 0.9
"""cosine to the final representation from which on a pooled representation counts as there"""
IDENTITIES = {
    "additivity": (
        "‖resid_post − (resid_pre + attn_out + mlp_out)‖ over the sum of their norms",
        "definition of a pre-norm block; the bound is rounding",
    ),
    "normed sum": (
        "‖state − norm(state before + addition)‖ over the state's norm",
        "definition of a post-norm block; the bound is rounding",
    ),
    "replacement": (
        "‖state − addition‖ over the addition's norm",
        "definition of a block without residual connections; the bound is rounding",
    ),
}
"""gate → what is measured, and where it is from"""


def place(row: pd.Series, tables: Tables) -> str:
    """`block 2`, with its stack where there are several."""
    return f"{row['stack']} block {int(row['layer'])}" if several(tables) else f"block {int(row['layer'])}"


def several(tables: Tables) -> bool:
    """Are there two stacks?"""
    return tables["gates"].frame["stack"].nunique() > 1


def gate(worst: pd.Series, tables: Tables) -> Evidence:
    """The largest deviation from the definition of a block."""
    name, source = IDENTITIES[worst["gate"]]
    if worst["gate"] == "additivity" and tables["blocks"].frame.get("cross_median", pd.Series(dtype=float)).notna().any():
        name = name.replace("attn_out + mlp_out", "attn_out + cross_attn_out + mlp_out")
    return Evidence(
        name=name, measured=worst.measured, unit="1", threshold=worst.bound, relation="<=", where=place(worst, tables), source=source
    )


def claim(tables: Tables) -> str:
    """Who is massive, how the norm goes, and when the answer is there; stack by stack where there are two."""
    stacks = by_stack(tables)
    courses = {name: " and ".join(part for part in (_growth(one), _answer(one)) if part) for name, one in stacks.items()}
    said = [course if len(stacks) == 1 else f"{name}: {course}" for name, course in courses.items() if course]
    course = (
        f"Away from the sink positions{'' if len(stacks) == 1 else ','} {'; '.join(said)}."
        if said
        else "There are too few blocks for a growth rate."
    )
    massive = [
        _massive_claim(one) if len(stacks) == 1 else f"In the {name} {_lower(_massive_claim(one))}"
        for name, one in stacks.items()
        if len(one["massive"].frame)
    ]
    return f"{' '.join(massive) or 'No activation is massive.'} {course}"


def _massive_claim(tables: Tables) -> str:
    massive = tables["massive"].frame
    top = massive.iloc[0]
    more = f" (and {len(massive) - 1} more)" if len(massive) > 1 else ""
    blocks = f"after {int(top.first_state)} to {int(top.last_state)} of {int(tables['states'].frame.state.max())} blocks"
    return f"One scalar is massive: dimension {int(top.dimension)} at position {int(top.position)} is about {top.value_median:,.0f} {blocks}{more}."


def _growth(tables: Tables) -> str:
    stack, growth = tables["stacks"].frame.iloc[0], version(tables["growth"].frame, "rate").iloc[0]
    if stack.pinned:
        median = version(tables["states"].frame, "norm_median").query("state > 0").norm_median
        return f"the norm is pinned by the norm layers (median {median.min():.3g} to {median.max():.3g})"
    return f"the norm changes by {growth.rate - 1:+.0%} per block" if np.isfinite(growth.rate) else ""


def _answer(tables: Tables) -> str:
    if "lens" in tables:
        lens = version(tables["lens"].frame, "kl_mean")
        half = lens[lens.agreement >= 0.5].state.min()
        what = "answers at masked tokens" if tables["stacks"].frame["head"].iloc[0] == "mlm" else "answers"
        return f"the logit lens names half of the {what} after {int(half)} of {int(lens.state.max())} blocks" if np.isfinite(half) else ""
    pooled = version(tables["pooled"].frame, "cosine_median") if "pooled" in tables else pd.DataFrame()
    if pooled.empty or not (pooled.cosine_median >= CLOSE).any():
        return ""
    there, n_blocks = int(pooled[pooled.cosine_median >= CLOSE].state.min()), int(pooled.state.max())
    near = f"the pooled representation comes within cosine {CLOSE} of the final one after {there} of {n_blocks} blocks"
    return (
        f"{near} (nearest to that of its own text from {lasting(pooled, pooled.nearest == 1)} on)" if pooled.nearest.notna().all() else near
    )


def evidence(tables: Tables) -> list[Evidence]:
    """The numbers of the claim; none of them is held against a threshold but the definition of a massive activation."""
    found = []
    for name, one in by_stack(tables).items():
        before = f"{name}: " if several(tables) else ""
        found += [
            *_massive_evidence(one, before),
            *_growth_evidence(one, before),
            *_influence_evidence(one, before),
            *_answer_evidence(one, before),
            *_contribution_evidence(one, before),
        ]
    return found


def _massive_evidence(tables: Tables, before: str) -> list[Evidence]:
    sources = "Sun et al. 2024: |x| > 100 and at least 1000 × the median magnitude of its hidden state"
    return [
        Evidence(
            name=f"{before}massive activation over the median magnitude",
            measured=float(row.ratio),
            unit="1",
            threshold=1000.0,
            relation="<",
            source=sources,
            where=f"dimension {row.dimension}, position {row.position}, in {row.n_texts} texts",
        )
        for row in tables["massive"].frame.head(3).itertuples(index=False)
    ]


def _growth_evidence(tables: Tables, before: str) -> list[Evidence]:
    growth, found = tables["growth"].frame, []
    for row in growth[growth.positions != measured.SINKS].dropna(subset=["rate"]).itertuples(index=False):
        source = "Heimersheim & Turner 2023 report 1.045 for GPT-2 XL"
        over = f"positions: {row.positions}"
        found += [
            Evidence(name=f"{before}growth of the norm per block, {over}", measured=float(row.rate), unit="1", source=source),
            Evidence(name=f"{before}R² of exponential growth, {over}", measured=float(row.r2_exponential), unit="1"),
            Evidence(name=f"{before}R² of a power law, {over}", measured=float(row.r2_power), unit="1"),
        ]
    return [one for one in found if np.isfinite(one.measured)]  # a norm that does not change has no R²


def _influence_evidence(tables: Tables, before: str) -> list[Evidence]:
    blocks = version(tables["blocks"].frame, "influence").dropna(subset=["influence"])
    if blocks.empty:
        return []
    ends = {"most": blocks.loc[blocks.influence.idxmax()], "least": blocks.loc[blocks.influence.idxmin()]}
    return [
        Evidence(
            name=f"{before}{name} influential block, 1 − cos(x_l, x_l+1)",
            measured=float(row.influence),
            unit="1",
            where=f"block {row.layer}",
        )
        for name, row in ends.items()
    ]


def _answer_evidence(tables: Tables, before: str) -> list[Evidence]:
    name, column, unit = ("KL of the logit lens from the answer, half way", "kl_mean", "nats")
    if "lens" not in tables:
        name, column, unit = ("cosine of the pooled representation to the final one, half way", "cosine_median", "1")
    if (key := "lens" if "lens" in tables else "pooled") not in tables:
        return []
    rows = version(tables[key].frame, column)
    middle = rows[rows.state == rows.state.max() // 2].dropna(subset=[column])
    return [
        Evidence(name=before + name, measured=float(row[column]), unit=unit, where=f"after {int(row['state'])} blocks")
        for _, row in middle.iterrows()
    ]


def _contribution_evidence(tables: Tables, before: str) -> list[Evidence]:
    if "contributions_answer" not in tables:
        return []
    asked = tables["contributions_answer"].frame.iloc[0]
    if not np.isfinite(asked.error):  # logits at their cap have no value before it
        return []
    name = f"{before}sum of direct contributions − measured logit difference"
    where = f"logit difference {asked.measured:.3g}"
    return [Evidence(name=name, measured=float(asked.error), unit="logits", where=where, source="an identity: what is left is rounding")]


def version(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows without sink positions; all of them where nothing else is left."""
    without = frame[frame.positions == measured.WITHOUT_SINKS]
    return without if without[column].notna().any() else frame[frame.positions == measured.ALL]


def _lower(words: str) -> str:
    return words[:1].lower() + words[1:]
