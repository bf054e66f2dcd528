"""How are the values of a sweep written down? A row per edit and example, labelled by what the edit is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from probes.edits import Edit
from probes.observable import canonical, layer_of

COLUMNS = ("edit", "site", "layer", "head", "position", "example", "clean", "edited", "effect")


def rows_of(sets: Sequence[tuple[Edit, ...]], clean: Tensor | None, edited: Sequence[Tensor | None]) -> pd.DataFrame:
    """The table of what was measured; sets of edits without a value have no rows."""
    columns: dict[str, list] = {name: [] for name in COLUMNS}
    before = [] if clean is None else clean.double().tolist()
    for number, (edits, values) in enumerate(zip(sets, edited, strict=True)):
        if values is None:
            continue
        label = label_of(edits)
        for example, value in enumerate(values.double().tolist()):
            was = before[example]
            row = {"edit": number, **label, "example": example, "clean": was, "edited": value, "effect": value - was}
            for name, entry in row.items():
                columns[name].append(entry)
    return pd.DataFrame(columns).astype({"layer": "Int64", "head": "Int64", "position": "Int64"})


def label_of(edits: tuple[Edit, ...]) -> dict[str, Any]:
    """What the rows of a set of edits are called; a number is missing where there is none or more than one."""

    def only(values: set) -> Any:
        return next(iter(values)) if len(values) == 1 else None

    position = only({edit.positions for edit in edits})
    return {
        "site": " + ".join(dict.fromkeys(canonical(edit.site) for edit in edits)),
        "layer": only({layer_of(canonical(edit.site)) for edit in edits}),
        "head": only({edit.heads[0] if edit.heads and len(edit.heads) == 1 else None for edit in edits}),
        "position": position[0] if position and len(position) == 1 and isinstance(position[0], int) else None,
    }
