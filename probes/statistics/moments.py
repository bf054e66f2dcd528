"""Where does each coordinate of a site lie, how far does it spread, and how heavy are its tails?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from probes.statistics._contract import Part
from probes.statistics._running import described, join_moments, moments_of
from probes.statistics._sites import Of, SiteStatistic, Tokens, reduced, tidy


@dataclass(frozen=True, kw_only=True)
class Moments(SiteStatistic):
    """Mean, variance, kurtosis and the largest magnitude of every coordinate over the real tokens.

    The variance is Σ(x − mean)² / n, the kurtosis Σ(x − mean)⁴ / (n variance²), 3 for a Gaussian; the unit is that of the
    site, of the variance its square. Halves are merged as in Chan, Golub & LeVeque (1983) and Pébay (2008).

    Columns: `site`, `layer`, `head` (of sites that have one), `unit` (the coordinate), `positions` (all, without first),
    `n` tokens, `mean`, `variance`, `kurtosis`, `largest`.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)] * 4, {"post": Moments(at="blocks.*.mlp.post")})["post"]
    >>> len(table), table["n"].unique().tolist()
    (64, [12, 8])
    """

    of: Of = "value"
    pooled: bool = False
    """all coordinates of a token (of a head) taken together: `n` then counts numbers, and `unit` is missing"""

    def finish(self) -> pd.DataFrame:
        rows = []
        for label, part in self._versions():
            part = _pooled(part) if self.pooled else part
            columns = {name: values.ravel() for name, values in described(part).items()}
            for i, place in enumerate(np.ndindex(part["mean"].shape)):
                head = {"head": place[0]} if len(place) == 2 else {}
                unit = {"unit": None if self.pooled else place[-1]}
                rows.append(label | head | unit | {"n": int(part["n"])} | {name: values[i] for name, values in columns.items()})
        return tidy(rows)

    def _of(self, tokens: Tokens) -> Part:
        return moments_of(reduced(tokens.values, self.of))

    def _join(self, a: Part, b: Part) -> Part:
        return join_moments(a, b)


def _pooled(part: Part) -> Part:
    """The moments of all coordinates as if they were more tokens."""
    units = [{name: part[name][..., i : i + 1] if name != "n" else part["n"] for name in part} for i in range(part["mean"].shape[-1])]
    while len(units) > 1:  # by halves: 3,000 neurons in 12 rounds
        joined = [join_moments(a, b) for a, b in zip(units[::2], units[1::2])]
        units = joined + units[len(joined) * 2 :]
    return units[0]


STATISTIC = Moments
