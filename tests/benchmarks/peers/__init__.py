"""Which ways of doing it are compared? One file each, found by listing the folder; a file exports PEER."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tests.benchmarks.problems import Problem

Kind = Literal["ablation", "patching", "forward", "recording"]
Job = Callable[[], Tensor]
"""What is timed. Of an ablation or patching: Float[edits batch]; of a forward pass: logits; of a recording: Float[layers batch] of the
last position's first coordinate"""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One way of doing it: a name, how it works in a few words, and for each kind of problem what prepares a run."""

    name: str
    how: str
    package: str | None = None
    """the distribution whose version the report says"""
    scales: bool = True
    """is its cost the same for every block, so that some blocks stand for all?"""
    jobs: Mapping[Kind, Callable[[Problem], Job]] = field(default_factory=dict)
    models: tuple[str, ...] = ("smollm2", "minilm", "g2p")


def peers() -> dict[str, Peer]:
    """Every peer by the name of its file."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return {name: importlib.import_module(f"{__name__}.{name}").PEER for name in names}


def last_states(states: Any) -> Tensor:
    """Of every recorded residual stream the first coordinate at the last position: enough to compare."""
    return torch.stack([x[:, -1, 0] for x in states])
