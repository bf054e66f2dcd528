"""Is the variation of tokens what its definition says, whatever is padded, shifted or scaled?"""

from __future__ import annotations

import math

import pytest
import torch

from probes.token_variation import token_variation


def test_a_planted_share() -> None:
    common, own = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    stream = torch.stack([common + own, common - own]).expand(2, 2, 2)
    assert token_variation(stream).tolist() == pytest.approx([0.8, 0.8])  # 4 of √(3² + 4²)


def test_it_is_the_distance_to_the_nearest_matrix_of_equal_rows() -> None:
    x = torch.randn(1, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    nearest = torch.linalg.lstsq(torch.ones(7, 1, dtype=torch.float64), x[0]).solution
    assert float(token_variation(x)) == pytest.approx(float((x[0] - nearest).norm() / x.norm()), rel=1e-12)


def test_it_does_not_change_with_the_size_or_a_rotation() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(3, 6, 4, dtype=torch.float64, generator=generator)
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator)).Q
    torch.testing.assert_close(token_variation(7 * x @ turn), token_variation(x))


@pytest.mark.parametrize("left", [True, False])
def test_padding_is_not_read(left: bool) -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(2))
    rubbish = torch.full((2, 3, 4), math.nan)
    real, pads = torch.ones(2, 5, dtype=torch.bool), torch.zeros(2, 3, dtype=torch.bool)
    padded = torch.cat((rubbish, x) if left else (x, rubbish), dim=1)
    mask = torch.cat((pads, real) if left else (real, pads), dim=1)
    torch.testing.assert_close(token_variation(padded, mask), token_variation(x))


def test_one_token_has_nothing_to_differ_from_and_zeros_have_no_share() -> None:
    assert float(token_variation(torch.ones(1, 1, 3))) == 0
    assert math.isnan(float(token_variation(torch.zeros(1, 2, 3))))


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ValueError, match=r"tokens \(2, 3\), got \(2, 4\)"):
        token_variation(torch.ones(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="got none in example 1"):
        token_variation(torch.ones(2, 3, 4), torch.tensor([[True, True, False], [False, False, False]]))
