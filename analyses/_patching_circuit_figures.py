"""How is shown which heads feed which? A graph of the strongest heads between input and answer, an arc for each path."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import head_label
from analyses._contract import Tables
from analyses._patching_circuit import ANSWER, INPUT, strongest_heads
from analyses._patching_evidence import VERBS
from reports import CircuitGraph

MOST_EDGES, LEAST_DRAWN = 24, 0.02
"""arcs that are drawn, and the least share that one of them has"""
UNIT = "share of clean − corrupt"
KINDS = ("encoder", "self", "decoder", "cross")
"""in the order in which they run within a layer; encoder first"""


def graph(tables: Tables) -> tuple[CircuitGraph, ...]:
    """The graph; nothing where no edge was measured or none is large enough."""
    edges, heads, task = tables["edges"].frame, tables["heads"].frame, tables["task"].frame.iloc[0]
    whole = edges[edges["through"] == "all"]
    drawn = whole.reindex(whole["share"].abs().sort_values(ascending=False, kind="stable").index)
    drawn = drawn[drawn["share"].abs() >= LEAST_DRAWN][:MOST_EDGES]
    if drawn.empty:
        return ()
    nodes, last = strongest_heads(heads), int(heads["layer"].max())
    labels = [INPUT, *(head_label(row.attention, row.layer, row.head) for row in nodes.itertuples()), ANSWER]
    number = {label: i for i, label in enumerate(labels)}
    shift = nodes["attention"].map(lambda kind: 0 if kind in ("encoder", "self") else last + 1)
    layers = np.array([-1, *(nodes["layer"] + shift), 2 * last + 2])
    places = np.array([0, *(KINDS.index(kind) * 1000 + head for kind, head in zip(nodes["attention"], nodes["head"], strict=True)), 0])
    return (
        CircuitGraph(
            name="circuit",
            title=_title(drawn, task),
            caption=f"An arc is a path patch: one part reads, along the residual stream, what another writes in the {_runs(task)[0]} run, all else stays as in the {_runs(task)[1]} one; "
            f"what follows from that reading is let through. Circles: the head's own patch, over {nodes['n'].iloc[0]} prompts. Arcs: exact, mean over {drawn['n'].iloc[0]} prompts, queries, keys and values together; keys and "
            f"values are those of a KV group. {len(drawn)} of {len(whole)} edges between the {len(nodes)} strongest heads are drawn, those from {LEAST_DRAWN:.0%} of the gap on; paths through other parts are not.",
            alt="; ".join(f"{row.sender} to {row.receiver} {row.share:+.0%}" for row in drawn.head(8).itertuples()) + ".",
            nodes=labels,
            layers=layers,
            places=places,
            values=np.array([1.0, *nodes["share"], 1.0]),
            senders=np.array([number[name] for name in drawn["sender"]]),
            receivers=np.array([number[name] for name in drawn["receiver"]]),
            edge_values=drawn["share"].to_numpy(float),
            edge_notes=[_note(row, edges) for row in drawn.itertuples()],
            unit=UNIT,
            node_label="share of the part, patched alone",
            edge_label="share of the path",
        ),
    )


def _title(drawn: pd.DataFrame, task: pd.Series) -> str:
    inner = drawn[(drawn["sender"] != INPUT) & (drawn["receiver"] != ANSWER)]
    if inner.empty:
        return f"The strongest heads do not feed one another: no path between two of them {VERBS[task['direction']][0]} {LEAST_DRAWN:.0%} of the gap"
    top = inner.iloc[0]
    return f"The strongest path between two heads is {top['sender']} → {top['receiver']}, {top['share']:+.0%} of the gap"


def _runs(task: pd.Series) -> tuple[str, str]:
    return ("clean", "corrupt") if task["direction"] == "denoise" else ("corrupt", "clean")


def _note(row: object, edges: pd.DataFrame) -> str:
    """What the edge is through q, k and v alone, where that was measured."""
    apart = edges[(edges["sender"] == row.sender) & (edges["receiver"] == row.receiver) & (edges["through"] != "all")]
    return ", ".join(f"{way.through} {way.share:+.1%}" for way in apart.itertuples()).replace("-", "−")
