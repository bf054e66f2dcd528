"""What can be chosen in a Transformer? The closed choices, and the small groups of numbers that belong together."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Positions = Literal["sinusoidal", "learned", "shaw", "t5", "alibi", "rotary", "none"]
Score = Literal["dot", "additive"]
NormKind = Literal["layer", "rms", "batch", "none"]
NormPlace = Literal["pre", "post", "sandwich", "output"]
QKNorm = Literal["none", "head", "all"]
Activation = Literal["relu", "gelu", "gelu_tanh", "gelu_quick", "silu", "tanh"]
Head = Literal["lm", "mlm", "none"]
ScalingKind = Literal["linear", "ntk", "yarn", "llama3"]
SpanKind = Literal["all", "window", "block"]
PairLayout = Literal["halves", "adjacent"]


def one_of(config: object, name: str, kind: Any) -> None:
    """Raise ValueError unless the field holds one of the choices."""
    if getattr(config, name) not in get_args(kind):
        raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(config, name)!r}")


@dataclass(frozen=True, kw_only=True)
class RotaryScaling:
    """How the rotation is stretched to a longer context than it was trained on.

    `linear` divides every angle by `factor` (Chen et al. 2023), `ntk` raises the base instead (bloc97 2023), `yarn` mixes both
    by frequency and warms the softmax (Peng et al. 2023), `llama3` stretches low frequencies only (Grattafiori et al. 2024).
    """

    kind: ScalingKind
    factor: float
    original_n_ctx: int = 0
    """positions that the model was trained on; yarn and llama3 measure wavelengths by it"""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """yarn's factor on cosine and sine; None is 0.1 ln(factor) + 1"""
    truncate: bool = True
    """yarn rounds the ends of its ramp to whole dimensions"""

    def __post_init__(self) -> None:
        one_of(self, "kind", ScalingKind)
        if not self.factor >= 1:
            raise ValueError(f"a rotation is stretched by a factor of at least 1, got factor={self.factor}")
        if self.kind in ("yarn", "llama3") and self.original_n_ctx < 1:
            raise ValueError(f"{self.kind} scaling needs original_n_ctx, the positions of the training, got {self.original_n_ctx}")


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """How queries and keys are turned: position p turns pair i by p · base^(−2i/dims) (Su et al. 2021)."""

    base: float = 10000.0
    dims: int | None = None
    """how many dimensions of each head are turned; None is all"""
    pairs: PairLayout = "halves"
    """pair i is (i, i + dims/2), or (2i, 2i + 1)"""
    scaling: RotaryScaling | None = None

    def __post_init__(self) -> None:
        one_of(self, "pairs", PairLayout)
        if not self.base > 0:
            raise ValueError(f"the rotary base must be positive, got base={self.base}")
        if self.dims is not None and (self.dims < 2 or self.dims % 2):
            raise ValueError(f"a rotation turns pairs, so dims must be even and at least 2, got dims={self.dims}")


@dataclass(frozen=True, kw_only=True)
class Span:
    """How far attention reaches, besides causality: everywhere; a `window` of `size` positions; `block`s of `size`, with the
    first `n_global` positions seeing and seen by all (Beltagy et al. 2020; Child et al. 2019)."""

    kind: SpanKind = "all"
    size: int = 0
    n_global: int = 0

    def __post_init__(self) -> None:
        one_of(self, "kind", SpanKind)
        if (self.kind == "all") != (self.size == 0):
            raise ValueError(f"a span of kind {self.kind!r} {'takes no' if self.kind == 'all' else 'needs a'} size, got size={self.size}")
        if self.size < 0 or self.n_global < 0 or (self.n_global and self.kind != "block"):
            raise ValueError(
                f"n_global counts the global tokens of a block span, got kind={self.kind!r}, size={self.size}, n_global={self.n_global}"
            )


@dataclass(frozen=True, kw_only=True)
class Dropout:
    """Probabilities of dropping, at the places of the paper (Vaswani et al. 2017, section 5.4) and of its descendants."""

    embed: float = 0.0
    pattern: float = 0.0
    sublayer: float = 0.0
    """what attention and feed-forward network add to the stream"""
    mlp: float = 0.0
    """hidden units of the feed-forward network"""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) < 1:
                raise ValueError(f"dropout is a probability below 1, got {field.name}={getattr(self, field.name)}")
