"""How are the patterns of a model reduced to scores? Block after block, through both stacks: one block's patterns exist at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses._anatomy import AttentionKind, Inputs, Model, attentions, sides
from analyses._attention_scores import RANDOM, TEXT, Entropies, Scores, missing, random_scores, row_entropies, sees, text_scores
from model import Span, Transformer
from probes import record
from probes.metrics import token_losses
from probes.statistics import View, hidden_mass, row_sum_error

Look = Callable[[Tensor, View, Inputs], tuple[Scores, Entropies]]


@dataclass(frozen=True)
class Measured:
    """What one kind of attention showed on some examples.

    `row_sum_error` and `hidden_mass` are None where nothing was read, and where nothing is hidden from a query.
    """

    kind: AttentionKind
    scores: dict[str, Float[np.ndarray, "layer head example"]]
    row_sum_error: float | None = None
    hidden_mass: float | None = None
    n_rows: int = 0
    """real queries"""
    entropies: list[dict[tuple[bool, bool], np.ndarray]] = field(default_factory=list)
    """one per layer: (normalised?, sinks left out?) → entropies of all rows of all heads and texts"""


@dataclass(frozen=True)
class _Glance:
    """One block's patterns on one batch, reduced."""

    scores: dict[str, np.ndarray]
    entropies: dict[tuple[bool, bool], np.ndarray]
    row_sum_error: float
    hidden_mass: float


def on_text(model: Model, inputs: Inputs | None, *, batch_size: int, sink_length: int, sink_threshold: float) -> list[Measured]:
    """The scores of `TEXT`, for every kind of attention; all missing where there are no inputs."""

    def look(pattern: Tensor, view: View, batch: Inputs) -> tuple[Scores, Entropies]:
        entropies = row_entropies(pattern, view)
        return text_scores(pattern, view, entropies, sink_length=sink_length, sink_threshold=sink_threshold), entropies

    if inputs is None:
        return [Measured(kind, missing(kind, list(TEXT[sees(kind)]))) for kind in attentions(model)]
    return _run(model, inputs, batch_size, look)[0]


def on_random_tokens(
    model: Transformer, tokens: Int[Tensor, "batch pos"] | None, *, batch_size: int
) -> tuple[Measured, dict[str, tuple[float, int]]]:
    """The scores of `RANDOM` on tokens whose second half repeats the first; half → mean loss of the next token, tokens predicted."""
    if tokens is None:
        return Measured(attentions(model)[0], missing(attentions(model)[0], list(RANDOM))), {}
    period = tokens.shape[1] // 2

    def look(pattern: Tensor, view: View, batch: Inputs) -> tuple[Scores, Entropies]:
        return random_scores(pattern, view, batch[0], period), {}

    (measured,), losses = _run(model, (tokens,), batch_size, look, lambda state, batch: token_losses(model.finish(state), batch[0]))
    halves = {"first": losses[:, : period - 1], "second": losses[:, period:]}
    return measured, {half: (float(x.mean()), x.size) for half, x in halves.items()}


def patterns_of(
    model: Model, example: Inputs, heads: Sequence[tuple[str, int, int]]
) -> dict[tuple[str, int, int], Float[np.ndarray, "query key"]]:
    """The patterns of some (attention, layer, head) on one example without padding."""
    if not heads:
        return {}
    kinds = {kind.key: kind for kind in attentions(model)}
    sites = {(key, layer): kinds[key].site(layer, "pattern") for key, layer, _ in heads}
    with record(model, sorted(set(sites.values()))) as activations:
        model(*example)
    return {(key, layer, head): _numpy(activations[sites[key, layer]][0, head]) for key, layer, head in heads}


def view_of(kind: AttentionKind, layer: int, inputs: Inputs, pattern: Float[Tensor, "batch head query key"]) -> View:
    """What the queries of one block may see, from the configuration and the masks: not from the model's own mask, which it is to check."""
    queries, keys = kind.masks(inputs)
    if kind.key == "cross":
        return View(kind="cross", mask=queries, key_mask=keys)
    view = View(kind="causal" if kind.causal else "full", mask=queries)
    span = kind.side.config.span_of(layer)
    return view if span.kind == "all" else View(kind=view.kind, mask=queries, span=_within(span, view, pattern))


def _within(span: Span, view: View, pattern: Tensor) -> Bool[Tensor, "rows 1 query key"]:
    if span.kind == "window":
        return view.offsets(pattern).abs() < span.size
    i, j = view.query_positions(pattern)[:, None, :, None], view.key_positions(pattern)[:, None, None, :]
    return (i // span.size == j // span.size) | (i < span.n_global) | (j < span.n_global)


def _run(
    model: Model, inputs: Inputs, batch_size: int, look: Look, end: Callable[[Any, Inputs], Tensor] | None = None
) -> tuple[list[Measured], np.ndarray | None]:
    """`look` at every block's patterns in turn, and at the `end` at the last state: what each kind of attention showed, and what `end` gave."""
    kinds, ends = attentions(model), []
    glances: dict[str, list[list[_Glance]]] = {kind.key: [] for kind in kinds}  # batch, layer
    for batch in _batches(inputs, batch_size):
        state = model.start(*batch)
        for own in glances.values():
            own.append([])
        for side in sides(model):
            here = [kind for kind in kinds if kind.side.name == side.name]
            for layer in range(side.config.n_layers):
                with record(model, [kind.site(layer, "pattern") for kind in here]) as activations:
                    state = model.step(state, side.first_step + layer)
                for kind in here:
                    glances[kind.key][-1].append(_glance(kind, layer, activations[kind.site(layer, "pattern")], batch, look))
        if end is not None:
            ends.append(_numpy(end(state, batch)))
    return [_joined(kind, glances[kind.key], inputs) for kind in kinds], np.concatenate(ends) if ends else None


def _glance(kind: AttentionKind, layer: int, pattern: Tensor, batch: Inputs, look: Look) -> _Glance:
    view = view_of(kind, layer, batch, pattern)
    scores, entropies = look(pattern, view, batch)
    return _Glance(
        {name: _numpy(values) for name, values in scores.items()},
        {version: _numpy(rows).ravel() for version, rows in entropies.items()},
        row_sum_error(pattern, view),
        hidden_mass(pattern, view),
    )


def _joined(kind: AttentionKind, batches: list[list[_Glance]], inputs: Inputs) -> Measured:
    layers = list(zip(*batches, strict=True))  # layer, batch
    hidden = [g.hidden_mass for layer in layers for g in layer if not np.isnan(g.hidden_mass)]
    mask = kind.masks(inputs)[0]
    rows = [{version: np.concatenate([g.entropies[version] for g in layer]) for version in layer[0].entropies} for layer in layers]
    return Measured(
        kind,
        {name: np.stack([np.concatenate([g.scores[name] for g in layer]).T for layer in layers]) for name in layers[0][0].scores},
        float(np.max([g.row_sum_error for layer in layers for g in layer])),
        max(hidden) if hidden else None,
        kind.tokens(inputs)[0].numel() if mask is None else int(mask.sum()),
        [{version: x[~np.isnan(x)] for version, x in layer.items()} for layer in rows],
    )


def _batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    for i in range(0, len(inputs[0]), size):
        yield tuple(None if x is None else x[i : i + size] for x in inputs)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
