"""Which numbers stand behind the verdict on length, and how is it said?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from reports import Evidence


def short(differences: pd.DataFrame) -> int:
    """Which bin the longest contexts are compared with: the shortest that does not consist of the first token alone, where there is one."""
    return min(1, len(differences) - 1)


def words(row: pd.Series) -> str:
    first, last = int(row["first"]), int(row["last"])
    return f"{first} token{'s' if first > 1 else ''} of context" if first == last else f"{first} to {last} tokens of context"


def cost(operations: pd.DataFrame) -> str:
    if operations.empty:
        return "no length could be timed"
    last = operations.iloc[-1]
    return f"at {int(last['length'])} tokens attention takes {last['share']:.0%} of the operations and would equal the rest at {last['crossover']:.0f} tokens"


def evidence(tables: Tables) -> tuple[Evidence, ...]:
    found = []
    differences, operations = tables["differences"].frame, tables["operations"].frame
    if len(differences) and differences["low"].notna().all():
        total, rise = differences.iloc[short(differences)], differences.iloc[-1]
        found.append(
            Evidence(
                name="loss with the longest contexts − loss with short ones, upper end of the 95 % interval",
                measured=float(total["high"]),
                unit="nats per token",
                threshold=0.0,
                relation="<",
                where=f"against contexts of {total['against']} tokens",
                source="it should fall",
            )
        )
        found.append(
            Evidence(
                name="change of the loss over the last doubling of context, lower end of the 95 % interval",
                measured=float(rise["low"]),
                unit="nats per token",
                threshold=0.0,
                relation="<=",
                where=f"against contexts of {rise['against']} tokens",
                source="it should not rise",
            )
        )
    if len(operations):
        last = operations.iloc[-1]
        found.append(
            Evidence(
                name="share of attention in the operations, all pairs",
                measured=float(last["share"]),
                unit="1",
                where=f"{int(last['length'])} tokens",
            )
        )
        found.append(
            Evidence(
                name="length where attention equals projections and MLP in operations, all pairs",
                measured=float(last["crossover"]),
                unit="tokens",
            )
        )
        found.append(Evidence(name="the same over visible pairs only", measured=float(last["crossover_causal"]), unit="tokens"))
    fits = tables["fits"].frame
    for cost in ("time", "memory"):
        crossover = fits[(fits["cost"] == cost) & (fits["coefficient"] == "crossover")]
        if len(crossover) and np.isfinite(crossover["value"].iloc[0]):
            found.append(
                Evidence(
                    name=f"measured length where the quadratic part of the {cost} equals the linear one",
                    measured=float(crossover["value"].iloc[0]),
                    unit="tokens",
                )
            )
    time_ = tables["time"].frame
    if len(time_) and time_["spread"].notna().any():
        worst = time_.loc[time_["spread"].idxmax()]
        found.append(
            Evidence(
                name="measured largest spread of times (interquartile range over median)",
                measured=float(worst["spread"]),
                unit="1",
                where=f"{int(worst['length'])} tokens",
            )
        )
    return tuple(found)
