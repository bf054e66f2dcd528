"""How much of a behaviour runs along one path? Some parts read what others would have written on another input."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.circuits.edges import Edge, Node, PathsLike, behind, paths_of
from probes.edits import Change
from probes.errors import SiteError, UnknownSiteError, check_evaluating
from probes.inputs import Inputs
from probes.intervene import attached
from probes.metrics import Metric, Readout
from probes.observable import Steppable, select
from probes.record import record
from probes.sweep.edits_by_name import heads_at
from probes.sweep.pairs import LEAST_GAP, check_gaps, check_pairs

EdgeSet = Edge | tuple[Edge, ...]
"""One edge, or several that are patched together."""
NAMED = 3
"""so many senders or receivers of a set are named in its rows"""


def path_patch(
    model: Steppable, clean: Inputs, corrupt: Inputs, edges: Iterable[EdgeSet], metric: Metric, *,
    least_gap: float = LEAST_GAP, progress: bool = False,
) -> pd.DataFrame:
    """Path patching (Wang et al. 2023; Goldowsky-Dill et al. 2023) of any edges, a row per set of edges and example.

    Each item of `edges` is one edge or a tuple of edges that are patched together, in one forward pass. In it every receiver
    reads the stream of that pass plus, for each of its edges, what the sender writes on the corrupt input minus what it
    writes in the pass. All else goes on from there: what a receiver then computes reaches everything behind it. So no edge
    at all is the clean run, all edges of the model are the corrupt run, and a sender's edges to all its receivers are its
    activation patch. To patch corrupt ← clean, exchange the two inputs.

    Columns: `set` (its number), `sender`, `receiver`, `example`, `clean`, `corrupt` (the metric of both whole runs, read as in
    the clean one), `edited`, `effect` = edited − clean, and `share`, how much of the gap between the two runs that is. Ctrl-C
    leaves the rows of those sets that are done, `attrs["complete"]` then being False, and a warning.

    Raises SiteError for inputs of different length, for an example in which the two runs differ by less than `least_gap` of the
    clean metric (0 takes all, and gives no share where there is no gap), no edge, an edge to a part that does not read the stream behind its
    sender, and heads that there are not; ValueError where what a sender writes is no term of a sum (post-norm), and for a
    site that is no part.

    >>> from model.zoo.planted_induction import planted_induction; from probes import logit_difference
    >>> model, edge = planted_induction(), Edge(("blocks.0.attn.z", 1), ("blocks.1.attn.k", 2))
    >>> clean, corrupt = ((torch.tensor([[7, x, 9, 8, 3]]),) for x in (3, 5))  # 9 followed 3, or followed 5
    >>> path_patch(model, clean, corrupt, [edge], logit_difference(9, 8))["share"].round(2).tolist()
    [1.0]
    """
    sets = [item if isinstance(item, tuple) else (item,) for item in edges]
    check_evaluating(model)
    check_pairs(clean, corrupt)
    paths = paths_of(model)
    _check(model, paths, sets)
    with torch.no_grad():
        pair = _Pair.of(model, paths, clean, corrupt, sets, metric)
        if least_gap:
            check_gaps(pair.clean, pair.corrupt, least_gap)
        measured = _measured(pair, sets, progress)
    rows = [
        {"set": i, **_label(one), "example": k, "clean": a, "corrupt": b, "edited": v, "effect": v - a, "share": _share(v - a, b - a)}
        for i, (one, values) in enumerate(zip(sets, measured))
        for k, (a, b, v) in enumerate(zip(pair.clean.tolist(), pair.corrupt.tolist(), values.tolist(), strict=True))
    ]
    table = pd.DataFrame(rows, columns=["set", "sender", "receiver", "example", "clean", "corrupt", "edited", "effect", "share"])
    table.attrs = {"metric": metric.name, "unit": metric.unit, "exact": True, "complete": len(measured) == len(sets)}
    return table


def _measured(pair: _Pair, sets: Sequence[tuple[Edge, ...]], progress: bool) -> list[Tensor]:
    """The metric under each set, of those that come before Ctrl-C."""
    measured: list[Tensor] = []
    try:
        for one in tqdm(sets, desc="path patching", disable=None if progress else True, leave=False):
            measured.append(pair.patched(one))
    except KeyboardInterrupt:
        warnings.warn(f"path patching was interrupted: {len(measured)} of {len(sets)} sets are done", RuntimeWarning, stacklevel=3)
    return measured


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pair:
    """Two runs: what senders write in both, and the clean one's states, from which a patched pass begins."""

    model: Steppable
    paths: PathsLike
    states: tuple[Any, ...]
    """what enters each block"""
    written: Mapping[str, Tensor]
    other: Mapping[str, Tensor]
    readout: Readout
    output: Tensor
    clean: Tensor
    corrupt: Tensor

    @classmethod
    def of(
        cls, model: Steppable, paths: PathsLike, clean: Inputs, corrupt: Inputs, sets: Sequence[tuple[Edge, ...]], metric: Metric
    ) -> _Pair:
        """Both runs, with what the senders of any set write in them."""
        names = sorted({edge.sender.site for edges in sets for edge in edges})
        readout, states = metric.on(model, clean), []
        with ExitStack() as stack:
            written = stack.enter_context(record(model, names)) if names else {}
            states.append(model.start(*clean))
            for i in range(model.n_layers):
                states.append(model.step(states[-1], i))
            output = readout.finish(model, states[-1])
        with ExitStack() as stack:
            other = stack.enter_context(record(model, names)) if names else {}
            there = readout.of(model(*corrupt))
        values = (readout.measure(logits, output).double() for logits in (output, there))
        return cls(
            model=model,
            paths=paths,
            states=tuple(states),
            written=written,
            other=other,
            readout=readout,
            output=output,
            **dict(zip(("clean", "corrupt"), values, strict=True)),
        )

    def patched(self, edges: Sequence[Edge]) -> Tensor:
        """The metric of a pass in which the receivers of these edges read them."""
        receivers: dict[str, dict[int | None, list[Node]]] = {}
        for edge in dict.fromkeys(edges):
            receivers.setdefault(edge.receiver.site, {}).setdefault(edge.receiver.head, []).append(edge.sender)
        streams = {site: self.paths.stream_of(site) for site in receivers}
        begin = min((self.model.step_of(stream) for stream in streams.values()), default=self.model.n_layers)
        now = dict(self.written)
        sites = select(self.model, {*streams.values(), *now}) if edges else {}
        changes: dict[str, Change] = {}
        for site, heads in receivers.items():
            name = streams[site] if site == "logits" else site
            changes[name] = self._reader(site, heads, now, streams[site])
        with ExitStack() as taps:
            for name, site in sites.items():
                if self.model.step_of(name) >= begin:
                    taps.callback(site.watch(lambda value, name=name: now.__setitem__(name, value)))
            taps.enter_context(attached(self.model, changes))
            state = self.states[begin]
            for i in range(begin, self.model.n_layers):
                state = self.model.step(state, i)
            return self.readout.measure(self.readout.finish(self.model, state), self.output).double()

    def _reader(self, site: str, heads: Mapping[int | None, list[Node]], now: Mapping[str, Tensor], stream: str) -> Change:
        """What a receiver's value becomes; heads that have the same senders are computed together."""
        headed = _headed(site)
        numbers = range(heads_at(self.model, site)) if headed and None in heads else heads
        groups: dict[frozenset[Node], list[int]] = {}
        for head in numbers:
            groups.setdefault(frozenset([*heads.get(head, []), *heads.get(None, [])]), []).append(head)

        def read(value: Tensor) -> Tensor:
            if site == "logits":
                return value + self._change(next(iter(groups)), now)
            value = value.clone()
            for senders, some in groups.items():
                got = self.paths.reads(site, now[stream] + self._change(senders, now))
                if headed:
                    value[:, :, some] = got[:, :, some]
                else:
                    value = got
            return value

        return read

    def _change(self, senders: Iterable[Node], now: Mapping[str, Tensor]) -> Tensor:
        """What these senders write on the corrupt input minus what they write in this pass."""
        heads: dict[str, list[int] | None] = {}
        for node in sorted(senders, key=str):
            if node.head is None:
                heads[node.site] = None
            elif heads.setdefault(node.site, []) is not None:
                heads[node.site].append(node.head)
        return sum(self.paths.writes(site, self.other[site] - now[site], some) for site, some in heads.items())


