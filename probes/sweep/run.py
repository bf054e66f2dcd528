"""How are many edits measured at once? Start at the edited block, and stack the edits of one block in one batch.

An edit at block i leaves everything before block i as it was, so the clean residual stream that enters block i is
kept and each edit starts there. Edits that start at the same block share a batch up to a byte budget; each copy of the
batch gets its own edit. Only the positions that the metric reads are unembedded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.edits import Change, Edit
from probes.errors import SiteError
from probes.intervene import BoundEdit, EditSet, attached, bind, chain, flatten, intervene
from probes.metrics import Metric, Readout, read
from probes.observable import Observable, Steppable, canonical, layer_of

BUDGET = 256 * 2**20


def sweep(
    model: Observable, batch: tuple[Tensor, ...], edits: Iterable[EditSet], metric: Metric, *,
    budget_bytes: int = BUDGET, progress: bool = False,
) -> pd.DataFrame:
    """The metric under each edit on its own, a row per edit and example.

    Columns: `edit` (its number), `site`, `layer`, `head`, `position` (missing where the edit has none or several),
    `example`, `clean`, `edited` (in the unit of the metric), `effect` = edited − clean. A tuple is one set of edits
    applied together. The numbers do not depend on `budget_bytes`, which bounds the memory of one stacked batch.

    Raises SiteError for no edits, and whatever `intervene` raises for a wrong one.

    >>> from model import Transformer, TransformerConfig; from probes import ablate_heads, loss, zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = sweep(model, (torch.tensor([[1, 2, 3]]),), ablate_heads(model, zero()), loss())
    >>> table.columns.tolist(), len(table)
    (['edit', 'site', 'layer', 'head', 'position', 'example', 'clean', 'edited', 'effect'], 4)
    """
    sets = [edit if isinstance(edit, tuple) else (edit,) for edit in edits]
    if not sets:
        raise SiteError("sweep needs at least one edit, got none")
    readout = metric.on(model, batch)
    run = _restarted if isinstance(model, Steppable) else _one_by_one
    with torch.no_grad(), tqdm(total=len(sets), desc=f"sweep {metric.name}", disable=None if progress else True, leave=False) as bar:
        clean, edited = run(model, batch, sets, readout, budget_bytes, bar)
    return _table(sets, clean, edited)


def _one_by_one(model: Observable, batch: tuple, sets: list, readout: Readout, budget_bytes: int, bar: tqdm) -> tuple[Tensor, list[Tensor]]:
    """Every edit in a forward pass of its own: for models that cannot be resumed."""
    logits = read(model(*batch), readout.positions)
    edited = []
    for edits in sets:
        with intervene(model, *edits):
            edited.append(readout.measure(read(model(*batch), readout.positions), logits))
        bar.update()
    return readout.measure(logits, logits), edited


def _restarted(model: Steppable, batch: tuple, sets: list, readout: Readout, budget_bytes: int, bar: tqdm) -> tuple[Tensor, list[Tensor]]:
    """Every edit from the block that it changes, edits of one block together."""
    bound = bind(model, flatten(sets))
    planned = [_Planned(model, i, [one for edit in edits for one in bound(edit)]) for i, edits in enumerate(sets)]
    edited: list[Tensor | None] = [None] * len(sets)
    state, logits = model.start(*batch), None
    clean = read(_finished(model, state, 0, None), readout.positions)
    per_copy = _bytes_per_copy(model, state, clean)
    for block in range(-1, model.n_layers + 1):
        here = [plan for plan in planned if plan.block == block]
        at_once = max(1, budget_bytes // per_copy)
        for k in range(0, len(here), at_once):
            chosen = here[k : k + at_once]
            with attached(model, _stacked(chosen, len(batch[0]))):
                logits = _run(model, batch, state, chosen, readout)
            for plan, part in zip(chosen, logits.split(len(batch[0])), strict=True):
                edited[plan.index] = readout.measure(part, clean)
            bar.update(len(chosen))
        if 0 <= block < model.n_layers:
            state = model.step(state, block)
    return readout.measure(clean, clean), edited


@dataclass(frozen=True)
class _Planned:
    """A set of edits, and the first step that it changes: −1 for what enters block 0, n_layers for what follows the last."""

    model: Steppable
    index: int
    edits: list[BoundEdit]

    @property
    def block(self) -> int:
        return min(self.model.step_of(edit.site) for edit in self.edits)

    @property
    def ends_late(self) -> bool:
        """Does it also change what follows the last block?"""
        return any(self.model.step_of(edit.site) == self.model.n_layers for edit in self.edits)


def _stacked(plans: Sequence[_Planned], n_examples: int) -> dict[str, Change]:
    """For each site, the change that gives every copy of the batch its own edit."""
    parts: dict[str, dict[int, list[BoundEdit]]] = {}
    for copy, plan in enumerate(plans):
        for edit in plan.edits:
            parts.setdefault(edit.site, {}).setdefault(copy, []).append(edit)

    def change(site: str) -> Change:
        def stacked(value: Tensor) -> Tensor:
            copies = list(value.split(n_examples))
            for copy, edits in parts[site].items():
                copies[copy] = chain(edits)(copies[copy])
            return torch.cat(copies)

        return stacked

    return {site: change(site) for site in parts}


def _run(model: Steppable, batch: tuple, state: Any, plans: Sequence[_Planned], readout: Readout) -> Tensor:
    """Logits of a copy of the batch for each plan, from their common block on, at the positions that are read."""
    n, block = len(plans), plans[0].block
    if block < 0:
        state = model.start(*(x if x is None else x.repeat(n, *[1] * (x.dim() - 1)) for x in batch))
    else:
        state = state.repeat(n)
    positions = None if readout.positions is None else readout.positions.repeat(n, 1)
    if any(plan.ends_late for plan in plans):  # an edit of what `finish` computes may name positions of the whole sequence
        return read(_finished(model, state, max(block, 0), None), positions)
    return _finished(model, state, max(block, 0), positions)


def _finished(model: Steppable, state: Any, first: int, positions: Tensor | None) -> Tensor:
    for i in range(first, model.n_layers):
        state = model.step(state, i)
    return model.finish(state, positions)


def _bytes_per_copy(model: Steppable, state: Any, clean: Tensor) -> int:
    """A rough upper bound of what one more copy of the batch takes: logits, and some twenty residual streams for a block's inner values."""
    return 2 * clean.nbytes + 20 * state.resid.nbytes


