"""Integrated gradients: how much does each token carry on the straight way from a baseline? (Sundararajan et al. 2017; Captum.)

IG_i = (x_i − b_i) ∫₀¹ ∂f(b + α(x − b))/∂x_i dα, by Gauss–Legendre quadrature. Completeness, Σ_i IG_i = f(x) − f(b), holds for every piece of
the way on its own: what a piece misses is its gap, and where an example's gap is too large, those pieces are halved that miss most. So the
points go where f is steep, and the rest of the way is not computed again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.attribution.site_function import SiteFunction, real_tokens_only
from probes.errors import SiteError


@dataclass(frozen=True, eq=False)
class IntegratedGradients:
    """Attribution per position, and how well each example adds up."""

    attribution: Float[Tensor, "batch pos"]
    """in the unit of the metric, summed over the coordinates of a position"""
    difference: Float[Tensor, "batch"]
    """f(x) − f(baseline)"""
    n_steps: Int[Tensor, "batch"]
    """gradients that were computed for the example"""

    @property
    def gap(self) -> Float[Tensor, "batch"]:
        """|Σ attribution − difference| / |difference|; NaN where the difference is 0, since there is nothing to share out."""
        missing = (self.attribution.sum(1) - self.difference).abs()
        return torch.where(self.difference == 0, torch.nan, missing / self.difference.abs())


@dataclass(frozen=True, eq=False)
class _Piece:
    """The way of one example from α = low to α = high."""

    example: int
    low: float
    high: float
    attribution: Float[Tensor, "pos"] | None = None
    missing: float = 0.0
    """f(high) − f(low) − Σ attribution"""

    def halves(self) -> tuple[_Piece, _Piece]:
        middle = (self.low + self.high) / 2
        return _Piece(self.example, self.low, middle), _Piece(self.example, middle, self.high)


def integrated_gradients(
    function: SiteFunction,
    baseline: Float[Tensor, "batch pos ..."],
    *,
    n_steps: int = 10,
    max_steps: int = 160,
    tolerance: float = 1e-3,
    tokens_at_once: int = 1024,
) -> IntegratedGradients:
    """Every piece of the way gets `n_steps` points; pieces are halved while the gap is above `tolerance` and `max_steps` gradients are not used up.

    `tokens_at_once` bounds the memory of one backward pass. Raises SiteError for a number of points below 1 or above `max_steps`.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> from probes.attribution.site_function import site_function
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> f = site_function(model, (torch.tensor([[1, 2, 3]]),), logit_difference(7, 8))
    >>> bool(integrated_gradients(f, torch.zeros_like(f.value)).gap < 1e-3)
    True
    """
    if not 1 <= n_steps <= max_steps:
        raise SiteError(f"n_steps must be between 1 and max_steps={max_steps}, got {n_steps}")
    n = len(function.value)
    with torch.no_grad():
        difference = function(function.value) - function(baseline)
    pieces: list[list[_Piece]] = [[] for _ in range(n)]
    used, waiting = torch.zeros(n, dtype=torch.long), [_Piece(i, 0.0, 1.0) for i in range(n) if float(difference[i])]
    while waiting:
        for piece in _measured(function, baseline, waiting, n_steps, tokens_at_once):
            pieces[piece.example].append(piece)
            used[piece.example] += n_steps
        waiting = []
        for i, there in enumerate(pieces):
            allowed = tolerance * abs(float(difference[i]))
            if abs(sum(piece.missing for piece in there)) > allowed:
                worst = sorted(there, key=lambda piece: -abs(piece.missing))[: max(0, (max_steps - int(used[i])) // (2 * n_steps))]
                chosen = [piece for piece in worst if abs(piece.missing) > allowed / (2 * len(there))]
                waiting += [half for piece in chosen for half in piece.halves()]
                pieces[i] = [piece for piece in there if piece not in chosen]
    attribution = torch.stack(
        [sum((piece.attribution for piece in there), torch.zeros(function.value.shape[1]).to(difference)) for there in pieces]
    )
    return IntegratedGradients(real_tokens_only(attribution, function), difference, used)


def _measured(function: SiteFunction, baseline: Tensor, pieces: list[_Piece], n_steps: int, tokens_at_once: int) -> list[_Piece]:
    """The pieces with their attribution, by captum, and what it misses."""
    from captum.attr import IntegratedGradients as Captum

    length, done = function.value.shape[1], []
    at_once = max(1, tokens_at_once // length)
    for first in range(0, len(pieces), at_once):
        here = pieces[first : first + at_once]
        examples = [piece.example for piece in here]
        base, way = baseline.expand_as(function.value)[examples], (function.value - baseline)[examples]
        start, end = (
            base + way * torch.tensor(ends).to(way).view(-1, *[1] * (way.dim() - 1))
            for ends in ([p.low for p in here], [p.high for p in here])
        )
        method = Captum(lambda values, examples=examples: function(values, examples))
        found = method.attribute(end, baselines=start, n_steps=n_steps, method="gausslegendre", internal_batch_size=max(len(here), at_once))
        found = found.detach().flatten(2).sum(-1)  # rows pos
        with torch.no_grad():
            missing = function(end, examples) - function(start, examples) - found.sum(1)
        done += [_Piece(p.example, p.low, p.high, a, float(m)) for p, a, m in zip(here, found.to(missing), missing, strict=True)]
    return done
