"""Do the schedules follow their formulas?"""

from __future__ import annotations

import math

import pytest

from model.training import Recipe
from model.training.schedules import cosine, inverse_sqrt, ramp, vaswani_peak


@pytest.mark.parametrize("step", [1, 7, 4000, 4001, 100_000])
def test_inverse_square_root_is_that_of_the_paper(step: int) -> None:
    d_model, warmup = 512, 4000
    paper = d_model**-0.5 * min(step**-0.5, step * warmup**-1.5)
    assert inverse_sqrt(step, peak=vaswani_peak(d_model, warmup), warmup=warmup) == pytest.approx(paper, rel=1e-12)


def test_inverse_square_root_without_warm_up() -> None:
    assert [inverse_sqrt(step, peak=2.0, warmup=0) for step in (1, 4, 16)] == [2.0, 1.0, 0.5]


def test_cosine_at_its_ends_and_quarter() -> None:
    at = {step: cosine(step, peak=3.0, warmup=10, steps=50, floor=1.0) for step in (5, 10, 20, 30, 50, 80)}
    assert at[5] == 1.5 and at[10] == 3.0
    assert at[20] == pytest.approx(1 + (1 + math.cos(math.pi / 4)))
    assert at[30] == pytest.approx(2.0) and at[50] == pytest.approx(1.0) and at[80] == pytest.approx(1.0)


def test_without_decay_the_rate_stays() -> None:
    recipe = Recipe(steps=10, learning_rate=0.5, warmup=2, decay="none")
    assert [recipe.learning_rate_at(step) for step in (1, 2, 9)] == [0.25, 0.5, 0.5]


def test_steps_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1, got step=0"):
        ramp(0, 4)
    with pytest.raises(ValueError, match="at least 0, got warmup=-1"):
        ramp(1, -1)
    with pytest.raises(ValueError, match="got warmup=5, steps=5"):
        cosine(1, peak=1.0, warmup=5, steps=5)


@pytest.mark.parametrize(("field", "value", "message"), [
    ("steps", 0, "steps must be a whole number of at least 1, got steps=0"),
    ("accumulate", 1.5, "accumulate must be a whole number of at least 1, got accumulate=1.5"),
    ("evaluate_every", 0, "evaluate_every must be a whole number of at least 1 or None, got evaluate_every=0"),
    ("patience", -1, "patience must be a whole number of at least 1 or None, got patience=-1"),
    ("checkpoint_every", True, "checkpoint_every must be a whole number of at least 1 or None, got checkpoint_every=True"),
    ("warmup", -2, "warmup must be a whole number of at least 0, got warmup=-2"),
    ("warmup", 10, "the warm-up must end before the last step, got warmup=10, steps=10"),
    ("seed", -1, "seed must be a whole number of at least 0, got seed=-1"),
    ("learning_rate", 0.0, "learning_rate must be positive, got learning_rate=0.0"),
    ("clip_norm", -1.0, "clip_norm must be positive, got clip_norm=-1.0"),
    ("eps", 0.0, "eps must be positive, got eps=0.0"),
    ("weight_decay", -0.1, "weight_decay must be at least 0, got weight_decay=-0.1"),
    ("betas", (0.9, 1.0), r"betas are two numbers from 0 to below 1, got betas=\(0.9, 1.0\)"),
    ("label_smoothing", 1.0, "label_smoothing is a share below 1, got label_smoothing=1.0"),
    ("decay", "linear", "decay must be one of inverse_sqrt, cosine, none, got 'linear'"),
    ("autocast", "float16", "autocast must be one of bfloat16, got 'float16'"),
])
def test_a_recipe_says_what_is_wrong_with_it(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**{"steps": 10, "learning_rate": 1e-3, field: value})
