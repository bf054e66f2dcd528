"""How do scores depend on the distance between query and key? T5's buckets, ALiBi's slopes, Shaw's vectors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from model.config import TransformerConfig
from model.masks import EVERY, WHOLE
from model.places import Places, pick


@dataclass(frozen=True)
class Distances:
    """Position of the key minus position of the query, negative for what came before, written out for the queries that are asked for."""

    queries: Int[Tensor, "rows query"]
    keys: Int[Tensor, "rows key"]

    def rows(self, queries: slice = EVERY, keys: slice = EVERY) -> Int[Tensor, "rows query key"]:
        """Of some queries and keys."""
        return self.keys[:, None, keys] - self.queries[:, queries, None]

    def repeat(self, n: int) -> Distances:
        """Of n copies of the batch, one after another."""
        rows = (x if len(x) == 1 else x.repeat(n, 1) for x in (self.queries, self.keys))
        return Distances(*rows)

    def at(self, places: Places) -> Distances:
        """From the queries at some places."""
        return Distances(pick(self.queries, places), self.keys)


@dataclass(frozen=True)
class ScoreBias:
    """What is added to the scores of every layer: a function of the distances, written out for the queries that are asked for."""

    of: Callable[[Int[Tensor, "rows query key"]], Float[Tensor, "rows head query key"]]
    distances: Distances
    whole: Float[Tensor, "rows head query key"] | None = None
    """the bias written out, where it is small"""

    def rows(self, queries: slice = EVERY, keys: slice = EVERY) -> Float[Tensor, "rows head query key"]:
        """Of some queries and keys."""
        return self.of(self.distances.rows(queries, keys)) if self.whole is None else self.whole[:, :, queries, keys]

    def repeat(self, n: int) -> ScoreBias:
        """Of n copies of the batch, one after another."""
        whole = self.whole if self.whole is None or len(self.whole) == 1 else self.whole.repeat(n, 1, 1, 1)
        return replace(self, distances=self.distances.repeat(n), whole=whole)

    def at(self, places: Places) -> ScoreBias:
        """Of the queries at some places."""
        return replace(self, distances=self.distances.at(places), whole=pick(self.whole, places, 2))


def score_bias(of: Callable[[Tensor], Tensor], distances: Distances, n_heads: int) -> ScoreBias:
    """A bias that all layers share, made once where it is small."""
    bias = ScoreBias(of, distances)
    n_entries = n_heads * distances.queries.numel() * distances.keys.shape[1]
    return replace(bias, whole=bias.rows()) if n_entries <= WHOLE else bias


class BucketBias(nn.Module):
    """T5's bias: one learned number per head and bucket of distance, shared by all layers (Raffel et al. 2020, section 2.1).

    Half of the buckets hold one distance each, the rest grow logarithmically up to `max_distance`; an encoder spends half
    of them on keys that come later.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.n_buckets, self.max_distance, self.causal = config.n_buckets, config.max_distance, config.causal
        self.table = nn.Embedding(config.n_buckets, config.n_heads)

    def forward(self, distance: Int[Tensor, "rows query key"]) -> Float[Tensor, "rows head query key"]:
        return self.table(self.bucket(distance)).permute(0, 3, 1, 2)

    def bucket(self, distance: Int[Tensor, "rows query key"]) -> Int[Tensor, "rows query key"]:
        """The number of the bucket that a distance falls into."""
        n, offset = self.n_buckets, torch.zeros_like(distance)
        if self.causal:
            back = (-distance).clamp(min=0)
        else:
            n //= 2
            offset, back = (distance > 0).long() * n, distance.abs()
        exact = n // 2
        ratio = torch.log(back.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        coarse = (exact + (ratio * (n - exact)).long()).clamp(max=n - 1)
        return offset + torch.where(back < exact, back, coarse)


def alibi_slopes(n_heads: int) -> Float[Tensor, "head"]:
    """2^(−8h/n) for a power of two; otherwise those of the next smaller one, and every other of the next larger (Press et al. 2022)."""
    power = 2 ** math.floor(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (h + 1) / power) for h in range(power)]
    slopes += [2.0 ** (-4.0 * (2 * h + 1) / power) for h in range(n_heads - power)]
    return torch.tensor(slopes)


def alibi(distance: Int[Tensor, "rows query key"], n_heads: int) -> Float[Tensor, "rows head query key"]:
    """−slope · |distance|: a penalty that grows with distance, steeper in some heads."""
    return -alibi_slopes(n_heads).to(distance.device)[None, :, None, None] * distance.abs().unsqueeze(1)


class ShawVectors(nn.Module):
    """A learned vector per clipped distance, added to keys and to values (Shaw et al. 2018, eq. 3 and 4)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.reach = config.max_distance
        self.keys = nn.Embedding(2 * config.max_distance + 1, config.d_head)
        self.values = nn.Embedding(2 * config.max_distance + 1, config.d_head)

    def clipped(self, distance: Int[Tensor, "rows query key"]) -> Int[Tensor, "rows query key"]:
        """Which vector belongs to a distance."""
        return distance.clamp(-self.reach, self.reach) + self.reach
