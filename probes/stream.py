"""What is true of a model over a whole corpus? Batches go by, statistics keep what they need, activations are not kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.allocation import freed_memory_is_kept
from probes.errors import SiteError, check_evaluating, did_not_fire
from probes.inputs import Inputs, sequence_at
from probes.observable import Observable, Steppable
from probes.statistics._contract import Seen, Statistic
from probes.statistics._written_rows import WrittenRows

Statistics = Mapping[str, Statistic] | Sequence[Statistic]
Group = tuple[tuple[str, ...], bool]
"""sites that are shown together, and whether their patterns are read by rows"""


@dataclass(frozen=True)
class Reading:
    """What has been read of a stream: each statistic with its state, and how much it has seen."""

    statistics: Mapping[str, Statistic]
    batches: int
    examples: int
    complete: bool
    """False where the stream was interrupted: the batch that was under way then does not count"""


def stream(model: Observable, batches: Iterable[Inputs], statistics: Statistics, *, progress: bool = True) -> dict[str, pd.DataFrame]:
    """The table of every statistic over all batches, in memory that does not grow with their number.

    `batches` yields what the model is called with: (tokens, mask) pairs, for two stacks (source, target, source mask, target
    mask). `statistics` are named by a mapping; those of a sequence go by the name of their class. Padding never counts. A
    model that can be stepped through stops behind the last block that a statistic looks at, so that no logits are made
    unless one asks for them. A table's `attrs` hold `batches`, `examples` and `complete`; Ctrl-C gives the tables of the
    batches that were complete by then, with a RuntimeWarning.

    Raises ValueError for no batch, no statistic, or two with one name; UnknownSiteError and SiteError for sites that a
    statistic cannot read, or that did not fire.

    >>> from model import Transformer, TransformerConfig; from probes.statistics import Norms
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> tables = stream(model, [(torch.tensor([[1, 2, 3]]),), (torch.tensor([[4, 5]]),)], [Norms(at="blocks.*.resid_post")])
    >>> int(tables["Norms"]["n"].max()), tables["Norms"].attrs
    (5, {'batches': 2, 'examples': 2, 'complete': True})
    """
    reading = read_stream(model, batches, statistics, progress=progress)
    tables = {name: statistic.finish() for name, statistic in reading.statistics.items()}
    for table in tables.values():
        table.attrs |= {"batches": reading.batches, "examples": reading.examples, "complete": reading.complete}
    return tables


def read_stream(
    model: Observable, batches: Iterable[Inputs], statistics: Statistics, *, first_example: int = 0, progress: bool = True
) -> Reading:
    """The statistics themselves after all batches, to go on with or to merge with those of another shard.

    `first_example` is the number of the first example, so that examples of shards can be told apart. The statistics that are
    given stay as they are. Raises what `stream` raises.

    >>> from model import Transformer, TransformerConfig; from probes.statistics import Moments
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> shards = [[(torch.tensor([[1, 2, 3]]),)], [(torch.tensor([[4, 5]]),)]]
    >>> a, b = (read_stream(model, shard, [Moments(at="embed")]).statistics["Moments"] for shard in shards)
    >>> a.merge(Moments(at="embed").load(b.state_dict())).finish()["n"].unique().tolist()
    [5, 3]
    """
    check_evaluating(model)
    current = _named(statistics)
    groups = _groups(model, current)
    n_batches, n_examples, complete = 0, 0, True
    with freed_memory_is_kept(), tqdm(batches, desc="stream", unit="batch", disable=None if progress else True, leave=False) as bar:
        try:
            for batch in bar:
                batch = batch if isinstance(batch, tuple) else tuple(batch) if isinstance(batch, list) else (batch,)
                current = _read(model, batch, groups, current, first_example + n_examples)
                n_batches, n_examples = n_batches + 1, n_examples + len(batch[0])
        except KeyboardInterrupt:
            if not n_batches:
                raise
            complete = False
            warnings.warn(f"interrupted: the tables are of the {n_batches} batches that were read", RuntimeWarning, stacklevel=3)
    if not n_batches:
        raise ValueError("a stream needs at least one batch, got none")
    return Reading(current, n_batches, n_examples, complete)


def _named(statistics: Statistics) -> dict[str, Statistic]:
    if isinstance(statistics, Statistic):
        raise ValueError(f"statistics are a list or a mapping of them, got one {type(statistics).__name__}")
    pairs = list(statistics.items() if isinstance(statistics, Mapping) else ((type(one).__name__, one) for one in statistics))
    if wrong := [one for _, one in pairs if not isinstance(one, Statistic)]:
        raise ValueError(f"statistics must be Statistic, got {type(wrong[0]).__name__}")
    names = [name for name, _ in pairs]
    if not pairs or len(set(names)) < len(names):
        twice = next((name for name in names if names.count(name) > 1), None)
        raise ValueError(
            "stream needs at least one statistic, got none" if not pairs else f"two statistics are called {twice}; name them in a mapping"
        )
    return dict(pairs)


def _groups(model: Observable, statistics: Mapping[str, Statistic]) -> dict[Group, list[str]]:
    """Every group of sites, with the names of the statistics that want it."""
    groups: dict[Group, list[str]] = {}
    for name, statistic in statistics.items():
        for sites in statistic.sites(model):
            groups.setdefault((sites, statistic.by_rows), []).append(name)
    return groups


def _read(
    model: Observable, batch: Inputs, groups: Mapping[Group, list[str]], statistics: Mapping[str, Statistic], first_example: int
) -> dict[str, Statistic]:
    """The statistics after one more batch."""
    delivery = _Delivery(batch, groups, dict(statistics), first_example)
    sites = model.sites()
    with torch.no_grad(), ExitStack() as taps:
        for name, by_rows in delivery.wanted:
            if by_rows and hasattr(sites[name], "watch_rows"):
                taps.callback(sites[name].watch_rows(lambda rows, name=name: delivery.receive((name, True), rows)))
            elif by_rows:
                taps.callback(sites[name].watch(lambda value, name=name: delivery.receive((name, True), WrittenRows(_wide(value)))))
            else:
                taps.callback(sites[name].watch(lambda value, name=name: delivery.receive((name, False), _wide(value))))
        run_to(model, batch, [name for name, _ in delivery.wanted])
    if missing := delivery.missing():
        raise did_not_fire(missing)
    return delivery.statistics


def run_to(model: Observable, batch: Inputs, names: Sequence[str]) -> None:
    """A forward pass up to the last of these sites."""
    if not isinstance(model, Steppable):
        model(*batch)
        return
    last = max(model.step_of(name) for name in names)
    state = model.start(*batch)
    for i in range(min(last + 1, model.n_layers)):
        state = model.step(state, i)
    if last >= model.n_layers:
        model.finish(state)


@dataclass
class _Delivery:
    """One batch on its way: values wait until their group is whole, are shown to the statistics, and are let go."""

    batch: Inputs
    groups: Mapping[Group, list[str]]
    statistics: dict[str, Statistic]
    first_example: int
    waiting: dict[tuple[str, bool], Any] = field(default_factory=dict)
    done: set[Group] = field(default_factory=set)

    @property
    def wanted(self) -> list[tuple[str, bool]]:
        """Every site, and how it is read."""
        return list(dict.fromkeys((name, by_rows) for sites, by_rows in self.groups for name in sites))

    def receive(self, key: tuple[str, bool], value: Any) -> None:
        """A site has its value."""
        mine = [group for group in self.groups if group[1] == key[1] and key[0] in group[0]]
        if key in self.waiting or any(group in self.done for group in mine):
            raise SiteError(f"{key[0]} fired a second time in one batch: a stream reads one value of each site")
        kept = any(len(sites) > 1 for sites, _ in mine)
        self.waiting[key] = value.clone() if kept and isinstance(value, Tensor) else value  # the model goes on with its own
        for group in mine:
            if all((name, key[1]) in self.waiting for name in group[0]):
                self._show(group)
        for name in {name for sites, _ in mine for name in sites}:
            if all(group in self.done for group in self.groups if group[1] == key[1] and name in group[0]):
                self.waiting.pop((name, key[1]), None)

    def missing(self) -> list[str]:
        """Sites whose group never was whole, because they did not fire."""
        return [name for group in self.groups if group not in self.done for name in group[0] if (name, group[1]) not in self.waiting]

    def _show(self, group: Group) -> None:
        sites, by_rows = group
        tokens, mask = sequence_at(sites[0], self.batch)
        keys, key_mask = sequence_at(f"{sites[0].rpartition('.')[0]}.k", self.batch)
        seen = Seen(
            values={name: self.waiting[name, by_rows] for name in sites}, tokens=tokens,
            mask=torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask,
            key_mask=torch.ones_like(keys, dtype=torch.bool) if key_mask is None else key_mask, first_example=self.first_example,
        )  # fmt: skip
        for name in self.groups[group]:
            self.statistics[name] = self.statistics[name].update(seen)
        self.done.add(group)


def _wide(value: Tensor) -> Tensor:
    """In fp32 at least."""
    return value.detach().to(torch.promote_types(value.dtype, torch.float32))
