"""How is a model trained? Every number of a training run is a field, checked when the recipe is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from model.choices import one_of
from model.training.schedules import Decay, cosine, inverse_sqrt, ramp

Autocast = Literal["bfloat16"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of a training run with AdamW (Loshchilov & Hutter 2019).

    A step is one update: `accumulate` batches on each process, whose gradients are those of one batch of all their tokens.

    >>> Recipe(steps=100, learning_rate=1e-3, warmup=10).learning_rate_at(5)
    0.0005
    >>> Recipe(steps=100, learning_rate=1e-3, warmup=100)
    Traceback (most recent call last):
    ...
    ValueError: the warm-up must end before the last step, got warmup=100, steps=100
    """

    steps: int
    learning_rate: float
    """the peak, at the end of the warm-up"""
    warmup: int = 0
    """steps of linear growth"""
    decay: Decay = "cosine"
    """after the warm-up: to 0 at the last step, as 1/√step, or not at all"""
    weight_decay: float = 0.01
    """per unit of learning rate, of matrices only: not of biases, gains and embeddings"""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    """the largest norm of the gradient of all parameters together; None does not clip"""
    accumulate: int = 1
    """batches per step and process"""
    label_smoothing: float = 0.0
    """ε of (1 − ε) · cross-entropy + ε · mean over the vocabulary of −ln p, in training only (Szegedy et al. 2016)"""
    autocast: Autocast | None = None
    """products in that number format; the parameters stay in theirs"""
    evaluate_every: int | None = None
    """steps between two evaluations; None evaluates after the last step only"""
    patience: int | None = None
    """evaluations in a row without a new best after which training ends; None never ends early"""
    checkpoint_every: int | None = None
    """steps between two checkpoints; None writes one after the last step only"""
    shuffle: bool = True
    """a new order of the batches in every pass over them"""
    seed: int = 0
    """of the order of the batches, of dropout and of masking; not of the weights"""

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        one_of(self, "decay", Decay)
        if self.autocast is not None:
            one_of(self, "autocast", Autocast)
        for name in ("steps", "accumulate", "evaluate_every", "patience", "checkpoint_every"):
            _whole(name, getattr(self, name), 1, optional=name not in ("steps", "accumulate"))
        _whole("warmup", self.warmup, 0)
        _whole("seed", self.seed, 0)
        for name in ("learning_rate", "eps", "clip_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {name}={value!r}")
        if not self.weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got weight_decay={self.weight_decay!r}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are two numbers from 0 to below 1, got betas={self.betas!r}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share below 1, got label_smoothing={self.label_smoothing!r}")
        if self.warmup >= self.steps:
            raise ValueError(f"the warm-up must end before the last step, got warmup={self.warmup}, steps={self.steps}")

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 1."""
        if self.decay == "cosine":
            return cosine(step, peak=self.learning_rate, warmup=self.warmup, steps=self.steps)
        if self.decay == "inverse_sqrt":
            return inverse_sqrt(step, peak=self.learning_rate, warmup=self.warmup)
        return self.learning_rate * ramp(step, self.warmup)


def _whole(name: str, value: int | None, least: int, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}{' or None' if optional else ''}, got {name}={value!r}")
