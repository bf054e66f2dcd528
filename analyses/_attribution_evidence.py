"""Which numbers stand behind the verdict on attributions, and which token carries most?"""

from __future__ import annotations

import pandas as pd

from analyses._attribution_measure import CHECKED, CONTRAST, EXACT, METHODS
from analyses._contract import Tables
from reports import Evidence, visible_token


def unit_of(complete: pd.DataFrame) -> str:
    """The unit of what is attributed."""
    return "logits" if complete.empty or complete["metric"].iloc[0] == CONTRAST else "nats per token"


def _strongest(tokens: pd.DataFrame, method: str) -> pd.DataFrame:
    """The token of each prompt with the largest |attribution|, and its share of the sum of |attribution|."""
    part = tokens[tokens["method"] == method].assign(size=lambda frame: frame["attribution"].abs())
    top = part.loc[part.groupby("example", sort=False)["size"].idxmax()].set_index("example")
    return top.assign(share=top["size"] / part.groupby("example", sort=False)["size"].sum())


def top_claim(tables: Tables, tolerance: float) -> str:
    """Which token carries most, by integrated gradients where it adds up, by occlusion where it never does."""
    complete = tables["completeness"].frame.set_index("example")
    sound = complete.index[complete["gap"] <= tolerance]
    method = METHODS[0] if len(sound) else EXACT
    top = _strongest(tables["tokens"].frame, method)
    top = top.loc[sound] if len(sound) else top
    first = top.iloc[0]
    return f"by {method} “{visible_token(first['token'])}” (position {first['position']}) carries most in prompt {top.index[0]}, {first['attribution']:+.2f} {unit_of(complete)}"


def evidence(tables: Tables, tolerance: float) -> tuple[Evidence, ...]:
    complete, agreement = tables["completeness"].frame, tables["agreement"].frame
    found = []
    if complete["gap"].notna().any():
        worst = complete.loc[complete["gap"].idxmax()]
        found.append(
            Evidence(
                name="largest completeness gap",
                measured=float(worst["gap"]),
                unit="1",
                threshold=tolerance,
                relation="<=",
                where=f"prompt {worst['example']}",
                source="Sundararajan et al. 2017, completeness; tolerance of this analysis",
            )
        )
        found.append(
            Evidence(
                name="prompts where integrated gradients adds up",
                measured=float((complete["gap"] <= tolerance).sum()),
                unit=f"of {len(complete)} prompts",
            )
        )
        share = (complete["sum_occlusion"] / complete["difference"]).abs().dropna()
        found.append(
            Evidence(
                name=f"|sum of occlusion| over |f(x) − f(baseline)|, median over {len(share)} prompts",
                measured=float(share.median()),
                unit="1",
            )
        )
    for method in CHECKED:
        for column, words in (("all_tokens", "all tokens"), ("without_first", "without the first token")):
            values = agreement.loc[agreement["method"] == method, column].dropna()
            if len(values):
                found.append(
                    Evidence(
                        name=f"rank correlation of {method} with occlusion, {words}, median over {len(values)} prompts",
                        measured=float(values.median()),
                        unit="1",
                    )
                )
    return tuple(found)
