"""Where in a corpus is a site most active? The tokens with the largest values, the same in whatever order they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.statistics._contract import Part, exact, to_numpy
from probes.statistics._sites import SiteStatistic, Tokens, tidy

Reduction = Literal["norm", "largest", "each"]
WHERE = ("example", "position", "token")


@dataclass(frozen=True, kw_only=True)
class TopExamples(SiteStatistic):
    """The k real tokens with the largest values at each site.

    The value of a token is its norm ‖x‖, its `largest` coordinate max |x|, or, with `each`, every coordinate x on its own,
    which then has a list of its own (the top activating examples of a neuron). Of equal values the earlier example and the
    earlier position come first. NaN never ranks.

    Columns: `site`, `layer`, `head` (of sites that have one), `unit` (with `each`), `positions` (all, without first), `rank`
    from 0, `example` (its number in the stream), `position` (among its real tokens, from 0), `token` (its id), `value` (in the
    unit of the site).

    Raises ValueError unless k is at least 1.

    >>> import torch; from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"top": TopExamples(at="blocks.1.mlp_out", k=2)})["top"]
    >>> table["rank"].tolist(), table["example"].unique().tolist()
    ([0, 1, 0, 1], [0])
    """

    k: int = 10
    reduction: Reduction = "norm"
    one_per_example: bool = False
    """at most the largest token of each example"""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k must be at least 1, got {self.k}")

    def finish(self) -> pd.DataFrame:
        rows = []
        for label, part in self._versions():
            *axes, _ = part["value"].shape
            for place in np.ndindex(*axes):
                head = {"head": place[0]} if len(axes) == 2 else {}
                unit = {"unit": place[-1]} if self.reduction == "each" else {}
                columns = [part[name][place].tolist() for name in (*WHERE, "value")]
                for rank, values in enumerate(values for values in zip(*columns, strict=True) if np.isfinite(values[-1])):
                    rows.append(label | head | unit | {"rank": rank} | dict(zip((*WHERE, "value"), values, strict=True)))
        return tidy(rows) if rows else pd.DataFrame(columns=["site", "layer", "positions", "rank", *WHERE, "value"])

    def _of(self, tokens: Tokens) -> Part:
        values = _reduced(tokens.values, self.reduction)  # token (head) unit
        where = torch.stack([getattr(tokens, name).to(values.device) for name in WHERE])
        if self.one_per_example and len(values):
            ends = torch.unique_consecutive(tokens.example, return_counts=True)[1].tolist()
            parts = [self._top(some, at, 1) for some, at in zip(values.split(ends), where.split(ends, dim=1), strict=True)]
            return self._kept({name: np.concatenate([part[name] for part in parts], axis=-1) for name in (*WHERE, "value")})
        return self._top(values, where, self.k)

    def _top(self, values: Float[Tensor, "token *axes"], where: Int[Tensor, "3 token"], k: int) -> Part:
        """The k first tokens in the order of value, then of place."""
        values = values.movedim(0, -1).nan_to_num(-torch.inf, torch.inf, -torch.inf)  # (head) unit token
        k = min(k, values.shape[-1])
        largest, chosen = values.topk(k, dim=-1)
        if k and bool(((values >= largest[..., -1:]).sum(-1) > k).any()):  # a tie at the end: topk picks any
            chosen = values.sort(dim=-1, descending=True, stable=True).indices[..., :k]
        part = {"value": to_numpy(values.gather(-1, chosen))}
        return self._kept(part | {name: to_numpy(of[chosen]) for name, of in zip(WHERE, where, strict=True)})

    def _join(self, a: Part, b: Part) -> Part:
        return self._kept({name: np.concatenate((a[name], b[name]), axis=-1) for name in a})

    def _kept(self, part: Part) -> Part:
        """The first k, in order."""
        if self.one_per_example:
            part = {**part, "value": _largest_of_each(part)}
        order = np.lexsort((part["position"], part["example"], -part["value"]), axis=-1)[..., : self.k]
        part = {name: np.take_along_axis(values, order, axis=-1) for name, values in part.items()}
        ranked = np.isfinite(part["value"]).any(axis=tuple(range(part["value"].ndim - 1)))  # NaN stands last, as −∞
        return {name: values[..., ranked] for name, values in part.items()}


def _largest_of_each(part: Part) -> Float[np.ndarray, "*axes token"]:
    """The values, −∞ where the same example has one that ranks before."""
    value, example, position = part["value"], part["example"], part["position"]
    same = example[..., :, None] == example[..., None, :]
    before = (value[..., None, :] > value[..., :, None]) | (
        (value[..., None, :] == value[..., :, None]) & (position[..., None, :] < position[..., :, None])
    )
    return np.where((same & before).any(-1), -np.inf, value)


def _reduced(values: Float[Tensor, "token *axes d"], reduction: Reduction) -> Float[Tensor, "token *axes unit"]:
    values = exact(values)
    if reduction == "norm":
        return values.norm(dim=-1, keepdim=True)
    return values.abs().amax(-1, keepdim=True) if reduction == "largest" else values


STATISTIC = TopExamples
