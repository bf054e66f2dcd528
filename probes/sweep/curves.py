"""What do edits do together? Sets of edits, and curves along which one edit after another is added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import pandas as pd
from torch import Tensor

from probes.edits import Edit
from probes.errors import SiteError
from probes.intervene import EditSet
from probes.metrics import Metric
from probes.observable import Observable
from probes.sweep.planning import as_sets
from probes.sweep.rows import label_of
from probes.sweep.run import sweep

CURVE = ("step", "edit", "site", "layer", "head", "position", "example", "clean", "edited", "effect")


def sets_of(edits: Iterable[EditSet], size: int = 2) -> list[tuple[Edit, ...]]:
    """Every set of `size` of these edits, each to be applied together: pairs of heads tell which heads back each other up.

    Raises SiteError for no edit, and for fewer edits than a set has.

    >>> from probes import Edit, zero
    >>> [[edit.heads for edit in pair] for pair in sets_of([Edit("blocks.0.attn.z", zero(), heads=[h]) for h in range(3)])]
    [[(0,), (1,)], [(0,), (2,)], [(1,), (2,)]]
    """
    single = as_sets(edits)
    if not 1 <= size <= len(single):
        raise SiteError(f"a set must have from 1 to {len(single)} edits, the number that is given, got {size}")
    return [tuple(edit for one in chosen for edit in one) for chosen in combinations(single, size)]


def cumulative_sweep(
    model: Observable, batch: tuple[Tensor, ...], edits: Iterable[EditSet], metric: Metric, *, progress: bool = False
) -> pd.DataFrame:
    """The metric while edits are added in the order given: a row per step and example.

    Columns are those of `sweep` behind `step`, which counts from 1; `edit`, `site`, `layer`, `head` and `position` are
    those of the edit that is added at the step, `edited` is the metric under it and all before it, and `effect` = edited −
    clean. After Ctrl-C the steps that are done are left, as in `sweep`. Raises SiteError as `sweep` does.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import ablate_heads, loss, zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> cumulative_sweep(model, (torch.tensor([[1, 2, 3]]),), ablate_heads(model, zero()), loss())["step"].tolist()
    [1, 2, 3, 4]
    """
    single = as_sets(edits)
    sets = [tuple(edit for one in single[: n + 1] for edit in one) for n in range(len(single))]
    table = sweep(model, batch, sets, metric, progress=progress)
    steps = [_step(part, number + 1, number, single[number]) for number, part in table.groupby("edit", sort=True)]
    return _joined(steps, table.attrs)


def greedy_sweep(
    model: Observable,
    batch: tuple[Tensor, ...],
    edits: Iterable[EditSet],
    metric: Metric,
    *,
    n_steps: int | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """The same where each step adds the edit that changes the metric most, given all before it; None: until none is left.

    What is compared is |mean over examples of edited − that of the step before|; of equals, the first is taken. Heads that
    back each other up look idle one at a time and not here; n edits take up to n (n + 1) / 2 of them in a sweep. Ctrl-C leaves
    the steps that are done: one whose edits were not all tried is not.

    Raises SiteError for a number of steps that is not between 1 and the number of edits, and as `sweep` does.
    """
    single = as_sets(edits)
    n_steps = len(single) if n_steps is None else n_steps
    if not 1 <= n_steps <= len(single):
        raise SiteError(f"n_steps must be from 1 to {len(single)}, the number of edits, got {n_steps}")
    chosen: list[int] = []
    steps, attrs, before = [], {}, None
    for number in range(1, n_steps + 1):
        left = [i for i in range(len(single)) if i not in chosen]
        table = sweep(model, batch, [_union(single, [*chosen, i]) for i in left], metric, progress=progress)
        attrs = {**table.attrs, **{name: attrs.get(name, 0) + table.attrs[name] for name in ("block_steps", "token_steps")}}
        if not attrs["complete"]:
            break
        means = table.groupby("edit", sort=True)["edited"].mean()
        last = table["clean"][table["edit"] == table["edit"].iloc[0]].mean() if before is None else before
        best = int((means - last).abs().fillna(-1.0).to_numpy().argmax())
        chosen.append(left[best])
        before = float(means.iloc[best])
        steps.append(_step(table[table["edit"] == best], number, left[best], single[left[best]]))
    return _joined(steps, attrs)


def _union(single: Sequence[tuple[Edit, ...]], numbers: Sequence[int]) -> tuple[Edit, ...]:
    return tuple(edit for i in numbers for edit in single[i])


def _step(rows: pd.DataFrame, step: int, number: int, added: tuple[Edit, ...]) -> pd.DataFrame:
    """The rows of one step, labelled by what it adds."""
    return rows.assign(step=step, edit=number, **label_of(added))[list(CURVE)]


def _joined(steps: Sequence[pd.DataFrame], attrs: dict) -> pd.DataFrame:
    whole = {"layer": "Int64", "head": "Int64", "position": "Int64"}
    table = pd.concat([step.astype(whole) for step in steps], ignore_index=True) if steps else pd.DataFrame(columns=list(CURVE))
    table.attrs = dict(attrs)
    return table
