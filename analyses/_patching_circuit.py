"""How do the strongest heads feed one another? Path patches from the input through them to the answer, each edge on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analyses._anatomy import Model, attentions, head_label, sides
from analyses._patching_measure import Pairs, pairs_of
from analyses._reading import whole
from model import EncoderDecoder
from probes import Edge, Node, path_patch
from probes.circuits.edges import behind, paths_of
from probes.sweep.patching import Direction

MOST_HEADS, MOST_PROMPTS, MOST_SPLIT = 8, 8, 6
"""heads in the graph, prompts that its edges are measured on, edges whose q, k and v are told apart"""
LEAST_SHARE = 0.01
"""a head below this share of the gap is no part of the graph"""
INPUT, ANSWER = "input", "logits"
EDGE_COLUMNS = ["sender", "receiver", "through", "share", "effect", "n"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A node of the graph: what it writes with, what it reads with, and its place in the order of the model."""

    label: str
    writes: Node | None
    reads: tuple[tuple[str, Node], ...]
    """what it is read by (q, k, v), and the site"""


def circuit(model: Model, pairs: Pairs, heads: pd.DataFrame, direction: Direction) -> pd.DataFrame:
    """A row per edge between the input, the strongest heads and the answer: by which share the receiver's reading of that one
    sender closes the gap, mean effect over mean gap of the prompts; for the largest edges between heads also through q, k and v alone.

    Empty where no head is strong enough, and where what a head writes is no term of the stream (post-norm, sandwich norms).
    """
    parts = _parts(model, heads)
    if len(parts) < 3:
        return pd.DataFrame(columns=EDGE_COLUMNS).astype({"share": float, "effect": float})
    few = pairs_of(model, pairs.prompts[:MOST_PROMPTS])
    whole = _measured(model, few, _edges(model, parts), direction)
    order = whole["share"].abs().sort_values(ascending=False, kind="stable").index
    names = {part.label: part for part in parts}
    inner = [row for row in whole.loc[order].itertuples() if row.sender != INPUT and row.receiver != ANSWER][:MOST_SPLIT]
    split = [edge for row in inner for edge in _edges(model, [names[row.sender], names[row.receiver]], apart=True)]
    return pd.concat([whole, _measured(model, few, split, direction)], ignore_index=True) if split else whole


def strongest_heads(heads: pd.DataFrame) -> pd.DataFrame:
    """The heads of the graph: at most 8, the largest in magnitude."""
    part = heads[heads["share"].abs() >= LEAST_SHARE]
    return part.reindex(part["share"].abs().sort_values(ascending=False, kind="stable").index)[:MOST_HEADS]


def _parts(model: Model, heads: pd.DataFrame) -> list[Part]:
    """Input, heads and answer in the order in which they run; nothing where heads write no terms of a sum."""
    if any(side.config.norm_place in ("post", "sandwich", "output") or not side.config.residual for side in sides(model)):
        return []
    kinds = {kind.key: kind for kind in attentions(model)}
    first = "encoder." if isinstance(model, EncoderDecoder) else ""
    found, sites = [], model.sites()
    for row in strongest_heads(heads).itertuples():
        kind = kinds[row.attention]
        shared = kind.side.config.n_heads // kind.side.config.n_kv_heads
        numbers = {"q": row.head, "k": row.head // shared, "v": row.head // shared}
        reads = tuple((word, Node(name, i)) for word, i in numbers.items() if (name := kind.site(row.layer, word)) in sites)
        found.append(
            Part(label=head_label(row.attention, row.layer, row.head), writes=Node(kind.site(row.layer, "z"), row.head), reads=reads)
        )
    order = {name: i for i, name in enumerate(sites)}
    found.sort(key=lambda part: (order[part.writes.site], part.writes.head))
    start = Part(label=INPUT, writes=Node(f"{first}blocks.0.resid_pre"), reads=())
    return [start, *found, Part(label=ANSWER, writes=None, reads=((ANSWER, Node(ANSWER)),))]


Labelled = tuple[str, str, str, tuple[Edge, ...]]


def _edges(model: Model, parts: Sequence[Part], *, apart: bool = False) -> list[Labelled]:
    """Every edge that the model has between two of the parts: all ways of reading together, or each apart."""
    paths, order = paths_of(model), {name: i for i, name in enumerate(model.sites())}
    found: list[Labelled] = []
    for i, sender in enumerate(parts):
        for receiver in parts[i + 1 :]:
            if sender.writes is None:
                continue
            ways = [
                (word, Edge(sender.writes, node))
                for word, node in receiver.reads
                if behind(order, sender.writes.site, paths.stream_of(node.site))
            ]
            groups = [(word, (edge,)) for word, edge in ways] if apart else [("all", tuple(edge for _, edge in ways))] if ways else []
            found += [(sender.label, receiver.label, word, group) for word, group in groups]
    return found


def _measured(model: Model, pairs: Pairs, edges: Sequence[Labelled], direction: Direction) -> pd.DataFrame:
    """The share of each edge: clean into the corrupt run, or the other way round."""
    base, other = (pairs.corrupt, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupt)
    table = whole(path_patch(model, base, other, [group for *_, group in edges], pairs.metric, least_gap=0.0, progress=True))
    gap = float((table["corrupt"] - table["clean"]).groupby(table["example"]).first().mean())
    effects = table.groupby("set")["effect"].mean().to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        rows = [(*edge[:3], effect / gap, effect, len(pairs.prompts)) for edge, effect in zip(edges, effects, strict=True)]
    return pd.DataFrame(rows, columns=EDGE_COLUMNS)
