"""How are the patterns of a model reduced to scores? By a statistic of the stream: one block's patterns exist at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from analyses._anatomy import AttentionKind, Inputs, Model, attentions
from analyses._attention_scores import RANDOM, TEXT, Entropies, Scores, missing, random_scores, row_entropies, sees, text_scores
from analyses._reading import read_whole
from model import Span, Transformer
from probes import Observable
from probes.metrics import token_losses
from probes.statistics import Part, Seen, Statistic, View, hidden_mass, row_sum_error

Look = Callable[[Tensor, View, Tensor], tuple[Scores, Entropies]]
"""a pattern, what its queries see, and their tokens → its scores, and the entropies of its rows"""

SCORE, ENTROPY_OF = "score ", "entropy "
"""how the parts of a state are called: score NAME; entropy, whether normalised, whether without the sinks"""


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


@dataclass(frozen=True, kw_only=True)
class PatternScores(Statistic):
    """The scores of every head of some kinds of attention on every example, by a `look` at each pattern.

    It keeps a number per head and example, for intervals over examples, and the entropy of every row.
    """

    kinds: tuple[AttentionKind, ...]
    look: Look

    @cached_property
    def places(self) -> dict[str, tuple[AttentionKind, int]]:
        """The name of a pattern → whose it is, and its layer."""
        return {kind.site(layer, "pattern"): (kind, layer) for kind in self.kinds for layer in range(kind.side.config.n_layers)}

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        return [(name,) for name in self.places]

    def finish(self) -> pd.DataFrame:
        """A row per site, head and example."""
        frames = []
        for site, part in self.state.items():
            scores = {name.removeprefix(SCORE): values for name, values in part.items() if name.startswith(SCORE)}
            example, head = np.indices(next(iter(scores.values())).shape).reshape(2, -1)
            frames.append(pd.DataFrame({"site": site, "example": example, "head": head} | {name: x.ravel() for name, x in scores.items()}))
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["site", "example", "head"])

    def _measure(self, seen: Seen) -> dict[str, Part]:
        ((name, pattern),) = seen.values.items()
        kind, layer = self.places[name]
        view = view_of(kind, layer, pattern, _none_if_whole(seen.mask), _none_if_whole(seen.key_mask))
        scores, entropies = self.look(pattern, view, seen.tokens)
        part = {f"{SCORE}{name}": _numpy(values) for name, values in scores.items()}
        part |= {f"{ENTROPY_OF}{int(n)}{int(out)}": _numpy(rows).ravel() for (n, out), rows in entropies.items()}
        return {name: part | {"row_sum_error": np.array(row_sum_error(pattern, view)), "hidden_mass": np.array(hidden_mass(pattern, view))}}

    def _join(self, a: Part, b: Part) -> Part:
        worst = {"row_sum_error": np.maximum(a["row_sum_error"], b["row_sum_error"]), "hidden_mass": np.fmax(a["hidden_mass"], b["hidden_mass"])}
        return {name: np.concatenate([a[name], b[name]]) for name in a if name not in worst} | worst


@dataclass(frozen=True, kw_only=True)
class NextTokenLosses(Statistic):
    """The loss at every token that a causal language model predicts, Float[example pos − 1]."""

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        return [("logits",)]

    def finish(self) -> pd.DataFrame:
        """A row per example, a column per position."""
        return pd.DataFrame(self.state.get("logits", {}).get("loss"))

    def _measure(self, seen: Seen) -> dict[str, Part]:
        return {"logits": {"loss": _numpy(token_losses(seen.values["logits"], seen.tokens))}}

    def _join(self, a: Part, b: Part) -> Part:
        return {"loss": np.concatenate([a["loss"], b["loss"]])}


def on_text(model: Model, inputs: Inputs | None, *, batch_size: int, sink_length: int, sink_threshold: float) -> list[Measured]:
    """The scores of `TEXT`, for every kind of attention; all missing where there are no inputs."""

    def look(pattern: Tensor, view: View, tokens: Tensor) -> tuple[Scores, Entropies]:
        entropies = row_entropies(pattern, view)
        return text_scores(pattern, view, entropies, sink_length=sink_length, sink_threshold=sink_threshold), entropies

    if inputs is None:
        return [Measured(kind, missing(kind, list(TEXT[sees(kind)]))) for kind in attentions(model)]
    scores = PatternScores(kinds=attentions(model), look=look)
    return _measured(scores, read_whole(model, inputs, {"scores": scores}, batch_size=batch_size)["scores"], inputs)


def on_random_tokens(
    model: Transformer, tokens: Int[Tensor, "batch pos"] | None, *, batch_size: int
) -> tuple[Measured, dict[str, tuple[float, int]]]:
    """The scores of `RANDOM` on tokens whose second half repeats the first; half → mean loss of the next token, tokens predicted."""
    if tokens is None:
        return Measured(attentions(model)[0], missing(attentions(model)[0], list(RANDOM))), {}
    period = tokens.shape[1] // 2

    def look(pattern: Tensor, view: View, read: Tensor) -> tuple[Scores, Entropies]:
        return random_scores(pattern, view, read, period), {}

    scores = PatternScores(kinds=attentions(model), look=look)
    states = read_whole(model, (tokens,), {"scores": scores, "losses": NextTokenLosses()}, batch_size=batch_size)
    (measured,), losses = _measured(scores, states["scores"], (tokens,)), states["losses"]["logits"]["loss"]
    halves = {"first": losses[:, : period - 1], "second": losses[:, period:]}
    return measured, {half: (float(x.mean()), x.size) for half, x in halves.items()}


def view_of(
    kind: AttentionKind, layer: int, pattern: Float[Tensor, "batch head query key"], queries: Tensor | None, keys: Tensor | None
) -> View:
    """What the queries of one block may see, from the configuration and the masks: not from the model's own mask, which it is to check."""
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


def _measured(scores: PatternScores, state: Mapping[str, Part], inputs: Inputs) -> list[Measured]:
    """What each kind of attention showed."""
    return [_of_kind(kind, [state[name] for name, (whose, _) in scores.places.items() if whose == kind], inputs) for kind in scores.kinds]


def _of_kind(kind: AttentionKind, layers: Sequence[Part], inputs: Inputs) -> Measured:
    mask, hidden = kind.masks(inputs)[0], [float(part["hidden_mass"]) for part in layers if not np.isnan(part["hidden_mass"])]
    versions = {name: (name[-2] == "1", name[-1] == "1") for name in layers[0] if name.startswith(ENTROPY_OF)}
    return Measured(
        kind,
        {name.removeprefix(SCORE): np.stack([part[name].T for part in layers]) for name in layers[0] if name.startswith(SCORE)},
        float(np.max([part["row_sum_error"] for part in layers])),
        max(hidden) if hidden else None,
        kind.tokens(inputs)[0].numel() if mask is None else int(mask.sum()),
        [{version: part[name][~np.isnan(part[name])] for name, version in versions.items()} for part in layers],
    )


def _none_if_whole(mask: Tensor) -> Tensor | None:
    return None if bool(mask.all()) else mask


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().to("cpu", torch.float64).numpy()
