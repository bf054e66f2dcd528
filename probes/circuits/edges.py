"""Which parts of a model feed which? Nodes, and the edges between them along the residual stream."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, Protocol

from torch import Tensor

from probes.errors import SiteError
from probes.observable import Observable, canonical, find
from probes.sweep.edits_by_name import heads_at

SENDERS = ("*blocks.0.resid_pre", "*attn.z", "*mlp_out")
RECEIVERS = ("*attn.q", "*attn.k", "*attn.v", "*mlp_out", "logits")


class PathsLike(Protocol):
    """What a model says of its parts: which stream one reads, what it would compute from another, and what it adds."""

    def stream_of(self, site: str) -> str: ...

    def reads(self, site: str, resid: Tensor) -> Tensor: ...

    def writes(self, site: str, change: Tensor, heads: Sequence[int] | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Node:
    """A part of a model, by the name of its site: one head of `z`, `q`, `k` or `v`, or all (None); a feed-forward network, by
    `mlp_out`; everything that enters a stack, by `blocks.0.resid_pre`; what follows the last block, by `logits`.

    >>> str(Node("blocks.0.attn.hook_z", 1))
    'blocks.0.attn.z[1]'
    """

    site: str
    head: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "site", canonical(self.site))

    def __str__(self) -> str:
        return self.site if self.head is None else f"{self.site}[{self.head}]"


@dataclass(frozen=True)
class Edge:
    """From what one part writes to what another reads. Each end is a Node, a name, or a pair (name, head).

    >>> str(Edge(("blocks.0.attn.z", 1), ("blocks.1.attn.k", 2)))
    'blocks.0.attn.z[1] → blocks.1.attn.k[2]'
    """

    sender: Node
    receiver: Node

    def __post_init__(self) -> None:
        for end in ("sender", "receiver"):
            object.__setattr__(self, end, _node(getattr(self, end)))

    def __str__(self) -> str:
        return f"{self.sender} → {self.receiver}"


def _node(given: Any) -> Node:
    if isinstance(given, Node):
        return given
    if isinstance(given, str):
        return Node(given)
    if isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], str) and (given[1] is None or hasattr(given[1], "__index__")):
        return Node(given[0], None if given[1] is None else index(given[1]))
    raise SiteError(f"an end of an edge is a Node, the name of a site, or a pair of name and head, got {given!r}")


def paths_of(model: Observable) -> PathsLike:
    """The model's own account of its parts. Raises SiteError where it has none."""
    if not hasattr(model, "paths"):
        raise SiteError(
            f"{type(model).__name__} does not say what its parts read and write: path patching needs a model with a method paths()"
        )
    return model.paths()


def edges_between(
    model: Observable, senders: str | Iterable[str] | None = None, receivers: str | Iterable[str] | None = None
) -> list[Edge]:
    """Every edge from one of the senders to one of the receivers that reads the stream behind it, each head on its own.

    Both are names and globs of sites; None stands for all parts: what enters a stack, heads and feed-forward networks as
    senders; q, k and v of heads, feed-forward networks and logits as receivers. So all edges are the finest graph of the
    model, in which what is not patched is the same for all paths.

    Raises UnknownSiteError for a name that matches nothing, ValueError for a site that is no such part.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=0, d_vocab=10, n_ctx=5))
    >>> [str(edge) for edge in edges_between(model, "blocks.0.attn.z", ["blocks.1.attn.k", "logits"])][:3]
    ['blocks.0.attn.z[0] → blocks.1.attn.k[0]', 'blocks.0.attn.z[0] → blocks.1.attn.k[1]', 'blocks.0.attn.z[0] → logits']
    """
    paths, order = paths_of(model), {name: i for i, name in enumerate(model.sites())}
    ends = _nodes(model, senders, SENDERS), _nodes(model, receivers, RECEIVERS)
    streams = {site: paths.stream_of(site) for site in {node.site for node in ends[1]}}
    return [Edge(a, b) for a in ends[0] for b in ends[1] if behind(order, a.site, streams[b.site])]


def behind(order: dict[str, int], writer: str, stream: str) -> bool:
    """Is what is written a term of that stream? `order` is the place of each site in the forward pass."""
    return writer.partition("blocks.")[0] == stream.partition("blocks.")[0] and order[writer] <= order[stream]


def _nodes(model: Observable, names: str | Iterable[str] | None, every: Sequence[str]) -> list[Node]:
    sites = model.sites()
    wanted = every if names is None else [names] if isinstance(names, str) else list(names)
    nodes: dict[Node, None] = {}
    for name in wanted:
        if name == "logits":
            nodes[Node(name)] = None
            continue
        hits = [site for site in sites if _matches(name, site)] if names is None else find(name, sites)
        for site in hits:
            headed = {"head", "kv_head"} & set(sites[site].axes)
            nodes.update(dict.fromkeys(Node(site, head) for head in (range(heads_at(model, site)) if headed else [None])))
    return list(nodes)


def _matches(pattern: str, site: str) -> bool:
    return site.endswith(pattern.removeprefix("*")) and (pattern.startswith("*attn") or "cross" not in site)
