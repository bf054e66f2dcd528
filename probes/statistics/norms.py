"""How large are the vectors at a site, at which positions? The norm by layer and by bucket of positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from probes.observable import layer_of
from probes.statistics._contract import Part, Seen, exact
from probes.statistics._running import described, join_moments, moments_of
from probes.statistics._sites import ALL, WITHOUT_FIRST, SiteStatistic, Tokens, tidy


@dataclass(frozen=True, kw_only=True)
class Norms(SiteStatistic):
    """‖x‖ over the coordinates of each real token (of each head), by position among the real tokens.

    Buckets of positions double in width: 0, 1, 2–3, 4–7, 8–15, …; position 0, where the sink is, stands alone. `mean_log` is
    the mean of ln ‖x‖, to which the growth rate of the residual stream is fitted (Heimersheim & Turner 2023; `fit_growth`);
    a norm of 0 makes it NaN.

    Columns: `site`, `layer`, `head` (of sites that have one), `positions` (all, without first, or a bucket), `n` tokens,
    `mean`, `std`, `largest` (in the unit of the site), `mean_log` (natural logarithm).

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"norms": Norms(at="blocks.0.resid_post")})["norms"]
    >>> table[["positions", "n"]].values.tolist()
    [['all', 3], ['without first', 2], ['0', 1], ['1', 1], ['2–3', 1]]
    """

    def finish(self) -> pd.DataFrame:
        rows = []
        for name in dict.fromkeys(key.rpartition("|")[0] for key in self.state):
            kept = {int(key.rpartition("|")[2]): part for key, part in self.state.items() if key.startswith(f"{name}|")}
            label = {"site": name, "layer": layer_of(name)}
            versions = {ALL: list(kept.values()), WITHOUT_FIRST: [part for bucket, part in kept.items() if bucket > 0]}
            versions |= {bucket_name(bucket): [kept[bucket]] for bucket in sorted(kept)}
            for positions, parts in versions.items():
                rows += [label | head | {"positions": positions} | row for head, row in _rows(self._joined(parts, kept[0]))]
        return tidy(rows)

    def _kinds(self, seen: Seen) -> dict[str, Bool[Tensor, "batch pos"]]:
        bucket = bucket_of(seen.positions)
        return {str(b): seen.mask & (bucket == b) for b in range(max(int(bucket.max()) + 1, 2))}

    def _of(self, tokens: Tokens) -> Part:
        norm = exact(tokens.values).norm(dim=-1)  # token (head)
        return moments_of(torch.stack((norm, norm.log().where(norm > 0, torch.nan)), dim=-1))

    def _join(self, a: Part, b: Part) -> Part:
        return join_moments(a, b)

    def _joined(self, parts: list[Part], like: Part) -> Part:
        total = moments_of(torch.zeros(0, *like["mean"].shape))
        for part in parts:
            total = self._join(total, part)
        return total


def bucket_of(positions: Tensor) -> Tensor:
    """0, 1, 2–3, 4–7, …: number of the bucket of each position.

    >>> bucket_of(torch.arange(9)).tolist()
    [0, 1, 2, 2, 3, 3, 3, 3, 4]
    """
    return torch.where(positions > 0, positions.clamp(min=1).double().log2().floor().long() + 1, 0)


def bucket_name(bucket: int) -> str:
    """What a bucket is called.

    >>> bucket_name(0), bucket_name(1), bucket_name(3)
    ('0', '1', '4–7')
    """
    return str(bucket) if bucket < 2 else f"{2 ** (bucket - 1)}–{2**bucket - 1}"


def _rows(part: Part) -> list[tuple[dict[str, object], dict[str, object]]]:
    found, rows = described(part), []
    for place in np.ndindex(part["mean"].shape[:-1]):
        norm = {name: values[place][0] for name, values in found.items()}
        row = {"n": int(part["n"]), "mean": norm["mean"], "std": float(np.sqrt(norm["variance"])), "largest": norm["largest"]}
        rows.append(({"head": place[0]} if place else {}, row | {"mean_log": found["mean"][place][1]}))
    return rows


STATISTIC = Norms
