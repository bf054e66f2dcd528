"""What does a sweep have to compute? Which edits run together, from which block and from which place on, and what that takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from probes.edits import Edit, PureChange, ReferenceChange, TensorChange
from probes.errors import SiteError
from probes.inputs import OF_SOURCE
from probes.intervene import EditSet, flatten
from probes.metrics import Metric, Readout
from probes.observable import SiteLike, Steppable, find
from probes.places import place_axis
from probes.sweep.replays import ReplayLike, replay_of, shared_tokens

BUDGET = 256 * 2**20
STREAMS = 20
"""how many residual streams the inner values of a block take together, roughly"""
WASTE = 32
"""edits that begin at different places run together while that computes at most so many tokens more than they need: a block reads
all its weights for every run, which takes as long as to compute about so many tokens"""


@dataclass(frozen=True)
class Planned:
    """One set of edits: where it begins, and what it leaves as it was."""

    index: int
    block: int
    """the first step that it changes: −1 for what enters block 0, n_layers for what follows the last"""
    first: int
    """the first place that it changes; 0 where that is not known, or where later places do not see earlier ones alone"""
    heads_of: str | None
    """the one site z of which it changes named heads, and nothing else"""
    inner: bool
    """are all its sites inside blocks?"""
    ends_late: bool
    """does it also change what follows the last block?"""
    in_last: bool
    """does it change the last block, other than by heads of z?"""
    fresh: frozenset[int]
    """layers in which it changes what cross-attention makes of the source"""
    n_scores: int
    """of how many attentions it edits scores or pattern"""


@dataclass(frozen=True)
class Run:
    """Sets of edits that share one stacked batch, a copy for each."""

    plans: tuple[Planned, ...]
    first: int
    concludes: bool
    """is the last block computed at the positions of the metric only?"""

    @property
    def block(self) -> int:
        return self.plans[0].block

    @property
    def heads_of(self) -> str | None:
        return self.plans[0].heads_of

    @property
    def copies(self) -> int:
        return len(self.plans)


@dataclass(frozen=True)
class Plan:
    """What a sweep will run, and what that takes; the counts of the run are these.

    A block step is one block on one copy of one example; a token step is one block on one token.
    """

    runs: tuple[Run, ...]
    n_edits: int
    n_examples: int
    n_layers: int
    places: tuple[int, ...]
    """tokens of an example that each block reads"""
    n_read: int
    """positions of an example that the metric reads"""
    bytes_per_copy: int
    keep: bool
    """does the clean pass keep keys and values?"""
    shared: int
    """tokens that all examples begin with: they are read once"""

    @property
    def block_steps(self) -> int:
        """All blocks of the clean pass, of the pass that keeps what edits begin with, and of every run."""
        once = self.n_layers if self.shared else 0
        return once + self.n_examples * (self.n_layers + self.n_advanced + sum(run.copies * (self.n_layers - max(run.block, 0)) for run in self.runs))

    @property
    def token_steps(self) -> int:
        """The same, counted in tokens."""
        read = [n - self.shared for n in self.places]
        once = self.shared * self.n_layers
        return once + self.n_examples * (sum(read) + sum(read[: self.n_advanced]) + sum(run.copies * sum(self.tokens_of(run)) for run in self.runs))

    def tokens_of(self, run: Run) -> list[int]:
        """Tokens of an example that each block of a run computes."""
        blocks = range(max(run.block, 0), self.n_layers)
        tokens = [self.places[i] - run.first for i in blocks]
        return [*tokens[:-1], self.n_read] if run.concludes else tokens

    @property
    def n_advanced(self) -> int:
        """Blocks that the pass runs which keeps what edits begin with."""
        looked = [run.block + (run.heads_of is not None) for run in self.runs]
        return min(max([0, *looked]), self.n_layers)

    @property
    def peak_bytes(self) -> int:
        """A rough upper bound of what the largest stacked batch takes."""
        whole = max(self.places)
        return max((run.copies * self.bytes_per_copy * max(1, whole - run.first) // whole for run in self.runs), default=0)

    def __str__(self) -> str:
        return (
            f"{self.n_edits} edits on {self.n_examples} examples in {len(self.runs)} stacked runs: {self.block_steps:,} block steps, "
            f"{self.token_steps:,} token steps, at most about {self.peak_bytes / 2**20:,.0f} MiB at once"
        )


def plan(
    model: Steppable, batch: tuple[Tensor, ...], edits: Iterable[EditSet], metric: Metric, *, budget_bytes: int = BUDGET
) -> Plan:
    """What `sweep` would run. Nothing is run but the embedding of the tokens.

    Raises SiteError for no edits, sites and metrics as `sweep` does (heads and positions that a site does not have are found only
    when it is edited), and for a model that cannot be resumed between blocks: there every edit is a whole pass.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import ablate_heads, logit_difference, zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> print(plan(model, (torch.tensor([[1, 2, 3]]),), ablate_heads(model, zero()), logit_difference(4, 5)))
    4 edits on 1 examples in 2 stacked runs: 10 block steps, 22 token steps, at most about 0 MiB at once
    """
    if not isinstance(model, Steppable):
        raise SiteError(f"{type(model).__name__} cannot be resumed between blocks: every edit is a whole forward pass")
    return planned(model, batch, as_sets(edits), metric.on(model, batch), budget_bytes, replay_of(model, batch, keep=False))


def as_sets(edits: Iterable[EditSet]) -> list[tuple[Edit, ...]]:
    """Every item as the tuple of edits that are applied together. Raises SiteError for none."""
    if isinstance(edits, Edit) or not isinstance(edits, Iterable):
        raise SiteError(f"edits are a list, each an Edit or a tuple of them, got {type(edits).__name__}")
    sets = [tuple(flatten([edit])) for edit in edits]
    if not sets:
        raise SiteError("sweep needs at least one edit, got none")
    return sets


def planned(
    model: Steppable, batch: tuple[Tensor, ...], sets: Sequence[tuple[Edit, ...]], readout: Readout, budget_bytes: int, replay: ReplayLike
) -> Plan:
    """The plan of these sets of edits."""
    sites, known = model.sites(), {}
    for edit in {id(edit): edit for edits in sets for edit in edits}.values():
        known.setdefault(edit.site, find(edit.site, sites))
    plans = [_planned(model, sites, replay, i, edits, [known[edit.site] for edit in edits]) for i, edits in enumerate(sets)]
    places = tuple(replay.places(i) for i in range(model.n_layers))
    per_copy = _bytes_per_copy(replay, readout, len(batch[0]), max(places))
    scores = 4 * len(batch[0]) * getattr(model, "n_heads", 1) * max(places) ** 2 * replay.itemsize
    runs: list[Run] = []
    for block in sorted({one.block for one in plans}):
        for site in dict.fromkeys(one.heads_of for one in plans if one.block == block):
            here = sorted((one for one in plans if one.block == block and one.heads_of == site), key=lambda one: one.first)
            runs += [_run(chunk, readout, replay) for chunk in _chunks(here, budget_bytes, per_copy, scores, len(batch[0]), max(places))]
    n_read = places[-1] if readout.positions is None else readout.positions.shape[1]
    keep = replay.keeps and any(run.first or replay.two_stacks for run in runs)
    read = 0 if readout.positions is None else int(readout.positions.min())
    shared = min(shared_tokens(batch), read, *(run.first for run in runs))
    return Plan(tuple(runs), len(sets), len(batch[0]), model.n_layers, places, n_read, per_copy, keep, shared)


def _planned(
    model: Steppable, sites: Mapping[str, SiteLike], replay: ReplayLike, index: int, edits: Sequence[Edit], names: Sequence[list[str]]
) -> Planned:
    every = list(dict.fromkeys(name for group in names for name in group))
    steps = {name: model.step_of(name) for name in every}
    block, last = min(steps.values()), model.n_layers - 1
    inner = all("blocks." in name for name in every)
    ends_late = max(steps.values()) == model.n_layers
    low_rank = len(every) == 1 and every[0].endswith("attn.z") and all(edit.heads is not None for edit in edits) and replay.adds_heads
    placed = inner and block >= 0 and not ends_late and replay.keeps and replay.causal(block)
    firsts = [_first(edit, group, sites, replay.places(block)) for edit, group in zip(edits, names, strict=True)] if placed else [0]
    return Planned(
        index=index, block=block, first=min(firsts), heads_of=every[0] if low_rank else None, inner=inner, ends_late=ends_late,
        in_last=any(step == last for step in steps.values()) and not low_rank,
        fresh=frozenset(int(re.search(r"blocks\.(\d+)", name).group(1)) for name in every if OF_SOURCE.search(name)),
        n_scores=sum(name.endswith((".scores", ".pattern")) for name in every),
    )


def _first(edit: Edit, names: Sequence[str], sites: Mapping[str, SiteLike], n_places: int) -> int:
    """The first place that an edit changes, 0 where that cannot be said."""
    by_place = isinstance(edit.change, PureChange | ReferenceChange | TensorChange)
    if edit.positions is None or not by_place or any(OF_SOURCE.search(name) or place_axis(sites[name].axes) is None for name in names):
        return 0
    flat = [p for row in edit.positions for p in (row if isinstance(row, tuple) else (row,))]
    return max(0, min((p % n_places if -n_places <= p < n_places else 0 for p in flat), default=0))


def _chunks(
    plans: Sequence[Planned], budget_bytes: int, per_copy: int, scores: int, n_examples: int, n_places: int
) -> list[list[Planned]]:
    """Neighbours that share a batch: few enough for the budget, and near enough in the place where they begin."""
    chunks: list[list[Planned]] = []
    for one in plans:
        chunk = chunks[-1] if chunks else []
        taken = sum(per_copy + scores * p.n_scores for p in [*chunk, one]) * (n_places - (chunk or [one])[0].first) // n_places
        wasted = n_examples * sum(p.first - chunk[0].first for p in [*chunk, one]) if chunk else 0
        if not chunk or taken > budget_bytes or wasted > WASTE:
            chunks.append([one])
        else:
            chunk.append(one)
    return chunks


def _run(chunk: Sequence[Planned], readout: Readout, replay: ReplayLike) -> Run:
    late = any(one.ends_late or one.in_last for one in chunk)
    concludes = readout.positions is not None and not late and replay.concludes
    return Run(tuple(chunk), min(one.first for one in chunk), concludes)


def _bytes_per_copy(replay: ReplayLike, readout: Readout, n_examples: int, n_places: int) -> int:
    """What one more copy of the batch takes: what is read, and the inner values of a block."""
    n_read = n_places if readout.positions is None else readout.positions.shape[1]
    width = replay.width if readout.tokens is None else readout.tokens.shape[1]
    return replay.itemsize * n_examples * (2 * n_read * width + STREAMS * n_places * replay.d_model)


def repeated(batch: Sequence[Any], n: int) -> tuple[Any, ...]:
    """n copies of what the model is called with."""
    return tuple(x if x is None else x.repeat(n, *[1] * (x.dim() - 1)) for x in batch)
