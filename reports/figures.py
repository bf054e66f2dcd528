"""What can be shown? Figures as values: numbers, labels and units, but no pixels. `reports.draw` turns them into pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Part = Literal["layers", "heads", "attention", "attribution", "lens", "contributions", "scaling", ""]
"""Which section of the page a figure belongs to, beside those of other analyses; none: it stays with its own analysis."""
Sees = Literal["causal", "full", "cross", ""]
"""What a query of an attention map may see: itself and what is before it, its whole sequence, another sequence; or not said."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Figure:
    """What every figure says in words.

    `title` states the finding, `caption` what to look at, n and the meaning of error bars, `alt` the finding in numbers
    for a reader who cannot see the picture. `name` is a slug, unique within a result. `part` is the section that shows it.
    """

    name: str
    title: str
    caption: str
    alt: str
    part: Part = ""

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise ValueError(f"the part of figure {self.name!r} must be one of {', '.join(map(repr, get_args(Part)))}, got {self.part!r}")
        if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", self.name):
            raise ValueError(f"a figure's name is lower-case words joined by hyphens, got {self.name!r}")
        for part in ("title", "caption", "alt"):
            if not getattr(self, part).strip():
                raise ValueError(f"figure {self.name!r} needs a {part}, got an empty one")

    def matplotlib(self, *, title: bool = True) -> MatplotlibFigure:
        """The picture of the page as a Matplotlib figure to go on with: axes, labels, images and colour bar are real, ink is dark on white.

        Neither `pyplot` nor your settings are touched. `title` puts the title above, as `suptitle`. A TypeError for a kind not in `KINDS`.

        >>> bars = Bars(name="loss", title="Ablation", caption="c", alt="a", labels=["full", "ablated"], values=np.array([2.0, 2.5]), unit="nats")
        >>> drawn = bars.matplotlib()
        >>> drawn.axes[0].set_xlabel("loss in nats per token").get_text(), drawn.get_suptitle()
        ('loss in nats per token', 'Ablation')
        """
        from reports.draw import picture
        from reports.drawing.outputs import as_matplotlib

        return as_matplotlib(picture(self), title=title)

    def _repr_html_(self) -> str:
        from reports.notebook import figure_in_notebook

        return figure_in_notebook(self)


