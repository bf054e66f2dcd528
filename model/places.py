"""Some places of a sequence: from one on, the same in every row, or places of each row's own."""

from __future__ import annotations

from typing import TypeVar

from jaxtyping import Int
from torch import Tensor

Places = slice | Int[Tensor, "batch read"]
"""`slice(first, None)`, or the numbers of places for each row"""

Values = TypeVar("Values", Tensor, None)


def pick(x: Values, places: Places, dim: int = 1) -> Values:
    """The values at some places of an axis; one row for all becomes a row for each where the rows differ.

    >>> import torch
    >>> pick(torch.tensor([[5, 6, 7]]), torch.tensor([[2], [0]])).tolist(), pick(torch.tensor([[5, 6, 7]]), slice(1, None)).tolist()
    ([[7], [5]], [[6, 7]])
    """
    if x is None:
        return None
    if isinstance(places, slice):
        return x[(slice(None),) * dim + (places,)]
    if len(x) == 1:
        x = x.expand(len(places), *x.shape[1:])
    shape = [len(places) if i == 0 else places.shape[1] if i == dim else 1 for i in range(x.dim())]
    wide = [len(places) if i == 0 else places.shape[1] if i == dim else n for i, n in enumerate(x.shape)]
    return x.gather(dim, places.view(shape).expand(wide))
