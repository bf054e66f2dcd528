"""What do all blocks share besides the residual stream? Masks, rotation tables, biases, the encoder's states, and the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from model.config import Rotary, Span
from model.masks import AttentionMask
from model.places import Places, pick
from model.relative import Distances, ScoreBias
from model.rotary import Rotation


@dataclass(frozen=True)
class CrossSource:
    """What a decoder's cross-attention reads: the encoder's final states, and which of them are real."""

    states: Float[Tensor, "batch source d_model"]
    mask: AttentionMask

    def repeat(self, n: int) -> CrossSource:
        """The same for n copies of the batch."""
        return CrossSource(self.states.repeat(n, 1, 1), self.mask.repeat(n))

    def at(self, places: Places) -> CrossSource:
        """The same for some places of the target."""
        return CrossSource(self.states, self.mask.at(places))


class KeyValueCache:
    """Keys and values of the tokens that have been read, by layer; cross-attention's once for all.

    `n_read` counts positions per row so far, padding included; `mask` marks the real ones, None where all are.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None
        self.n_read = 0
        self._kept: dict[tuple[int, str], tuple[Tensor, Tensor]] = {}

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep these, both Float[batch new head d_head], behind what is there, and give all."""
        if (old := self._kept.get((layer, "self"))) is not None:
            k, v = torch.cat((old[0], k), dim=1), torch.cat((old[1], v), dim=1)
        self._kept[layer, "self"] = (k, v)
        return k, v

    def own(self, layer: int) -> tuple[Tensor, Tensor]:
        """Self-attention's keys and values of a layer."""
        return self._kept[layer, "self"]

    def cross(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Cross-attention's keys and values of a layer, None before they were kept."""
        return self._kept.get((layer, "cross"))

    def keep_cross(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep cross-attention's keys and values."""
        self._kept[layer, "cross"] = (k, v)

    def select(self, rows: Int[Tensor, "rows"]) -> None:
        """Go on with these rows of the batch (beam search)."""
        self._kept = {key: (k[rows], v[rows]) for key, (k, v) in self._kept.items()}
        self.mask = None if self.mask is None else self.mask[rows]


@dataclass(frozen=True)
class Context:
    """What every block needs besides the residual stream.

    `masks` and `rotations` are keyed by the choice of the layer; `bias` is added to the scores; `distances` are there for
    Shaw's vectors; `real` marks real tokens for batch norm. `attended` holds the outputs of attentions that are known
    already, (layer, cross?) → Float[batch pos d_model]: these are not computed.
    """

    masks: Mapping[Span, AttentionMask]
    rotations: Mapping[Rotary, Rotation] = field(default_factory=dict)
    bias: ScoreBias | None = None
    distances: Distances | None = None
    real: Bool[Tensor, "batch pos"] | None = None
    source: CrossSource | None = None
    cache: KeyValueCache | None = None
    attended: Mapping[tuple[int, bool], Tensor] = field(default_factory=dict)

    def repeat(self, n: int) -> Context:
        """The context of n copies of the batch, one after another."""

        def rows(x: Tensor) -> Tensor:
            return x if x.shape[0] == 1 else x.repeat(n, *[1] * (x.dim() - 1))

        return replace(
            self, masks={span: mask.repeat(n) for span, mask in self.masks.items()},
            rotations={choice: (rows(cos), rows(sin)) for choice, (cos, sin) in self.rotations.items()},
            bias=None if self.bias is None else self.bias.repeat(n), distances=None if self.distances is None else self.distances.repeat(n),
            real=None if self.real is None else self.real.repeat(n, 1),
            source=None if self.source is None else self.source.repeat(n),
            attended={key: rows(out) for key, out in self.attended.items()},
        )

    def at(self, places: Places) -> Context:
        """The context of some places: of their queries, over all keys."""
        return replace(
            self, masks={span: mask.at(places) for span, mask in self.masks.items()},
            rotations={choice: (pick(cos, places), pick(sin, places)) for choice, (cos, sin) in self.rotations.items()},
            bias=None if self.bias is None else self.bias.at(places), distances=None if self.distances is None else self.distances.at(places),
            real=pick(self.real, places), source=None if self.source is None else self.source.at(places),
            attended={key: pick(out, places) for key, out in self.attended.items()},
        )
