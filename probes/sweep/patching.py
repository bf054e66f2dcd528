"""How much of a behaviour does one activation carry? Clean values into a corrupt run, or corrupt values into a clean one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from probes.edits import Edit
from probes.errors import SiteError, check_evaluating
from probes.inputs import Inputs
from probes.metrics import Metric
from probes.metrics.readout import check_asked
from probes.observable import Observable
from probes.record import Activations, record
from probes.sweep.pairs import LEAST_GAP, check_gaps, check_pairs
from probes.sweep.patch_grid import named, patch_sites
from probes.sweep.run import sweep

Direction = Literal["denoise", "noise"]
Grid = Callable[[Activations], Iterable[Edit]]


def patching(
    model: Observable,
    clean: Inputs,
    corrupt: Inputs,
    metric: Metric,
    sites: str | Iterable[str] = "resid_pre",
    *,
    direction: Direction = "denoise",
    grid: Grid | None = None,
    least_gap: float = LEAST_GAP,
    progress: bool = False,
) -> pd.DataFrame:
    """Activation patching between two inputs of the same length (Vig et al. 2020; Meng et al. 2022; Zhang & Nanda 2024).

    `denoise` runs the corrupt input and patches clean values in: what restores the behaviour is enough for it, the rest
    being corrupt. `noise` runs the clean input and patches corrupt values in: what breaks the behaviour is needed for it,
    the rest being clean. `grid` makes the edits of the recorded values: by default each layer, and each head where the
    sites have any, over all positions; `lambda values: patch_sites(model, values, sites, positions="each")` makes a map.

    The table is that of `sweep`, with `clean` and `corrupt` (the metric of the two whole runs, read as in the run that is
    patched), `edited`, `effect` (edited − the run that is patched) and `share`, how much of the gap between the
    runs the patch closes: 0 where the metric stays as it was in the run, 1 where it becomes that of the other.

    Raises SiteError for inputs of different length, for an example in which the two runs differ by less than `least_gap`
    of the clean metric, so that there is nothing to restore, and as `sweep` does.

    >>> from model.zoo.planted_induction import planted_induction; from probes import logit_difference
    >>> clean, corrupt = ((torch.tensor([[7, x, 9, 8, 3]]),) for x in (3, 5))  # 9 followed 3, or followed 5
    >>> table = patching(planted_induction(), clean, corrupt, logit_difference(9, 8), "z")
    >>> table[table["share"] > 0.5][["layer", "head"]].values.tolist()
    [[0, 1], [1, 2]]
    """
    if direction not in ("denoise", "noise"):
        raise SiteError(f"direction must be denoise or noise, got {direction!r}")
    check_evaluating(model)
    for inputs in (clean, corrupt):
        check_asked(inputs, metric)
    check_pairs(clean, corrupt)
    names = named(sites, model.sites())
    run, source = (corrupt, clean) if direction == "denoise" else (clean, corrupt)
    with torch.no_grad(), record(model, names) as values:
        output = model(*source)
    with torch.no_grad():
        readout = metric.on(model, run)
        own, other = readout.of(model(*run)), readout.of(output)
        of_run, of_source = readout.measure(own, own).double(), readout.measure(other, own).double()
    check_gaps(*((of_source, of_run) if direction == "denoise" else (of_run, of_source)), least_gap)
    edits = list(patch_sites(model, values, names) if grid is None else grid(values))
    return _compared(sweep(model, run, edits, metric, progress=progress), of_source, direction)


def _compared(table: pd.DataFrame, source: Tensor, direction: Direction) -> pd.DataFrame:
    """The rows beside both whole runs."""
    run = table["clean"]
    other = pd.Series(source.tolist()).reindex(table["example"]).to_numpy()
    both = {"clean": other, "corrupt": run} if direction == "denoise" else {"clean": run, "corrupt": other}
    first = [name for name in table.columns if name not in ("clean", "edited", "effect")]
    found = table.assign(**both, share=table["effect"] / (other - run))[[*first, "clean", "corrupt", "edited", "effect", "share"]]
    found.attrs = {**table.attrs, "direction": direction}
    return found
