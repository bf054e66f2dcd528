"""How do Hugging Face configs say how queries and keys are turned? Two generations of keys, one meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.architectures._keys import Keys
from model.config import Rotary, RotaryScaling

SCALING = {
    "default": set(),
    "linear": {"factor"},
    "llama3": {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "truncate"},
}
"""Kinds of scaling, and the keys of each."""


def read_rotary(keys: Keys, *, d_head: int = 0, base: str = "rope_theta", part: str = "partial_rotary_factor") -> Rotary:
    """The rotation, wherever this version of the config keeps it.

    `d_head` is given by a family that may turn a part of each head only. Raises ValueError for a scaling that is not known.
    """
    values = {**(keys.take("rope_scaling", None) or {}), **(keys.take("rope_parameters", None) or {})}
    theta, fraction = keys.take(base, None), keys.take(part, None) if d_head else None
    if theta is not None:
        values = {"rope_theta": theta, **values}
    if fraction is not None:
        values = {"partial_rotary_factor": fraction, **values}
    return rotary_of(values, keys.family, n_ctx=keys.peek("max_position_embeddings", 0), d_head=d_head)


def rotary_of(values: Mapping[str, Any], family: str, *, n_ctx: int, d_head: int = 0) -> Rotary:
    """A rotation from its own keys (`rope_type`, `rope_theta`, `factor`, …)."""
    kind = values.get("rope_type", values.get("type", "default")) or "default"
    if kind not in SCALING or values.get("mscale"):
        raise ValueError(
            f"{family} config has the rotary scaling {kind!r}, which is not supported; known are default, linear, yarn (without "
            f"mscale), llama3"
        )
    understood = {"rope_type", "type", "rope_theta"} | SCALING[kind] | ({"partial_rotary_factor"} if d_head else set())
    if unknown := [key for key, value in values.items() if key not in understood and value is not None]:
        raise ValueError(
            f"{family} config has the rotary key {unknown[0]!r} (value {values[unknown[0]]!r}), which is not understood for {kind!r} "
            f"scaling"
        )
    dims = int(d_head * values["partial_rotary_factor"]) if values.get("partial_rotary_factor") else None
    return Rotary(base=float(values.get("rope_theta", 10000.0)), dims=dims, scaling=_scaling(kind, values, n_ctx))


def _scaling(kind: str, values: Mapping[str, Any], n_ctx: int) -> RotaryScaling | None:
    original = values.get("original_max_position_embeddings") or n_ctx
    if kind == "linear":
        return RotaryScaling(kind="linear", factor=values["factor"])
    if kind == "llama3":
        return RotaryScaling(
            kind="llama3", factor=values["factor"], original_n_ctx=original,
            low_freq_factor=values["low_freq_factor"], high_freq_factor=values["high_freq_factor"],
        )
    if kind == "yarn":
        return RotaryScaling(
            kind="yarn", factor=values["factor"], original_n_ctx=original, attention_factor=values.get("attention_factor"),
            beta_fast=values.get("beta_fast") or 32.0, beta_slow=values.get("beta_slow") or 1.0, truncate=values.get("truncate", True),
        )
    return None
