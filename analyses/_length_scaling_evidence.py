"""Which numbers stand behind the verdict on length, and how is it said?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._contract import Tables
from reports import Evidence, Verdict

NO_LOSS = {
    "none": "the model has no head",
    "mlm": "an encoder sees all positions at once",
    "lm": "an encoder sees all positions at once",
}
"""why there is no loss by length of context, by the model's head"""


def short(differences: pd.DataFrame) -> int:
    """Which bin the longest contexts are compared with: the shortest that does not consist of the first token alone, where there is one."""
    return min(1, len(differences) - 1)


def words(row: pd.Series, where: str = "of context") -> str:
    """Which contexts a bin holds."""
    first, last = int(row["first"]), int(row["last"])
    return f"{first} token{'s' if first > 1 else ''} {where}".rstrip() if first == last else f"{first} to {last} tokens {where}".rstrip()


def _against(row: pd.Series) -> str:
    first, _, last = str(row["against"]).partition("–")
    return f"against contexts of {words(pd.Series({'first': first, 'last': last}), '')}"


def cost(operations: pd.DataFrame, kind: str) -> str:
    """What attention costs at the longest length, in a clause."""
    if operations.empty:
        return "no length could be timed"
    last = operations.iloc[-1]
    each = " of source and of target" if kind == "encoder-decoder" else ""
    return f"at {int(last['length'])} tokens{each} attention takes {last['share']:.0%} of the operations and would equal the rest at {last['crossover']:.0f} tokens"


def verdict(tables: Tables) -> Verdict:
    """Does the loss fall with context? Without a loss that can tell, what length costs."""
    what, found = tables["model"].frame.iloc[0], evidence(tables)
    loss, differences = tables["loss"].frame, tables["differences"].frame
    price = cost(tables["operations"].frame, what["kind"])
    if what["loss_of"] == "nothing":
        claim = f"There is no loss by length of context, since {NO_LOSS[what['head']]}; {price}."
        return Verdict(status="inconclusive", claim=claim, evidence=found)
    if len(loss) < 2:
        claim = "Context and text are too short to compare the loss of different lengths of context."
        return Verdict(status="inconclusive", claim=claim, evidence=found)
    if differences["low"].isna().any():
        claim = "The loss was measured on one chunk of text, so nothing says how sure it is."
        return Verdict(status="inconclusive", claim=claim, evidence=found)
    i, text = short(differences), what["loss_of"] == "text"
    where = "of context" if text else "of the target"
    first, last = loss.iloc[i], loss.iloc[-1]
    course = f"from {first['loss']:.2f} nats with {words(first, where)} to {last['loss']:.2f} with {words(last, where)}"
    if what["loss_of"] == "own targets":
        claim = f"The model wrote the targets itself, so that their loss does not say whether context helps ({course}); {price}."
        return Verdict(status="inconclusive", claim=claim, evidence=found)
    return _course(differences, course, price, found, subject="with context" if text else "along the target")


def _course(differences: pd.DataFrame, course: str, price: str, found: tuple[Evidence, ...], *, subject: str) -> Verdict:
    """Falling, rising, rising again, or not to be told."""
    total, rise = differences.iloc[short(differences)], differences.iloc[-1]
    if total["low"] <= 0 <= total["high"]:
        whether = "context lowers the loss" if subject == "with context" else f"the loss falls {subject}"
        claim = f"Whether {whether} cannot be told: {course}, difference between {total['low']:.2f} and {total['high']:.2f}; {price}."
        return Verdict(status="inconclusive", claim=claim, evidence=found)
    if total["low"] > 0:
        return Verdict(status="fail", claim=f"The loss rises {subject}, {course}; {price}.", evidence=found)
    if rise["low"] > 0:
        claim = f"The loss falls {subject}, {course}, but rises again by {rise['difference']:.2f} nats over the longest; {price}."
        return Verdict(status="warn", claim=claim, evidence=found)
    why = "A loss that rises towards the end of the context says that the model cannot use what it is given."
    return Verdict(status="pass", claim=f"The loss falls {subject}, {course}; {price}.", evidence=found, why=why)


def evidence(tables: Tables) -> tuple[Evidence, ...]:
    """The numbers of the claim; the loss of targets that the model wrote itself is held against nothing."""
    what = tables["model"].frame.iloc[0]
    losses = [] if what["loss_of"] in ("nothing", "own targets") else _of_loss(tables["differences"].frame)
    return tuple([*losses, *_of_operations(tables["operations"].frame, what["kind"]), *_of_measurements(tables)])


def _of_loss(differences: pd.DataFrame) -> list[Evidence]:
    if differences.empty or differences["low"].isna().any():
        return []
    total, rise = differences.iloc[short(differences)], differences.iloc[-1]
    return [
        Evidence(
            name="loss with the longest contexts − loss with short ones, upper end of the 95 % interval",
            measured=float(total["high"]),
            unit="nats per token",
            threshold=0.0,
            relation="<",
            where=_against(total),
            source="it should fall",
        ),
        Evidence(
            name="change of the loss over the last doubling of context, lower end of the 95 % interval",
            measured=float(rise["low"]),
            unit="nats per token",
            threshold=0.0,
            relation="<=",
            where=_against(rise),
            source="it should not rise",
        ),
    ]


def _of_operations(operations: pd.DataFrame, kind: str) -> list[Evidence]:
    if operations.empty:
        return []
    last = operations.iloc[-1]
    all_pairs = [
        Evidence(
            name="share of attention in the operations, all pairs",
            measured=float(last["share"]),
            unit="1",
            where=f"{int(last['length'])} tokens",
        ),
        Evidence(
            name="length where attention equals projections and MLP in operations, all pairs",
            measured=float(last["crossover"]),
            unit="tokens",
        ),
    ]
    visible = Evidence(name="the same over visible pairs only", measured=float(last["crossover_visible"]), unit="tokens")
    return all_pairs if kind == "encoder" else [*all_pairs, visible]


def _of_measurements(tables: Tables) -> list[Evidence]:
    found, fits, times = [], tables["fits"].frame, tables["time"].frame
    for measured in ("time", "memory"):
        crossover = fits[(fits["cost"] == measured) & (fits["coefficient"] == "crossover")]
        if len(crossover) and np.isfinite(crossover["value"].iloc[0]):
            name = f"measured length where the quadratic part of the {measured} equals the linear one"
            found.append(Evidence(name=name, measured=float(crossover["value"].iloc[0]), unit="tokens"))
    if len(times) and times["spread"].notna().any():
        worst = times.loc[times["spread"].idxmax()]
        name = "measured largest spread of times (interquartile range over median)"
        found.append(Evidence(name=name, measured=float(worst["spread"]), unit="1", where=f"{int(worst['length'])} tokens"))
    return found
