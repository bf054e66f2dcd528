"""Which models do the tests look at? Trained ones that ship in packages, and small random ones of every family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import transformers

from model import Transformer, load_model, wrap
from model.architectures import architectures

FAMILIES = [pytest.param((name, i), id=f"{name}-{i}") for name, family in architectures().items() for i in range(len(family.random_configs))]
"""Every family, with each of its odd-sized random configs."""


@pytest.fixture(scope="session", autouse=True)
def first_parallel_attention() -> None:
    """The first parallel attention of a process may round otherwise than all later ones (see `analyses._runs`): not in a test."""
    x = torch.ones(8, 8, 64, 64)
    torch.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def hugging_face(name: str, i: int) -> torch.nn.Module:
    """A small random model by the family's own implementation, with weights large enough that every path matters."""
    family = architectures()[name]
    values = {"attn_implementation": "eager", **family.random_configs[i]}
    config = transformers.AutoConfig.for_model(name, **values)
    model = getattr(transformers, family.transformers_class)._from_config(config).eval()
    generator = torch.Generator().manual_seed(i)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise * 0.25 if parameter.dim() > 1 else 1.0 + 0.2 * noise)
    return model


@dataclass(frozen=True)
class Pair:
    """A foreign model and ours around its parameters."""

    theirs: Any
    ours: Transformer

    def tokens(self, batch: int, pos: int, seed: int = 0) -> torch.Tensor:
        return torch.randint(self.ours.config.d_vocab, (batch, pos), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Pair:
    theirs = hugging_face(*request.param)
    return Pair(theirs, wrap(theirs))


@pytest.fixture(scope="session")
def glasslm() -> Transformer:
    return load_model("glasslm")


@pytest.fixture(scope="session")
def smollm2() -> Transformer:
    return load_model("smollm2")


def relative(got: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest expected value."""
    return float((got - expected).abs().max() / expected.abs().max())
