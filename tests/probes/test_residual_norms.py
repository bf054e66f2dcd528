"""Are planted sinks, massive activations and growth rates found, and nothing else?"""

import math

import numpy as np
import pytest
import torch

from probes.statistics.residual_norms import fit_growth, largest_share, massive_activations, sink_positions


def states() -> torch.Tensor:
    return torch.randn(4, 2, 6, 8, generator=torch.Generator().manual_seed(0))


def test_a_planted_massive_activation_is_named_and_nothing_else() -> None:
    stream = states()
    assert massive_activations(stream) == []
    stream[2, 1, 3, 5] = -5000.0
    (found,) = massive_activations(stream)
    assert (found.state, found.example, found.position, found.dimension, found.value) == (2, 1, 3, 5, -5000.0)
    assert found.ratio == pytest.approx(5000 / stream[2, 1].abs().median().item())


def test_the_median_is_that_of_the_layer_not_of_the_token() -> None:
    stream = states()
    stream[1, 0, 0] = 100.5  # the token's own median is as large
    stream[1, 0, 0, 2] = 2000.0
    assert [(one.position, one.dimension) for one in massive_activations(stream)] == [(0, 2)]


def test_a_large_ratio_alone_is_not_massive() -> None:
    stream = 1e-4 * states()
    stream[0, 0, 0, 0] = 99.0
    assert massive_activations(stream) == []


def test_padding_is_neither_counted_nor_found() -> None:
    stream = states()
    stream[:, 0, 4:] = 1e6
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, 4:] = False
    assert massive_activations(stream, mask) == []
    sinks = sink_positions(stream.norm(dim=-1), mask)
    assert sinks.nonzero().tolist() == [[0, 0], [1, 0]]
    left = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    assert sink_positions(states().norm(dim=-1), left).nonzero().tolist() == [[0, 2], [1, 0]]


def test_a_sink_in_any_state_is_a_sink() -> None:
    norms = torch.ones(3, 1, 5)
    norms[1, 0, 3] = 10.5
    assert sink_positions(norms)[0].tolist() == [True, False, False, True, False]
    assert sink_positions(norms, factor=11.0)[0].tolist() == [True, False, False, False, False]


def test_shares_run_from_equal_to_all() -> None:
    assert largest_share(torch.ones(2, 10), 3).tolist() == pytest.approx([0.3, 0.3])
    assert largest_share(torch.tensor([0.0, -7.0, 0.0]), 1).item() == 1.0
    assert largest_share(torch.ones(4), 10).item() == 1.0
    x = states()
    np.testing.assert_allclose(largest_share(x, 2), np.sort(x.numpy() ** 2, -1)[..., -2:].sum(-1) / (x.numpy() ** 2).sum(-1), rtol=1e-5)


def test_growth_tells_exponential_from_power_law() -> None:
    depth = np.arange(13)
    exponential = fit_growth(0.3 + depth * math.log(1.079))
    assert exponential.rate == pytest.approx(1.079) and exponential.r2_exponential == pytest.approx(1.0) and exponential.r2_power < 0.95
    power = fit_growth(np.log(3.0) + 0.5 * np.log(np.maximum(depth, 1)))
    assert (
        power.power == pytest.approx(0.5) and power.r2_power == pytest.approx(1.0) == power.r2_square_root and power.r2_exponential < 0.95
    )


def test_the_embedding_is_no_point_of_the_fit() -> None:
    assert fit_growth(np.array([-50.0, 1.0, 2.0, 3.0])).rate == pytest.approx(math.e)


def test_too_few_states_have_no_rate() -> None:
    assert math.isnan(fit_growth(np.array([0.0, 1.0, 2.0])).rate)
    assert math.isnan(fit_growth(np.array([0.0, 1.0, np.nan, 2.0])).rate)
