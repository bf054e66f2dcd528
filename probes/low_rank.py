"""How near can a head of a given width come to an attention pattern? The best softmax of a product of queries and keys of that width."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = 1e-6
"""what a weight of 0 counts as where the scores of a pattern are its logarithms"""


def low_rank_divergence(pattern: Float[Tensor, "query key"], d_head: int, *, steps: int = 150, seed: int = 0) -> float:
    """The least KL(pattern ‖ softmax(q kᵀ)) that was found over free q, k of `d_head` coordinates for each place; nats, mean over rows.

    A head whose d_head is smaller than the number of keys cannot make every pattern, one of at least that many can
    (Bhojanapalli et al. 2020, theorem 1). The queries and keys are free: what an input allows may be less. Found by L-BFGS from three starts,
    the truncated singular value decomposition of the centred logarithms, normal numbers from the seed and keys on a circle: an upper bound.

    Raises ValueError for rows that do not sum to 1, and for a width below 1.

    >>> pattern = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    >>> pattern = (pattern @ torch.randn(2, 8, generator=torch.Generator().manual_seed(1))).softmax(-1)
    >>> low_rank_divergence(pattern, 2) < 1e-6 < low_rank_divergence(pattern, 1)
    True
    """
    if d_head < 1:
        raise ValueError(f"a head is at least 1 wide, got d_head={d_head}")
    pattern = pattern.detach().double()
    if pattern.dim() != 2 or float((pattern.sum(-1) - 1).abs().max()) > 1e-4 or float(pattern.min()) < 0:
        raise ValueError(
            f"a pattern is a matrix whose rows are weights that sum to 1, got shape {tuple(pattern.shape)}, sums from {float(pattern.sum(-1).min()):.4g}"
        )
    pattern = pattern / pattern.sum(-1, keepdim=True)  # rows of fp32 sum to 1 up to rounding
    entropy = torch.special.entr(pattern).sum(-1).mean()

    def divergence(q: Tensor, k: Tensor) -> Tensor:
        return -(pattern * (q @ k.mT).log_softmax(-1)).sum(-1).mean() - entropy

    starts = [_by_decomposition(pattern, d_head), _drawn(pattern, d_head, seed)]
    if d_head >= 2:
        starts.append(_on_a_circle(pattern, d_head, divergence))
    return max(0.0, min(_descended(divergence, *start, steps) for start in starts))


def _by_decomposition(pattern: Tensor, d_head: int) -> tuple[Tensor, Tensor]:
    scores = pattern.clamp(min=FLOOR).log()
    u, s, v = torch.linalg.svd(scores - scores.mean(-1, keepdim=True), full_matrices=False)
    root = s[:d_head].sqrt()
    q, k = torch.zeros(len(scores), d_head).double(), torch.zeros(scores.shape[1], d_head).double()
    q[:, : len(root)], k[:, : len(root)] = u[:, :d_head] * root, v[:d_head].mT * root
    return q, k


def _drawn(pattern: Tensor, d_head: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n, d_head, generator=generator, dtype=torch.float64) for n in pattern.shape)


def _on_a_circle(pattern: Tensor, d_head: int, divergence: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Keys evenly on a circle, and on its overtones where there are coordinates for them; a query points at the mean of what it looks at.

    All queries are as long as fits best: long ones single out one key of any number in two coordinates, which no rank says.
    """
    n = pattern.shape[1]
    turns = 2 * math.pi / n * torch.arange(n).double()[:, None] * torch.arange(1, d_head // 2 + 1)  # key overtone
    keys = torch.cat((turns.cos(), turns.sin(), torch.zeros(n, d_head % 2).double()), dim=-1)
    lengths = [n * 2.0 ** (i / 2) for i in range(-14, 3)]  # of queries and keys alike: their product is what counts
    root = min(lengths, key=lambda root: float(divergence(root * pattern @ keys, root * keys)))
    return root * pattern @ keys, root * keys


def _descended(divergence: Callable[[Tensor, Tensor], Tensor], q: Tensor, k: Tensor, steps: int) -> float:
    """The divergence behind at most `steps` steps of L-BFGS."""
    q, k = q.clone().requires_grad_(True), k.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([q, k], max_iter=steps, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = divergence(q, k)
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    with torch.no_grad():
        return float(divergence(q, k))
