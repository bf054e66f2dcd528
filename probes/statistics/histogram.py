"""How are the numbers at a site distributed? Counts between fixed edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from probes.statistics._contract import Part, to_numpy
from probes.statistics._sites import Of, SiteStatistic, Tokens, divided, reduced, tidy


def log_edges(low: float, high: float, per_decade: int = 8) -> tuple[float, ...]:
    """Edges whose ratio is one for all bins, from `low` to `high`.

    Raises ValueError unless 0 < low < high.

    >>> log_edges(0.1, 10.0, per_decade=1)
    (0.1, 1.0, 10.0)
    """
    if not 0 < low < high:
        raise ValueError(f"logarithmic edges need 0 < low < high, got low={low}, high={high}")
    n_bins = max(1, round(per_decade * float(np.log10(high / low))))
    return tuple(float(f"{edge:.12g}") for edge in np.geomspace(low, high, n_bins + 1))


@dataclass(frozen=True, kw_only=True)
class Histogram(SiteStatistic):
    """How many of the numbers x of the real tokens fall between the edges: low ≤ x < high.

    What lies below the first edge or above the last has rows of its own, and so have numbers that are NaN (`low` and
    `high` NaN): the shares of one site and version sum to 1.

    Columns: `site`, `layer`, `positions` (all, without first), `low`, `high` (in the unit of the site), `count`, `share`.

    Raises ValueError unless there are two edges or more, each larger than the one before.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"h": Histogram(at="blocks.0.mlp.post", edges=(-1.0, 0.0, 1.0))})["h"]
    >>> table.groupby("positions")["count"].sum().to_dict()  # 16 neurons of three tokens, of two
    {'all': 48, 'without first': 32}
    """

    edges: tuple[float, ...] = log_edges(1e-4, 1e4)
    of: Of = "magnitude"

    def __post_init__(self) -> None:
        edges = tuple(float(edge) for edge in self.edges)
        if len(edges) < 2 or not all(a < b for a, b in zip(edges, edges[1:])):
            raise ValueError(f"edges must be two numbers or more, each larger than the one before, got {edges}")
        object.__setattr__(self, "edges", edges)

    def finish(self) -> pd.DataFrame:
        bounds = [-np.inf, *self.edges, np.inf]
        low, high = [*bounds[:-1], np.nan], [*bounds[1:], np.nan]
        tables = [
            pd.DataFrame(
                label
                | {"low": low, "high": high, "count": part["counts"].astype(int), "share": divided(part["counts"], part["counts"].sum())}
            )
            for label, part in self._versions()
        ]
        return (
            tidy(pd.concat(tables, ignore_index=True))
            if tables
            else pd.DataFrame(columns=["site", "positions", "low", "high", "count", "share"])
        )

    def _of(self, tokens: Tokens) -> Part:
        numbers = to_numpy(reduced(tokens.values, self.of)).ravel()
        unknown = np.isnan(numbers)
        bins = np.searchsorted(self.edges, numbers[~unknown], side="right")
        return {"counts": np.append(np.bincount(bins, minlength=len(self.edges) + 1), unknown.sum()).astype(float)}

    def _join(self, a: Part, b: Part) -> Part:
        return {"counts": a["counts"] + b["counts"]}


STATISTIC = Histogram