def _table(sets: Sequence[tuple[Edit, ...]], clean: Tensor, edited: Sequence[Tensor]) -> pd.DataFrame:
    columns: dict[str, list] = {name: [] for name in ("edit", "site", "layer", "head", "position", "example", "clean", "edited", "effect")}
    before = clean.float().tolist()
    for number, (edits, values) in enumerate(zip(sets, edited, strict=True)):
        label = _label(edits)
        for example, value in enumerate(values.float().tolist()):
            was = before[example]
            row = {"edit": number, **label, "example": example, "clean": was, "edited": value, "effect": value - was}
            for name, entry in row.items():
                columns[name].append(entry)
    return pd.DataFrame(columns).astype({"layer": "Int64", "head": "Int64", "position": "Int64"})


def _label(edits: tuple[Edit, ...]) -> dict[str, Any]:
    """What the rows of a set of edits are called; a number is missing where there is none or more than one."""

    def only(values: set) -> Any:
        return next(iter(values)) if len(values) == 1 else None

    flat = {edit.positions for edit in edits}
    position = only(flat)
    return {
        "site": " + ".join(dict.fromkeys(canonical(edit.site) for edit in edits)),
        "layer": only({layer_of(canonical(edit.site)) for edit in edits}),
        "head": only({edit.heads[0] if edit.heads and len(edit.heads) == 1 else None for edit in edits}),
        "position": position[0] if position and len(position) == 1 and isinstance(position[0], int) else None,
    }
