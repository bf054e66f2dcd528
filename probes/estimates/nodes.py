"""What does an estimate say of each node? The heads and places of some sites, each with a number for every example."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.edits import Edit
from probes.places import place_axis
from probes.sweep.rows import label_of

HEADS = ("head", "kv_head")
NODE = ["site", "layer", "head", "position"]


def folded(value: Tensor, axes: tuple[str, ...], *, by_position: bool) -> Float[Tensor, "batch pos head"]:
    """The sum over all axes but examples, places and heads; an axis that is not there, or not asked for, has one entry.

    >>> folded(torch.ones(2, 3, 4, 5), ("batch", "pos", "head", "d_head"), by_position=False).tolist()[0]
    [[15.0, 15.0, 15.0, 15.0]]
    """
    place, head = place_axis(axes), next((i for i, name in enumerate(axes) if name in HEADS), None)
    if place is None or not by_position:
        value, place = value.unsqueeze(1), 1
        head = None if head is None else head + 1
    if head is None:
        value, head = value.unsqueeze(-1), value.dim()
    first = (0, place, head)
    rest = [i for i in range(value.dim()) if i not in first]
    value = value.permute(*first, *rest)
    return value.flatten(3).sum(-1) if rest else value


def labels_of(edits: Sequence[Edit]) -> pd.DataFrame:
    """A row per node: what a sweep calls it."""
    labels = pd.DataFrame([label_of((edit,)) for edit in edits], columns=NODE)
    return labels.astype({"layer": "Int64", "head": "Int64", "position": "Int64"})


def rows_of_nodes(edits: Sequence[Edit], effects: Sequence[Float[Tensor, "batch pos head"]], clean: Float[Tensor, "batch"]) -> pd.DataFrame:
    """A row per node and example, in the order in which a sweep gives them: sites, their heads, their places, examples."""
    n = len(clean)
    numbers = torch.cat([values.permute(2, 1, 0).reshape(-1).cpu() for values in effects]).numpy().astype(float)
    table = labels_of(edits).loc[np.repeat(np.arange(len(edits)), n)].reset_index(drop=True)
    table["example"] = np.tile(np.arange(n), len(edits))
    table["clean"] = np.tile(clean.detach().cpu().double().numpy(), len(edits))
    table["estimate"] = numbers
    return table
