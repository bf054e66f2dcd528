"""What is the median at a site, and what are the extremes? Quantiles with a known relative error, in a small sketch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from probes.statistics._contract import Part, to_numpy
from probes.statistics._sites import Of, SiteStatistic, Tokens, reduced, tidy


@dataclass(frozen=True, kw_only=True)
class Quantiles(SiteStatistic):
    """Quantiles of the numbers x of the real tokens, each within `accuracy` · |x| of the true one.

    The sketch counts numbers in bins whose edges are powers of (1 + accuracy) / (1 − accuracy) (DDSketch: Masson, Rim & Lee
    2019); counts add, so that merging is exact and in any order. Numbers that are infinite or NaN have no quantile: they are
    counted in `n_undefined`.

    Columns: `site`, `layer`, `positions` (all, without first), `quantile`, `value` (in the unit of the site), `n` numbers,
    `n_undefined`.

    Raises ValueError for quantiles outside of 0 … 1 or an accuracy outside of 0.0001 … 0.1.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"q": Quantiles(at="blocks.0.resid_post")})["q"]
    >>> table["value"].is_monotonic_increasing, table["n"].unique().tolist()
    (False, [24, 16])
    """

    of: Of = "value"
    quantiles: tuple[float, ...] = (0.0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
    accuracy: float = 0.005

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantiles", tuple(float(q) for q in self.quantiles))
        if wrong := [q for q in self.quantiles if not 0 <= q <= 1]:
            raise ValueError(f"quantiles lie between 0 and 1, got {wrong[0]}")
        if not 1e-4 <= self.accuracy <= 0.1:
            raise ValueError(f"accuracy must lie between 0.0001 and 0.1, got {self.accuracy}")

    def finish(self) -> pd.DataFrame:
        rows = []
        for label, part in self._versions():
            value, n = self._read(part), int(_count(part))
            rows += [label | {"quantile": q, "value": value(q), "n": n, "n_undefined": int(part["undefined"])} for q in self.quantiles]
        return tidy(rows)

    def _of(self, tokens: Tokens) -> Part:
        numbers = to_numpy(reduced(tokens.values, self.of)).ravel()
        defined = np.isfinite(numbers)
        x = numbers[defined]
        some = len(x) > 0
        return {
            "zeros": np.array(float((x == 0).sum())), "undefined": np.array(float((~defined).sum())),
            "least": np.array(x.min() if some else np.inf), "most": np.array(x.max() if some else -np.inf),
            **self._binned("above", x[x > 0]), **self._binned("below", -x[x < 0]),
        }  # fmt: skip

    def _binned(self, name: str, magnitudes: Float[np.ndarray, "n"]) -> Part:
        """Bin k holds γ^(k−1) < |x| ≤ γ^k."""
        gamma = (1 + self.accuracy) / (1 - self.accuracy)
        keys = np.ceil(np.log(magnitudes) / np.log(gamma)).astype(np.int64)
        lowest = keys.min() if len(keys) else 0
        counts = np.bincount(keys - lowest)
        there = counts.nonzero()[0]
        return {f"{name}_keys": there + lowest, f"{name}_counts": counts[there].astype(float)}

    def _join(self, a: Part, b: Part) -> Part:
        joined = {name: a[name] + b[name] for name in ("zeros", "undefined")}
        joined |= {"least": np.minimum(a["least"], b["least"]), "most": np.maximum(a["most"], b["most"])}
        for side in ("above", "below"):
            keys, where = np.unique(np.concatenate((a[f"{side}_keys"], b[f"{side}_keys"])), return_inverse=True)
            counts = np.bincount(where, np.concatenate((a[f"{side}_counts"], b[f"{side}_counts"])), minlength=len(keys))
            joined |= {f"{side}_keys": keys, f"{side}_counts": counts}
        return joined

    def _read(self, part: Part) -> Callable[[float], float]:
        """The library's sketch with these counts, asked for one quantile; the extremes are exact."""
        from ddsketch import DDSketch
        from ddsketch.mapping import LogarithmicMapping

        if not _count(part):
            return lambda quantile: np.nan
        sketch, mapping = DDSketch(self.accuracy), LogarithmicMapping(self.accuracy)
        for side, sign in (("above", 1), ("below", -1)):
            for key, count in zip(part[f"{side}_keys"].tolist(), part[f"{side}_counts"].tolist(), strict=True):
                sketch.add(sign * mapping.value(key), count)
        if part["zeros"]:
            sketch.add(0.0, float(part["zeros"]))
        ends = {0.0: float(part["least"]), 1.0: float(part["most"])}
        return lambda quantile: ends.get(quantile, float(np.clip(sketch.get_quantile_value(quantile), part["least"], part["most"])))


def _count(part: Part) -> float:
    return float(part["zeros"] + part["above_counts"].sum() + part["below_counts"].sum())


STATISTIC = Quantiles
