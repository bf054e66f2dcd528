"""Do the studies of positions and residual connections measure what they say, on planted numbers and on weights that are known?"""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from analyses.studies import _tasks_recall as recall
from analyses.studies import q10_relative_positions as relative
from analyses.studies._tasks_lengths import LONG
from analyses.studies._training import LENGTH
from analyses.studies.q08_embedding_scale import ARMS, _lowest
from analyses.studies.q09_sinusoids import SIZES, _codes, _geometry, _projected, _spread
from analyses.studies.q11_residual_connections import _effects_of_depth, _effects_on_new_text
from model import TransformerConfig
from model.relative import BucketBias, ShawVectors
from model.rotary import stretched


@pytest.mark.parametrize(("config", "trained"), [(relative.TEXT, LENGTH), (recall.CONFIG, recall.TRAINED)])
def test_what_a_relative_encoding_reads_behind_the_trained_length_was_trained(config: TransformerConfig, trained: int) -> None:
    for numbers in (BucketBias(config).bucket, ShawVectors(config).clipped):
        far = numbers(-torch.arange(config.n_ctx))
        near = numbers(-torch.arange(trained - 1))  # the last token predicts nothing
        assert set(far.tolist()) == set(near.tolist()) and len(set(near.tolist())) > 4


def test_stretched_angles_of_the_longest_text_are_those_of_the_trained_length() -> None:
    plain, linear, ntk = (
        stretched(rotary, relative.TEXT.d_head, torch.device("cpu"))[0] for rotary in (relative.TEXT.rotary, *relative.STRETCHED.values())
    )
    assert torch.allclose(linear * LONG, plain * LENGTH)
    assert torch.isclose(ntk[0], plain[0]) and torch.isclose(ntk[-1] * LONG, plain[-1] * LENGTH)  # near places as before, the far turn as in training


def test_products_of_sinusoids_tell_the_distance_alone_until_they_are_projected() -> None:
    codes = _codes(SIZES[0])
    assert _spread(codes @ codes.T) < 1e-6
    turn = torch.linalg.qr(torch.randn(SIZES[0], SIZES[0], generator=torch.Generator().manual_seed(0), dtype=codes.dtype)).Q
    assert _spread((codes @ turn) @ (codes @ turn).T) < 1e-6  # W_Q W_Kᵀ = 1
    assert _projected([0, 1]).spread.min() > 0.5


def test_likeness_falls_steadily_where_its_rises_are_none() -> None:
    geometry = _geometry()
    assert (geometry.rise[geometry.rises_at >= LENGTH] == 0).all() and (geometry.rise[geometry.rises_at < LENGTH] > 0).all()
    assert geometry.trend.is_monotonic_decreasing and geometry.direction.max() < 1e-6


def test_an_arm_ends_lowest_only_if_its_seeds_say_so() -> None:
    def arms(lead: list[float]) -> pd.DataFrame:
        losses = {ARMS[0]: [2.0, 2.1, 2.2], ARMS[1]: [x - by for x, by in zip([2.0, 2.1, 2.2], lead, strict=True)], ARMS[2]: [3.0] * 3, ARMS[3]: [3.0] * 3}
        return pd.DataFrame([
            {"start": start, "scaled": scaled, "seed": seed, "loss": x} for (start, scaled), xs in losses.items() for seed, x in enumerate(xs)
        ])  # fmt: skip

    assert _lowest(arms([0.1, 0.11, 0.12])) == "N(0, 1/d) × √d ends lowest"
    assert _lowest(arms([0.1, -0.1, 0.02])).endswith("end lowest and are not told apart")


def test_arms_are_compared_at_one_training_loss_and_at_the_better_rate() -> None:
    """Planted: new text is 0.3 nats worse without, at every training loss, and the arm without learns half as fast."""
    steps = range(1, 11)
    curves = pd.DataFrame([
        {"residual": residual, "seed": seed, "step": step, "training": 4 - speed * step, "loss": 4 - speed * step + extra}
        for seed in (0, 1) for residual, speed, extra in ((True, 0.2, 0.5), (False, 0.1, 0.8)) for step in steps
    ])  # fmt: skip
    worse, level = _effects_on_new_text(curves)
    assert worse.estimate == pytest.approx(0.3) and level.estimate == pytest.approx(3.0)
    deep = pd.DataFrame({"residual": [True, False, False], "seed": 0, "rate": [3e-3, 3e-3, 1e-3], "loss": [2.0, 3.0, 2.5]})
    assert _effects_of_depth(deep, 2.4)[0].estimate == pytest.approx(0.5)
