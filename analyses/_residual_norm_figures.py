"""How are the norm layers of a stack shown? What they divide by, and their gains."""

from __future__ import annotations

from analyses._contract import Tables
from analyses._residual_measure import ALL, SINKS, WITHOUT_SINKS
from analyses._residual_series import of, span
from reports import Lines, Series, format_number

WORDS = {"ln1": "attention", "ln_cross": "cross-attention", "ln2": "the MLP"}
PLACES = {"pre": "before", "sandwich": "before", "post": "after"}
"""where a norm of a block stands, by the choice of the stack; one whose name ends in `_post` stands after"""


def scales(tables: Tables) -> Lines | None:
    """What the norm layers divide by, block by block; None where they have no scale (batch norm)."""
    norms = tables["norms"].frame
    kinds = _kinds(tables)
    parts = {
        f"{label}{', at sinks' if version == SINKS else ''}": of(norms[norms.norm.str.endswith(f".{kind}")], version)
        for version in (WITHOUT_SINKS, SINKS)
        for label, kind in kinds.items()
    }
    if not kinds or norms.scale_median.isna().all():
        return None
    first_label = next(iter(kinds))
    body = parts[first_label]
    final = norms[(norms.norm == "ln_final") & (norms.positions == WITHOUT_SINKS)]
    end = f"{format_number(body.scale_median.iloc[-1])} in block {int(body.layer.iloc[-1])}"
    if len(final):
        headless = tables["stacks"].frame["head"].iloc[0] == "none"
        end = f"{format_number(final.scale_median.iloc[0])} {'at the end' if headless else 'before the unembedding'}"
    return Lines(
        part="layers",
        name="norm-scales",
        title=f"The norms divide by {format_number(body.scale_median.iloc[0])} in block 0 and by {end}",
        caption="Scale of every norm layer, median over tokens; bands from the smallest to the largest without sink positions. What a block adds counts as much as its size over this scale.",
        alt=f"Median scale {first_label} without sinks: "
        + ", ".join(f"{format_number(row.scale_median)} in block {row.layer}" for row in body.iloc[:: max(1, len(body) // 5)].itertuples(index=False))
        + ".",
        x=body.layer.to_numpy(dtype=float),
        x_label="block",
        y_label="scale",
        log_y=True,
        series={
            name: Series(
                y=part.scale_median.to_numpy(dtype=float),
                **({} if "sinks" in name else {"low": part.scale_min.to_numpy(dtype=float), "high": part.scale_max.to_numpy(dtype=float)}),
            )
            for name, part in parts.items()
        },
    )


def gains(tables: Tables) -> Lines | None:
    """The gains of the norm layers, block by block; None where no norm stands in a block."""
    norms = of(tables["norms"].frame, ALL)
    parts = {label: norms[norms.norm.str.endswith(f".{kind}")] for label, kind in _kinds(tables).items()}
    if not parts:
        return None
    largest = norms.loc[norms.gain_max.idxmax()]
    return Lines(
        name="norm-gains",
        title=f"The gains of the norm layers reach {format_number(largest.gain_max)}, in {largest.norm}",
        caption="Gain of every norm layer inside the blocks, median over coordinates; bands from the smallest to the largest coordinate.",
        alt="; ".join(
            f"{label}: median {span(part.gain_median)}, largest {format_number(part.gain_max.max())}, smallest {format_number(part.gain_min.min())}"
            for label, part in parts.items()
        )
        + ".",
        x=next(iter(parts.values())).layer.to_numpy(dtype=float),
        x_label="block",
        y_label="gain",
        series={
            label: Series(
                y=part.gain_median.to_numpy(dtype=float), low=part.gain_min.to_numpy(dtype=float), high=part.gain_max.to_numpy(dtype=float)
            )
            for label, part in parts.items()
        },
    )


def _kinds(tables: Tables) -> dict[str, str]:
    """The norm layers of a block: where they stand, in words → their name."""
    names = set(tables["norms"].frame["norm"].str.rpartition(".")[2])
    place = PLACES.get(tables["stacks"].frame["norms"].iloc[0], "after")
    found = {f"{place} {words}": kind for kind, words in WORDS.items() if kind in names}
    return found | {f"after {words}": f"{kind}_post" for kind, words in WORDS.items() if f"{kind}_post" in names}
