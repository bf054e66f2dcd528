"""What does each of many edits do to a metric? Exact answers, without computing again what an edit cannot have changed.

An edit at block i leaves everything before block i as it was: each edit starts from the clean residual stream there, and
edits that start at the same block share a batch, a copy for each. What else an edit leaves as it was is `planning`'s to say.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from probes.allocation import freed_memory_is_kept
from probes.edits import Change, Edit
from probes.errors import check_evaluating
from probes.inputs import OF_SOURCE
from probes.intervene import (
    BoundEdit,
    EditSet,
    attached,
    bind,
    chain,
    flatten,
    intervene,
)
from probes.metrics import Metric, Readout
from probes.metrics.readout import check_asked, check_values
from probes.observable import Observable, SiteLike, Steppable
from probes.sweep.planning import BUDGET, Plan, Run, as_sets, planned, repeated
from probes.sweep.replays import ReplayLike, replay_of
from probes.sweep.rows import rows_of

Bound = Callable[[Edit], list[BoundEdit]]


@dataclass
class Measured:
    """What has been measured so far: one value per example for each set of edits, None where it was not reached."""

    clean: Tensor | None = None
    edited: list[Tensor | None] = field(default_factory=list)
    block_steps: int = 0
    token_steps: int = 0


def sweep(
    model: Observable, batch: tuple[Tensor, ...], edits: Iterable[EditSet], metric: Metric, *,
    budget_bytes: int = BUDGET, progress: bool = False,
) -> pd.DataFrame:
    """The metric under each edit on its own, a row per edit and example.

    Columns: `edit` (its number), `site`, `layer`, `head`, `position` (missing where the edit has none or several),
    `example`, `clean`, `edited` (in the unit of the metric), `effect` = edited − clean. A tuple is one set of edits
    applied together. The numbers are exact: those of every edit alone in a whole forward pass, up to rounding. They do
    not depend on `budget_bytes`, which bounds the memory of one stacked batch.

    The table's `attrs` say what it is: `metric`, `unit`, `exact`, `complete`, and `block_steps` and `token_steps` as `plan`
    counts them. Ctrl-C ends a sweep with the rows of those edits that are done, `complete` then being False, and a warning.

    Raises SiteError for no edits, a model in training mode with dropout or batch norm, a metric that does not give a number per example, and whatever `intervene` raises for a wrong one.

    >>> from model import Transformer, TransformerConfig; from probes import ablate_heads, loss, zero
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = sweep(model, (torch.tensor([[1, 2, 3]]),), ablate_heads(model, zero()), loss())
    >>> table.columns.tolist(), len(table)
    (['edit', 'site', 'layer', 'head', 'position', 'example', 'clean', 'edited', 'effect'], 4)
    """
    check_evaluating(model)
    check_asked(batch, metric)
    sets = as_sets(edits)
    readout, found = metric.on(model, batch), Measured(edited=[None] * len(sets))
    complete = True
    with torch.no_grad(), freed_memory_is_kept(), tqdm(total=len(sets), desc=f"sweep {metric.name}", disable=None if progress else True, leave=False) as bar:
        try:
            run = _restarted if isinstance(model, Steppable) else _one_by_one
            run(model, batch, sets, readout, budget_bytes, found, bar, metric.name)
        except KeyboardInterrupt:
            complete = False
            done = sum(value is not None for value in found.edited)
            warnings.warn(f"the sweep was interrupted: {done} of {len(sets)} edits are done", RuntimeWarning, stacklevel=2)
    table = rows_of(sets, found.clean, found.edited)
    table.attrs = {
        "metric": metric.name, "unit": metric.unit, "exact": True, "complete": complete, "block_steps": found.block_steps,
        "token_steps": found.token_steps,
    }
    return table


def _one_by_one(
    model: Observable, batch: tuple, sets: Sequence[tuple[Edit, ...]], readout: Readout, budget_bytes: int, found: Measured, bar: tqdm, metric: str
) -> None:
    """Every edit in a forward pass of its own: for models that cannot be resumed."""
    logits = readout.of(model(*batch))
    found.clean = readout.measure(logits, logits)
    check_values(found.clean, len(batch[0]), metric)
    for i, edits in enumerate(sets):
        with intervene(model, *edits):
            found.edited[i] = readout.measure(readout.of(model(*batch)), logits)
        bar.update()


def _restarted(
    model: Steppable, batch: tuple, sets: Sequence[tuple[Edit, ...]], readout: Readout, budget_bytes: int, found: Measured, bar: tqdm, metric: str
) -> None:
    """Every edit from the block, and the place, that it changes first; edits that begin alike together."""
    plan = planned(model, batch, sets, readout, budget_bytes, replay_of(model, batch, keep=False))
    bound = bind(model, flatten(sets))
    replay = replay_of(model, batch, keep=plan.keep, shared=plan.shared)
    logits = replay.clean(readout.positions, readout.tokens)
    found.clean = readout.measure(logits, logits)
    check_values(found.clean, len(batch[0]), metric)
    found.block_steps = plan.n_examples * plan.n_layers + (plan.n_layers if plan.shared else 0)
    found.token_steps = plan.n_examples * sum(n - plan.shared for n in plan.places) + plan.shared * plan.n_layers
    stepper = _Stepper(model, _Listed(model.sites(), model), replay, plan, found, logits)
    for run in plan.runs:
        stepper.advance(run.block)
        output = stepper.output(run, [[one for edit in sets[p.index] for one in bound(edit)] for p in run.plans], batch, readout)
        for one, part in zip(run.plans, output.split(plan.n_examples), strict=True):
            found.edited[one.index] = readout.measure(part, logits)
        bar.update(run.copies)


@dataclass(frozen=True)
class _Listed:
    """A model whose sites were listed once, as that takes milliseconds where there are many modules."""

    known: Mapping[str, SiteLike]
    model: Steppable

    def sites(self) -> Mapping[str, SiteLike]:
        return self.known

    def __call__(self, *inputs: Any) -> Tensor:
        return self.model(*inputs)


@dataclass(frozen=True)
class _Stepper:
    """Runs what is planned, and counts it."""

    model: Steppable
    listed: _Listed
    replay: ReplayLike
    plan: Plan
    found: Measured
    clean: Tensor
    """what is read of the output of the clean pass"""

    def advance(self, block: int) -> None:
        """Keep what enters a block."""
        while self.replay.block < min(block, self.model.n_layers):
            if not self.replay.looked:
                self._count(1, self.replay.block, self.plan.places[self.replay.block] - self.plan.shared)
            self.replay.advance()

    def output(self, run: Run, edits: Sequence[list[BoundEdit]], batch: tuple, readout: Readout) -> Tensor:
        """What is read of the output of every copy, one after another."""
        if run.heads_of is not None:
            return self._onward(run, self._after_attention(run, edits), readout)
        changes = _stacked(edits, self.plan.n_examples)
        with attached(self.listed, changes), _window(self.listed, changes, run.first, self.plan.places[-1]):
            return self._onward(run, self._begun(run, batch), readout)

    def _begun(self, run: Run, batch: tuple) -> Any:
        """A copy of the batch for each set of edits, as it enters their block."""
        if run.block < 0:
            return self.model.start(*repeated(batch, run.copies))
        fresh = frozenset(layer for one in run.plans for layer in one.fresh)
        return self.replay.enter(run.copies, first=run.first, inner=all(one.inner for one in run.plans), fresh=fresh)

    def _onward(self, run: Run, state: Any, readout: Readout) -> Tensor:
        """The blocks that are left, and what is read of the output."""
        wide, last = readout.repeat(run.copies), self.model.n_layers - 1
        for i in range(max(run.block, 0), last + (not run.concludes)):
            state = self.model.step(state, i)
            self._count(run.copies, i, self.plan.places[i] - run.first)
        if any(one.ends_late for one in run.plans):  # an edit of what `finish` computes may name positions of the whole sequence
            return wide.of(self.model.finish(state, None))
        here = wide.behind(run.first)
        if run.concludes:
            self._count(run.copies, last, self.plan.n_read)
            output = self.replay.conclude(state, here.positions, here.tokens)
        else:
            output = here.finish(self.model, state)
        return self._with_earlier(output, wide, run)

    def _with_earlier(self, output: Tensor, wide: Readout, run: Run) -> Tensor:
        """The same where what is read at places before the run's first is that of the clean pass."""
        if not run.first:
            return output
        clean = self.clean.repeat(run.copies, 1, 1)
        if wide.positions is None:
            return torch.cat([clean[:, : run.first], output], dim=1)
        return torch.where((wide.positions < run.first).unsqueeze(-1), clean, output)

    def _after_attention(self, run: Run, edits: Sequence[list[BoundEdit]]) -> Any:
        if not self.replay.looked:
            self._count(1, run.block, self.plan.places[run.block] - self.plan.shared)
        z, changes = self.replay.look(run.heads_of), []
        with _window(self.listed, [run.heads_of], self.plan.shared, self.plan.places[-1]):
            for parts in edits:
                heads = tuple(sorted({h % z.shape[2] for part in parts for h in part.edit.heads}))
                changes.append((heads, (chain(parts)(z) - z)[:, :, list(heads)]))
        return self.replay.after_attention(run.heads_of, changes, first=run.first)

    def _count(self, copies: int, block: int, tokens: int) -> None:
        self.found.block_steps += copies * self.plan.n_examples
        self.found.token_steps += copies * self.plan.n_examples * tokens


def _stacked(copies: Sequence[list[BoundEdit]], n_examples: int) -> dict[str, Change]:
    """For each site, the change that gives every copy of the batch its own edit."""
    parts: dict[str, dict[int, list[BoundEdit]]] = {}
    for copy, edits in enumerate(copies):
        for edit in edits:
            parts.setdefault(edit.site, {}).setdefault(copy, []).append(edit)

    def change(site: str) -> Change:
        def stacked(value: Tensor) -> Tensor:
            values = list(value.split(n_examples))
            for copy, edits in parts[site].items():
                values[copy] = chain(edits)(values[copy])
            return torch.cat(values)

        return stacked

    return {site: change(site) for site in parts}


@dataclass(frozen=True, eq=False)
class _Window:
    """The places that a run computes."""

    first: int
    size: int
    run: object
    n_beams: int = 1


@contextmanager
def _window(model: _Listed, names: Iterable[str], first: int, size: int) -> Iterator[None]:
    """Let the edited sites know that they hold the places from `first` on."""
    known = model.sites()
    chosen = [known[name] for name in names if first and not OF_SOURCE.search(name)]
    window = _Window(first, size, object())
    for site in chosen:
        site.window = window
    try:
        yield
    finally:
        for site in chosen:
            site.window = None
