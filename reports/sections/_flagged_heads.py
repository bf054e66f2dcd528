"""Which heads stand out, by what, and what happens without them? One row per head that a table called `flagged` names, or whose ablation has an effect beyond chance.

Read are, by their columns, a table `flagged` (attention, label, layer, head, why), a table `heads` (attention, layer, head, kv_head and
scores) and a table `effects` (attention, layer, head, ablation, metric, effect, low, high, p_family).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from reports.result import Column, Result, Table

KEY = ["attention", "layer", "head"]
SCORES = {
    "entropy": "entropy",
    "first_token_mass": "first token",
    "previous_token": "previous",
    "induction": "induction",
    "monotonicity": "monotonicity",
}
"""the scores that are shown where the table of heads has them, and how they are called here"""
ABLATIONS = ("mean", "resample", "zero")
"""whose effect is shown: the first that was measured"""
CHANCE = 0.05
MOST_ABLATED = 12
"""heads that are added for their effect alone, the largest first"""


def flagged_heads(results: Sequence[Result]) -> Table | None:
    """The table, None where no result has heads to show."""
    named, heads, effects = (
        _first(results, name, columns)
        for name, columns in (
            ("flagged", [*KEY, "why"]),
            ("heads", KEY),
            ("effects", [*KEY, "ablation", "metric", "effect", "low", "high", "p_family"]),
        )
    )
    silenced = None if effects is None else _silenced(effects.frame)
    rows = _rows(named, silenced)
    if rows.empty:
        return None
    columns = {"head": Column(unit="", meaning="layer and query head"), "why": Column(unit="", meaning="what it stands out by")}
    frame = pd.DataFrame({"head": pd.Series(_labels(rows), dtype=object), "why": rows["why"]})
    if heads is not None:
        scores = rows.merge(heads.frame, on=KEY, how="left")
        for name, short in ({"kv_head": "KV"} | SCORES).items():
            if name in heads.frame and scores[name].notna().any():
                frame[short], columns[short] = rounded(scores[name]), heads.columns[name]
    if silenced is not None:
        found, (metric, ablation) = rows.merge(silenced, on=KEY, how="left"), silenced.attrs["of"]
        what = f"change of {metric} under {ablation} ablation"
        ends = {"low": ("low", "lower end of its 95 % interval"), "high": ("high", "upper end of its 95 % interval")}
        for name, (short, meaning) in ({"effect": ("effect", what)} | ends | {"p_family": ("p", "p corrected for all heads")}).items():
            frame[short], columns[short] = rounded(found[name]), Column(unit="1" if short == "p" else "", meaning=meaning)
    return Table(frame=frame, columns=columns, caption="Heads that stand out, by their scores and by what happens without them.")


def rounded(values: pd.Series) -> pd.Series:
    """Three digits, for the eye and for sorting by it; whole numbers in full.

    >>> rounded(pd.Series([0.123456, 7])).tolist(), rounded(pd.Series([1234])).tolist()
    ([0.123, 7.0], [1234])
    """
    return values if pd.api.types.is_integer_dtype(values.dtype) else values.map(lambda value: float(f"{value:.3g}"))


def _first(results: Sequence[Result], name: str, columns: list[str]) -> Table | None:
    """The first table of that name that has these columns and any row."""
    tables = (result.tables[name] for result in results if name in result.tables)
    return next((table for table in tables if set(columns) <= set(table.frame.columns) and len(table.frame)), None)


def _silenced(effects: pd.DataFrame) -> pd.DataFrame:
    """The effects of one ablation on the first metric, with which it is."""
    metric = effects["metric"].iloc[0]
    part = effects[effects["metric"] == metric]
    ablation = next((one for one in ABLATIONS if (part["ablation"] == one).any()), part["ablation"].iloc[0])
    chosen = part.loc[part["ablation"] == ablation, [*KEY, "effect", "low", "high", "p_family"]].copy()
    chosen.attrs["of"] = (str(metric).replace("_", " "), ablation)
    return chosen


def _rows(named: Table | None, silenced: pd.DataFrame | None) -> pd.DataFrame:
    """Each head once with why: what the flags say, and its effect where chance does not explain it."""
    whys: dict[tuple, dict[str, None]] = {}
    for row in [] if named is None else named.frame[[*KEY, "why"]].itertuples(index=False):
        whys.setdefault(tuple(row[:3]), {})[str(row.why)] = None
    if silenced is not None:
        clear = silenced[silenced["p_family"] < CHANCE]
        clear = clear.loc[clear["effect"].abs().sort_values(ascending=False, kind="stable").index[:MOST_ABLATED]]
        for row in clear[KEY].itertuples(index=False):
            whys.setdefault(tuple(row), {})["effect beyond chance"] = None
    found = pd.DataFrame(list(whys), columns=KEY, dtype=object)
    return found.assign(why=pd.Series(["; ".join(why) for why in whys.values()], dtype=object))


def _labels(rows: pd.DataFrame) -> list[str]:
    return [f"{'' if row.attention == 'self' else f'{row.attention} '}L{row.layer}H{row.head}" for row in rows.itertuples(index=False)]