def _headed(site: str) -> bool:
    return site.rpartition(".")[2] in ("q", "k", "v", "z")


def _check(model: Steppable, paths: PathsLike, sets: Sequence[tuple[Edge, ...]]) -> None:
    """Raises for no set, and for an edge that the model does not have."""
    if not sets:
        raise SiteError("path_patch needs at least one set of edges, got none")
    sites = model.sites()
    order = {name: i for i, name in enumerate(sites)}
    for edge in dict.fromkeys(edge for edges in sets for edge in edges):
        if not isinstance(edge, Edge):
            raise SiteError(f"expected an Edge or a tuple of them, got {type(edge).__name__}")
        for node in (edge.sender, edge.receiver):
            if node.site not in sites and node.site != "logits":
                raise UnknownSiteError(node.site, sites)
            _check_head(model, node)
        stream = paths.stream_of(edge.receiver.site)
        if edge.sender.site not in order or not behind(order, edge.sender.site, stream):
            raise SiteError(f"{edge.receiver} reads {stream}, to which {edge.sender} does not write")


def _check_head(model: Steppable, node: Node) -> None:
    if node.head is None:
        return
    if not _headed(node.site):
        raise SiteError(f"{node.site} has no heads, got head {node.head}")
    if not 0 <= node.head < (n := heads_at(model, node.site)):
        raise SiteError(f"{node.site} has {n} heads, got {node.head}")


def _label(edges: Sequence[Edge]) -> dict[str, str]:
    """What the rows of a set are called: its senders and receivers, or how many they are."""
    ends = {"sender": [edge.sender for edge in edges], "receiver": [edge.receiver for edge in edges]}
    names = {end: list(dict.fromkeys(map(str, nodes))) for end, nodes in ends.items()}
    return {end: " + ".join(some) if len(some) <= NAMED else f"{len(some)} {end}s" for end, some in names.items()}


def _share(effect: float, gap: float) -> float:
    """The effect over the gap, missing where there is none."""
    return effect / gap if gap else float("nan")
