"""Is the best pattern of a narrow head found where it is known?"""

from __future__ import annotations

import math

import pytest
import torch

from probes.low_rank import _by_decomposition, _descended, _drawn, _on_a_circle, low_rank_divergence


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_planted_head_is_found_and_a_narrower_one_is_not_enough() -> None:
    pattern = (1.5 * drawn(12, 3) @ drawn(3, 12, seed=1)).softmax(-1)
    assert low_rank_divergence(pattern, 3) < 1e-5
    assert low_rank_divergence(pattern, 1) > 0.05


def test_a_head_as_wide_as_the_keys_makes_every_pattern() -> None:
    assert low_rank_divergence((2 * drawn(10, 10)).softmax(-1), 10) < 1e-6


def test_wider_is_never_worse_and_no_width_is_worse_than_the_mean_row() -> None:
    pattern = (2 * drawn(12, 12)).softmax(-1)
    found = [low_rank_divergence(pattern, d_head) for d_head in (1, 2, 4, 8)]
    assert found == sorted(found, reverse=True)
    of_mean_row = float((pattern * (pattern / pattern.mean(0)).log()).sum(-1).mean())  # one coordinate, all queries the same
    assert found[0] < of_mean_row


@pytest.mark.parametrize("d_head", [2, 3, 5])
def test_on_a_circle_two_coordinates_point_at_any_single_place(d_head: int) -> None:
    """Keys u_j on it and queries c·u_π(j): the margin c·(1 − cos 2π/n) grows with c, so that the least is 0."""
    assert low_rank_divergence(torch.eye(64)[torch.randperm(64, generator=torch.Generator().manual_seed(0))], d_head) < 1e-3
    assert low_rank_divergence(torch.full((12, 12), 1 / 12), 1) == pytest.approx(0, abs=1e-9)


def test_no_start_makes_it_worse() -> None:
    near = (torch.arange(12)[:, None] - torch.arange(12)).abs() <= 1
    pattern = near.double() / near.sum(-1, keepdim=True)

    def divergence(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return (torch.special.xlogy(pattern, pattern) - pattern * (q @ k.mT).log_softmax(-1)).sum(-1).mean()

    starts = (_by_decomposition(pattern, 2), _drawn(pattern, 2, 0), _on_a_circle(pattern, 2, divergence))
    alone = [_descended(divergence, *start, 150) for start in starts]
    assert low_rank_divergence(pattern, 2) == pytest.approx(min(alone), abs=1e-4) and min(alone) > 0.01  # the last digits are those of the descent


def test_what_is_no_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="a head is at least 1 wide, got d_head=0"):
        low_rank_divergence(torch.eye(3), 0)
    with pytest.raises(ValueError, match=r"weights that sum to 1, got shape \(3, 3\), sums from 2"):
        low_rank_divergence(2 * torch.eye(3), 1)
    assert math.isfinite(low_rank_divergence(torch.eye(3), 1))
