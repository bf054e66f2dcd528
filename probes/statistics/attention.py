"""What do attention heads do on long text? Entropy, sink, distance and span of every row, without writing a pattern out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.errors import SiteError
from probes.observable import Observable, find, layer_of
from probes.statistics._attention_rows import BINS, Rows, measured_rows
from probes.statistics._contract import Part, Seen, Statistic, exact, to_numpy
from probes.statistics._sites import ALL, WITHOUT_FIRST, divided, tidy

Quantity = Literal["entropy", "maximum", "first", "previous", "same", "last", "distance", "histogram", "window"]
ALONG = ("previous", "same", "distance", "histogram", "window")
"""what needs queries and keys of one sequence: missing in cross-attention"""
AT_ONCE = 2**22
"""how many entries of a pattern are in memory at once"""


@dataclass(frozen=True, kw_only=True)
class AttentionStatistics(Statistic):
    """Each head's rows α_i over the keys that query i may see, averaged over the real queries that see two keys or more.

    | column | of a row | unit |
    |---|---|---|
    | `entropy` | −Σ_j α_ij ln α_ij | nats |
    | `effective_keys` | exp(entropy): how many keys, were they equal (Hill 1973, order 1) | keys |
    | `maximum` | max_j α_ij | 1 |
    | `first` `previous` `same` `last` | mass on the first real key (the sink), on the real token before the query, on the query itself, on the last real key; over the rows that see it | 1 |
    | `distance` | Σ_j α_ij \\|i − j\\| (Vig & Belinkov 2019, equation 2) | tokens |
    | `mass_from_d` | mass at d ≤ \\|i − j\\| < 2d, and at 0 | 1 |
    | `window` | the smallest w such that \\|i − j\\| < w holds 90 % of the row | tokens |

    Positions are counted among the real tokens. Without the first key (`positions`) it is taken out of every row and the rest
    renormalised, α_ij / Σ_{k ≠ first} α_ik, over the rows with two other keys or more. In cross-attention queries and keys are
    of two sequences: what needs their distance is NaN.

    Patterns are computed from q and k a few queries at a time, in fp32 at least, with the model's own mask, bias and scale; no
    square matrix exists at any time. `which` names what is measured; entropy, first, previous and distance are the cheap ones.

    Columns: `site`, `layer`, `head`, `positions` (all, without first), `n` rows, then those above.

    Raises SiteError for a site that is no pattern, ValueError for a quantity that does not exist.

    >>> from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> heads = AttentionStatistics(which=("entropy", "first"))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"heads": heads})["heads"]
    >>> table.columns.tolist()
    ['site', 'layer', 'head', 'positions', 'n', 'entropy', 'effective_keys', 'first']
    >>> len(table), table["n"].tolist()[:2]
    (8, [2, 1])
    """

    by_rows: ClassVar[bool] = True

    at: str | tuple[str, ...] = "*attn.pattern"
    which: tuple[Quantity, ...] = get_args(Quantity)
    entries: int = AT_ONCE
    """how many entries of a pattern may be in memory at once; the numbers do not depend on it"""

    def __post_init__(self) -> None:
        if wrong := [name for name in self.which if name not in get_args(Quantity)]:
            raise ValueError(f"which names some of {', '.join(get_args(Quantity))}, got {wrong[0]!r}")
        if not self.which or self.entries < 1:
            raise ValueError(f"which must name at least one quantity and entries be at least 1, got {self.which} and {self.entries}")

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        """Each pattern alone."""
        known = model.sites()
        names = find(self.at, known)
        if wrong := [name for name in names if known[name].axes != ("batch", "head", "query", "key")]:
            raise SiteError(
                f"AttentionStatistics reads patterns, with axes batch head query key, but {wrong[0]} has {' '.join(known[wrong[0]].axes)}"
            )
        return [(name,) for name in names]

    def finish(self) -> pd.DataFrame:
        rows, n_bins = [], max((_last_bin(part["histogram"]) for part in self.state.values() if "histogram" in part), default=0)
        for name, part in self.state.items():
            for head in range(part["n"].shape[1]):
                for version, positions in enumerate((ALL, WITHOUT_FIRST)):
                    label = {
                        "site": name,
                        "layer": layer_of(name),
                        "head": head,
                        "positions": positions,
                        "n": int(part["n"][version, head]),
                    }
                    rows.append(label | dict(self._means(part, version, head, n_bins)))
        return tidy(rows)

    def _means(self, part: Part, version: int, head: int, n_bins: int) -> Iterator[tuple[str, float]]:
        for name in self._columns():
            total, n = (part[key][version, head] for key in (name, f"{name}_n"))
            mean = divided(total, n)
            if name == "histogram":
                yield from zip(("mass_at_0", *(f"mass_from_{2**b}" for b in range(n_bins - 1))), mean.tolist())
            else:
                yield name, float(mean)

    def _columns(self) -> list[str]:
        chosen = [name for name in get_args(Quantity) if name in self.which]
        return [column for name in chosen for column in (["entropy", "effective_keys"] if name == "entropy" else [name])]

    def _measure(self, seen: Seen) -> dict[str, Part]:
        ((name, pattern),) = seen.values.items()
        one_sequence = ".cross_attn." not in name
        which = [what for what in self.which if one_sequence or what not in ALONG]
        counted, found = [], {column: [] for column in self._columns()}
        for queries in reversed(pattern.chunks(self.entries)):  # the longest rows first: memory that was enough is used again
            rows = Rows.of(pattern, queries, seen, one_sequence=one_sequence)
            counted.append(rows.counted)
            for column, (values, valid) in measured_rows(rows, which).items():
                found[column].append((values, rows.counted if valid is None else rows.counted & valid))
        return {name: _part(torch.cat(counted, dim=3), found)}

    def _join(self, a: Part, b: Part) -> Part:
        return {name: a[name] + b[name] for name in a}


def _last_bin(masses: Float[np.ndarray, "version head bin"]) -> int:
    """How many bins of distances there are up to the last that holds anything."""
    return int(masses.any((0, 1)).nonzero()[0].max(initial=0)) + 1


def _part(counted: Bool[Tensor, "version batch head query"], found: dict[str, list[tuple[Tensor, Tensor]]]) -> Part:
    """Sums over examples and queries, and of how many, [version head] or [version head bin]; 0 of 0 where nothing was found."""
    part = {"n": to_numpy(counted.sum((1, 3)).double())}
    for column, chunks in found.items():
        if not chunks:
            part[column] = part[f"{column}_n"] = np.zeros((*part["n"].shape, *[BINS] * (column == "histogram")))
            continue
        values, valid = (torch.cat(parts, dim=3) for parts in zip(*chunks, strict=True))
        valid = (valid if values.dim() == 4 else valid.unsqueeze(-1)).expand_as(values)
        part[column] = to_numpy(exact(values.where(valid, 0.0)).sum((1, 3)))
        part[f"{column}_n"] = to_numpy(exact(valid).sum((1, 3)))
    return part


STATISTIC = AttentionStatistics
