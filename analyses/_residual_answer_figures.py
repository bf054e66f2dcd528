"""How is shown who writes the answer? A waterfall: what each part adds to one logit over another, up to what was measured."""

from __future__ import annotations

import pandas as pd

from analyses._contract import Tables
from reports import Waterfall, format_number, visible_token

MOST_BARS = 100
"""with more parts, those of a layer are summed up"""


def waterfall(tables: Tables) -> Waterfall:
    """Embedding, attention and feed-forward network of every layer, biases, and the sum."""
    frame, asked = tables["contributions"].frame, tables["contributions_answer"].frame.iloc[0]
    n_layers = int(tables["stacks"].frame["n_layers"].iloc[0])
    inside = frame[(frame.layer >= 0) & (frame.layer < n_layers)]
    top = inside.loc[inside.contribution.abs().idxmax()] if len(inside) else frame.iloc[0]
    words = f"“{visible_token(asked.answer)}” over “{visible_token(asked.other)}”"
    sums = ", ".join(f"{part} {_signed(part_sum)}" for part, part_sum in frame.groupby("part", sort=False)["contribution"].sum().items())
    shown = _by_layer(frame, n_layers) if len(frame) > MOST_BARS else frame
    summed = " Attention and MLP of a layer are summed up." if shown is not frame else ""
    return Waterfall(
        name="contributions",
        part="contributions",
        title=f"{words}, {_signed(asked.measured)} logits: the largest direct part is {top.part} of layer {int(top.layer)}, {_signed(top.contribution)}",
        caption=f"Direct logit attribution at the last token of “{_shortened(asked.prompt)}”: what each part writes, through the final norm with its scale as it is, "
        f"on logit({visible_token(asked.answer)}) − logit({visible_token(asked.other)}). One text, no error bars: the parts add up exactly but for rounding, {asked.error:.1g} logits.{summed} "
        "What later layers make of a part counts as theirs.",
        alt=f"Sums: {sums} logits. Total {_signed(asked.total)}, measured {_signed(asked.measured)}.",
        groups=[_group(layer, n_layers) for layer in shown.layer],
        kinds=shown.part.tolist(),
        values=shown.contribution.to_numpy(dtype=float),
        total=float(asked.measured),
        unit="logits",
        group_label="layer",
    )


def _by_layer(frame: pd.DataFrame, n_layers: int) -> pd.DataFrame:
    """One row per layer; what stands before and behind the layers stays."""
    inside = (frame.layer >= 0) & (frame.layer < n_layers)
    part = frame.part.where(~inside, "layer")
    return frame.assign(part=part).groupby(["layer", "part"], sort=False, as_index=False)["contribution"].sum()


def _group(layer: int, n_layers: int) -> str:
    return "embed" if layer < 0 else "biases" if layer >= n_layers else str(layer)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_number(float(f"{value:.3g}"))


def _shortened(text: str) -> str:
    return text if len(text) <= 90 else "…" + text[-89:]
