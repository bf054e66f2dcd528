"""From what size on is an effect more than rounding? The same sweep with other threads, and in wider numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from probes.edits import Edit
from probes.errors import SiteError
from probes.intervene import EditSet
from probes.metrics import Metric
from probes.observable import Observable
from probes.sweep.planning import as_sets
from probes.sweep.run import sweep


@dataclass(frozen=True, kw_only=True)
class NoiseFloor:
    """The largest difference of an effect between two computations that differ in rounding alone, by what differed."""

    threads: float
    """another number of threads, in the unit of the metric"""
    dtype: float | None
    """float64 in place of the model's own numbers; None where there are none wider"""
    n_edits: int
    metric: str
    unit: str

    @property
    def largest(self) -> float:
        """The larger of the two."""
        return max(self.threads, self.dtype or 0.0)


def noise_floor(
    model: Observable, batch: tuple[Tensor | None, ...], edits: Iterable[EditSet], metric: Metric, *, n_edits: int = 32, seed: int = 0
) -> NoiseFloor:
    """How much of an effect is rounding: a random `n_edits` of the edits, swept again with one thread (two where there is one
    now), and in a float64 copy of the model, the number of threads being put back.

    The copy takes as much memory as the model, twice for float32, four times for half precision. On devices without float64
    (MPS), and for a model that has it already, there is no `dtype`. The largest of a sample is not the largest of all:
    an edit outside it can be noisier.

    Raises KeyboardInterrupt where it is interrupted, SiteError for fewer than one edit, for a model that cannot be copied, and as `sweep` does.

    >>> from model import Transformer, TransformerConfig; from probes import ablate_heads, logit_difference, zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> floor = noise_floor(model, (torch.tensor([[1, 2, 3]]),), ablate_heads(model, zero()), logit_difference(4, 5))
    >>> floor.largest < 1e-5, floor.n_edits
    (True, 4)
    """
    if n_edits < 1:
        raise SiteError(f"a noise floor needs at least one edit, got n_edits={n_edits}")
    sets = as_sets(edits)
    drawn = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed))[:n_edits].sort().values.tolist()
    chosen = [sets[i] for i in drawn]
    wider = _wider(model, batch)
    here = _effects(model, batch, chosen, metric)
    with _threads(2 if torch.get_num_threads() == 1 else 1):
        threads = _largest(here - _effects(model, batch, chosen, metric))
    dtype = None if wider is None else _largest(here - _effects(wider, batch, chosen, metric))
    return NoiseFloor(threads=threads, dtype=dtype, n_edits=len(chosen), metric=metric.name, unit=metric.unit)


def mark_noise(table: pd.DataFrame, floor: NoiseFloor) -> pd.DataFrame:
    """The same rows with a column `above_noise`: is |effect| larger than the floor? `attrs` get `noise_floor`, in the unit of the
    metric.

    Raises SiteError for a table of another metric.

    >>> floor = NoiseFloor(threads=1e-7, dtype=1e-6, n_edits=32, metric="loss", unit="nats per token")
    >>> mark_noise(pd.DataFrame({"effect": [0.0, -0.5]}), floor)["above_noise"].tolist()
    [False, True]
    """
    if (of := table.attrs.get("metric", floor.metric)) != floor.metric:
        raise SiteError(f"the noise floor is that of {floor.metric}, the table's metric is {of}")
    marked = table.assign(above_noise=table["effect"].abs() > floor.largest)
    marked.attrs = {**table.attrs, "noise_floor": floor.largest}
    return marked


def _effects(model: Observable, batch: tuple[Tensor | None, ...], sets: list[tuple[Edit, ...]], metric: Metric) -> pd.Series:
    """All effects, or KeyboardInterrupt: the largest of some is no floor."""
    table = sweep(model, batch, sets, metric)
    if not table.attrs["complete"]:
        raise KeyboardInterrupt
    return table["effect"]


def _largest(difference: pd.Series) -> float:
    return float(difference.abs().max())


def _wider(model: Observable, batch: tuple[Tensor | None, ...]) -> Observable | None:
    """A copy of the model in float64."""
    dtype = getattr(model, "dtype", None)
    if not isinstance(model, torch.nn.Module) or dtype is None:
        raise SiteError(
            f"a noise floor needs a model that can be copied in another number format, {type(model).__name__} is no module with a dtype"
        )
    if dtype == torch.float64 or batch[0].device.type == "mps":
        return None
    return deepcopy(model).to(torch.float64)


@contextmanager
def _threads(n: int) -> Iterator[None]:
    """Another number of threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