def _shape(figure: Figure, what: str, array: np.ndarray, expected: tuple[int, ...]) -> None:
    if np.shape(array) != expected:
        raise ValueError(f"figure {figure.name!r}: {what} must have shape {expected}, got {np.shape(array)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Heatmap(Figure):
    """Values on a grid, Float[rows, columns]. NaN is drawn as missing. `signed` centres the colours on zero; `text` labels the cells."""

    values: np.ndarray
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    unit: str
    signed: bool = False
    text: np.ndarray | None = None
    low: float | None = None
    high: float | None = None
    column_groups: Sequence[str] = ()
    """a name per column, or none at all: neighbours of the same name are joined by a bracket"""

    def __post_init__(self) -> None:
        super().__post_init__()
        _shape(self, "values", self.values, (len(self.rows), len(self.columns)))
        if self.column_groups and len(self.column_groups) != len(self.columns):
            raise ValueError(f"figure {self.name!r}: there must be a group for each of its {len(self.columns)} columns, got {len(self.column_groups)}")
        if self.text is not None:
            _shape(self, "text", self.text, (len(self.rows), len(self.columns)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """One line: Float[points], with an optional band from `low` to `high` (say in the caption what the band is)."""

    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines(Figure):
    """One or more series over the same x."""

    x: np.ndarray
    series: Mapping[str, Series]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False
    markers: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, series in self.series.items():
            for what, array in (("y", series.y), ("low", series.low), ("high", series.high)):
                if array is not None:
                    _shape(self, f"{what} of series {name!r}", array, np.shape(self.x))


@dataclass(frozen=True, kw_only=True, eq=False)
class Bars(Figure):
    """One bar per label, with optional interval ends (say in the caption what they are)."""

    labels: Sequence[str]
    values: np.ndarray
    unit: str
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    signed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("values", "low", "high"):
            if getattr(self, what) is not None:
                _shape(self, what, getattr(self, what), (len(self.labels),))


@dataclass(frozen=True, kw_only=True, eq=False)
class Histogram(Figure):
    """Counts between edges: Int[bins], Float[bins + 1]."""

    counts: np.ndarray
    edges: np.ndarray
    x_label: str
    log_y: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _shape(self, "edges", self.edges, (len(self.counts) + 1,))


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenMap(Figure):
    """Text whose tokens are coloured by a number: one row per method or example, each with its own tokens."""

    rows: Mapping[str, tuple[Sequence[str], np.ndarray]]
    unit: str
    signed: bool = True
    notes: Mapping[str, str] = field(default_factory=dict)
    """row → what else is to be said of it: how far it adds up, what it agrees with"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, (tokens, values) in self.rows.items():
            _shape(self, f"values of row {name!r}", values, (len(tokens),))


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionMap(Figure):
    """Attention patterns of some heads over one text: head label → Float[query, key]. Rows sum to 1.

    All heads of a model need less room: `thumbnails`, Float[layer, head, query block, key block] of the same text, at most 32 × 32
    blocks, and `scores`, name → Float[layer, head], to sort and filter by. Then a label L3H2 is that of layer 3, head 2.
    """

    patterns: Mapping[str, np.ndarray]
    queries: Sequence[str]
    keys: Sequence[str]
    unit: str = "attention probability"
    notes: Mapping[str, str] = field(default_factory=dict)
    """head label → why it is flagged"""
    sees: Sees = ""
    """what a query may see; empty: causal where nothing above the diagonal is attended to"""
    thumbnails: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    heads_per_kv: int = 1
    """how many neighbouring heads of a layer read the same keys and values"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sees not in get_args(Sees):
            raise ValueError(f"figure {self.name!r}: sees must be one of {', '.join(map(repr, get_args(Sees)))}, got {self.sees!r}")
        if self.sees == "causal" and len(self.queries) != len(self.keys):
            raise ValueError(f"figure {self.name!r}: causal attention has as many keys as queries, got {len(self.queries)} queries, {len(self.keys)} keys")
        if self.heads_per_kv < 1:
            raise ValueError(f"figure {self.name!r}: heads_per_kv must be at least 1, got {self.heads_per_kv}")
        for head, pattern in self.patterns.items():
            _shape(self, f"pattern of {head!r}", pattern, (len(self.queries), len(self.keys)))
            if self.sees == "causal" and np.triu(np.nan_to_num(pattern), 1).any():
                raise ValueError(f"figure {self.name!r}: causal attention gives later keys 0, the pattern of {head!r} gives up to {np.nanmax(np.triu(pattern, 1)):.3g}")
        if self.thumbnails is not None and np.ndim(self.thumbnails) != 4:
            raise ValueError(f"figure {self.name!r}: thumbnails have the axes layer, head, query block, key block, got shape {np.shape(self.thumbnails)}")
        if self.scores and self.thumbnails is None:
            raise ValueError(f"figure {self.name!r}: scores are those of all heads and need their thumbnails, got none")
        for score, values in self.scores.items():
            _shape(self, f"score {score!r}", values, np.shape(self.thumbnails)[:2])


@dataclass(frozen=True, kw_only=True, eq=False)
class LensGrid(Figure):
    """What every layer would say at every position: its choices, the most probable first, and where the right answer stands.

    `tokens` are texts and `probabilities` numbers, [layers, positions, k]. `targets` is the right answer at each position,
    empty where there is none, `ranks` its place after each layer, Float[layers, positions]: 1 is the first choice, NaN none.
    """

    probabilities: np.ndarray
    tokens: np.ndarray
    layers: Sequence[str]
    positions: Sequence[str]
    """the token that stands there"""
    layer_label: str = "layer"
    targets: Sequence[str] | None = None
    ranks: np.ndarray | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        cells = len(self.layers), len(self.positions)
        _shape(self, "probabilities", self.probabilities, (*cells, *np.shape(self.probabilities)[-1:]))
        _shape(self, "tokens", self.tokens, np.shape(self.probabilities))
        if (self.targets is None) != (self.ranks is None):
            raise ValueError(f"figure {self.name!r}: targets and ranks belong together, got {'ranks' if self.targets is None else 'targets'} alone")
        if self.targets is not None:
            _shape(self, "targets", np.empty(len(self.targets)), cells[1:])
            _shape(self, "ranks", self.ranks, cells)


@dataclass(frozen=True, kw_only=True, eq=False)
class Waterfall(Figure):
    """Parts that add up to a number: Float[steps], in order, and the number as it was measured apart from them.

    `groups` names the place of each step on the axis (steps of one group follow one another), `kinds` gives its colour.
    """

    groups: Sequence[str]
    kinds: Sequence[str]
    values: np.ndarray
    total: float
    unit: str
    group_label: str
    total_label: str = "measured"

    def __post_init__(self) -> None:
        super().__post_init__()
        _shape(self, "values", self.values, (len(self.groups),))
        _shape(self, "kinds", np.empty(len(self.kinds)), (len(self.groups),))


@dataclass(frozen=True, kw_only=True, eq=False)
class CircuitGraph(Figure):
    """Parts of a model with a number each, and directed edges between them: from node `senders[i]` to node `receivers[i]`.

    `layers` and `places` (within a layer) put the nodes in order. An edge of positive value is red, of negative blue.
    """

    nodes: Sequence[str]
    layers: np.ndarray
    places: np.ndarray
    values: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edge_values: np.ndarray
    unit: str
    node_label: str = "node"
    edge_label: str = "edge"
    """what the number of a node and of an edge is, in a few words"""
    edge_notes: Sequence[str] | None = None
    """what else is to be said of each edge"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for what in ("layers", "places", "values"):
            _shape(self, what, getattr(self, what), (len(self.nodes),))
        for what in ("senders", "receivers", "edge_values"):
            _shape(self, what, getattr(self, what), (len(self.senders),))
        if self.edge_notes is not None:
            _shape(self, "edge_notes", np.empty(len(self.edge_notes)), (len(self.senders),))
        ends = np.concatenate([np.ravel(self.senders), np.ravel(self.receivers)])
        if ends.size and not (0 <= ends.min() and ends.max() < len(self.nodes)):
            raise ValueError(f"figure {self.name!r}: an edge joins two of {len(self.nodes)} nodes, got ends from {ends.min()} to {ends.max()}")


KINDS: tuple[type[Figure], ...] = (Heatmap, Lines, Bars, Histogram, TokenMap, AttentionMap, LensGrid, Waterfall, CircuitGraph)
"""Every kind of figure that can be drawn and stored; the contract tests run over it."""
