"""How many directions does a site use? The covariance of its coordinates, and the effective rank of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from probes.errors import SiteError
from probes.statistics._contract import Part, exact, to_numpy
from probes.statistics._sites import ALL, SiteStatistic, Tokens, tidy


@dataclass(frozen=True, kw_only=True)
class Covariance(SiteStatistic):
    """Effective rank, participation ratio and stable rank of the centred covariance C over the real tokens.

    With λ the eigenvalues of C: effective rank exp(−Σ p ln p), p = √λ / Σ√λ (Roy & Vetterli 2007, on singular values);
    participation ratio (Σλ)² / Σλ²; stable rank Σλ / max λ. All are numbers of directions, between 1 and d, and at most n − 1:
    n must be a few times d before they say something about the model. One matrix of d × d per site is kept.

    Columns: `site`, `layer`, `head`, `positions` (all, without first), `n` tokens, `d` coordinates, `variance` (Σλ),
    `effective_rank`, `participation_ratio`, `stable_rank`; NaN where n < 2 or nothing varies.

    Raises SiteError for a site wider than `widest`.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"c": Covariance(at="blocks.0.resid_post")})["c"]
    >>> bool(table["effective_rank"].between(1, 2).all())  # three tokens span a plane, two a line
    True
    """

    widest: int = 8192
    """coordinates; the matrix of this many takes 0.5 GB"""

    def covariance(self, site: str, positions: str = ALL) -> Float[np.ndarray, "*head d d"]:
        """The matrix C of one site. Raises KeyError for a site that was not seen."""
        found = [part for label, part in self._versions() if (label["site"], label["positions"]) == (site, positions)]
        if not found:
            raise KeyError(f"{site} ({positions}) was not seen")
        return _matrix(found[0])

    def finish(self) -> pd.DataFrame:
        return tidy([label | row for label, part in self._versions() for row in _rows(part)])

    def _of(self, tokens: Tokens) -> Part:
        values = exact(tokens.values)  # token (head) d
        d = values.shape[-1]
        if d > self.widest:
            raise SiteError(f"the covariance of {d} coordinates needs {d} × {d} numbers, the widest site may have {self.widest}")
        mean = values.mean(0) if len(values) else torch.zeros_like(values.sum(0))
        apart = values - mean
        scatter = torch.einsum("t...i,t...j->...ij", apart, apart)
        return {"n": np.array(float(len(values))), "mean": to_numpy(mean), "scatter": to_numpy(scatter)}

    def _join(self, a: Part, b: Part) -> Part:
        n = a["n"] + b["n"]
        if n == 0:
            return a
        gap = b["mean"] - a["mean"]
        scatter = a["scatter"] + b["scatter"] + gap[..., :, None] * gap[..., None, :] * (a["n"] * b["n"] / n)
        mean = a["mean"] + gap * (b["n"] / n) if b["n"] <= a["n"] else b["mean"] - gap * (a["n"] / n)
        return {"n": n, "mean": mean, "scatter": scatter}


def ranks(covariance: Float[np.ndarray, "d d"]) -> dict[str, float]:
    """Variance, effective rank, participation ratio and stable rank of one matrix; NaN where nothing varies."""
    spectrum = np.linalg.eigvalsh(covariance) if np.isfinite(covariance).all() else np.full(len(covariance), np.nan)
    spectrum = np.where(spectrum < spectrum.max() * len(spectrum) * np.finfo(float).eps, 0.0, spectrum)  # rounding has no direction
    total = float(spectrum.sum())
    if not total > 0:
        return dict.fromkeys(("effective_rank", "participation_ratio", "stable_rank"), np.nan) | {"variance": total}
    share = np.sqrt(spectrum[spectrum > 0])
    share = share / share.sum()
    return {
        "variance": total, "effective_rank": float(np.exp(-(share * np.log(share)).sum())),
        "participation_ratio": total**2 / float((spectrum**2).sum()), "stable_rank": total / float(spectrum.max()),
    }  # fmt: skip


def _rows(part: Part) -> Iterator[dict[str, object]]:
    matrix = _matrix(part)
    for place in np.ndindex(matrix.shape[:-2]):
        head = {"head": place[0]} if place else {}
        measured = ranks(matrix[place])
        names = ("variance", "effective_rank", "participation_ratio", "stable_rank")
        yield head | {"n": int(part["n"]), "d": matrix.shape[-1]} | {name: measured[name] for name in names}


def _matrix(part: Part) -> np.ndarray:
    return part["scatter"] / part["n"] if part["n"] > 1 else np.full_like(part["scatter"], np.nan)


STATISTIC = Covariance
