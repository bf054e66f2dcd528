"""Which keys may each query of a pattern see, and where does each stand in its sequence?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Pattern = Float[Tensor, "batch head query key"]
Mask = Bool[Tensor, "batch pos"] | None
Without = Literal["nothing", "first", "ends"]
"""Which real keys a score leaves out: none, the first, or the first and the last."""


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """What the queries of a pattern may look at.

    `kind` is "causal" (a query sees itself and earlier tokens), "full" (all tokens of its sequence), or "cross" (all
    tokens of another sequence). `mask` is True at the queries' real tokens, which in self-attention are also the keys;
    `key_mask` at the keys of cross-attention. None: all are real. `span` says which keys a local attention allows,
    None where it allows all.

    Raises ValueError for a `key_mask` in self-attention.

    >>> mask = torch.tensor([[True, True, False]])
    >>> View(kind="full", mask=mask).visible(torch.zeros(1, 1, 3, 3)).int()[0, 0]
    tensor([[1, 1, 0],
            [1, 1, 0],
            [0, 0, 0]], dtype=torch.int32)
    >>> View(kind="cross", mask=mask).visible(torch.zeros(1, 1, 3, 2)).int()[0, 0]
    tensor([[1, 1],
            [1, 1],
            [0, 0]], dtype=torch.int32)
    """

    kind: Literal["causal", "full", "cross"] = "causal"
    mask: Mask = None
    key_mask: Mask = None
    span: Bool[Tensor, "rows 1 query key"] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("causal", "full", "cross"):
            raise ValueError(f"kind must be 'causal', 'full' or 'cross', got {self.kind!r}")
        if self.key_mask is not None and self.kind != "cross":
            raise ValueError(
                f"the keys of self-attention have the mask of its queries: leave key_mask out, or give kind='cross', got kind={self.kind!r}"
            )

    @property
    def one_sequence(self) -> bool:
        """Are queries and keys the same tokens? Only then is there a distance between them."""
        return self.kind != "cross"

    def visible(self, pattern: Pattern) -> Bool[Tensor, "rows 1 query key"]:
        """True where a real query may look. `rows` is 1 where nothing is masked.

        Raises ValueError for a pattern of self-attention that is not square.
        """
        n_query, n_key = pattern.shape[-2:]
        if self.one_sequence and n_query != n_key:
            raise ValueError(
                f"a pattern of self-attention is square, got {n_query} queries and {n_key} keys; cross-attention is View(kind='cross')"
            )
        seen = torch.ones(n_query, n_key, dtype=torch.bool, device=pattern.device)
        seen = (seen.tril() if self.kind == "causal" else seen)[None, None]
        keys = self._key_mask()
        for real in (
            None if keys is None else keys[:, None, None, :],
            None if self.mask is None else self.mask[:, None, :, None],
            self.span,
        ):
            seen = seen if real is None else seen & real
        return seen

    def query_positions(self, pattern: Pattern) -> Int[Tensor, "rows query"]:
        """The number of each query among the real ones, from 0; what padding has is not to be used."""
        return _numbered(self.mask, pattern.shape[-2], pattern.device)

    def key_positions(self, pattern: Pattern) -> Int[Tensor, "rows key"]:
        """The same of the keys."""
        return _numbered(self._key_mask(), pattern.shape[-1], pattern.device)

    def offsets(self, pattern: Pattern) -> Int[Tensor, "rows 1 query key"]:
        """Position of the query less that of the key."""
        return self.query_positions(pattern)[:, None, :, None] - self.key_positions(pattern)[:, None, None, :]

    def first_key(self, pattern: Pattern) -> Bool[Tensor, "rows 1 1 key"]:
        """True at the first real key."""
        first, real = self.key_positions(pattern) == 0, self._key_mask()
        return (first if real is None else first & real)[:, None, None, :]

    def last_key(self, pattern: Pattern) -> Bool[Tensor, "rows 1 1 key"]:
        """True at the last real key."""
        where, real = self.key_positions(pattern), self._key_mask()
        last = where == where.amax(-1, keepdim=True)
        return (last if real is None else last & real)[:, None, None, :]

    def left_out(self, pattern: Pattern, without: Without) -> Bool[Tensor, "rows 1 1 key"]:
        """True at the keys that a score leaves out. Raises ValueError for an unknown choice."""
        if without == "nothing":
            return torch.zeros_like(self.first_key(pattern))
        if without == "first":
            return self.first_key(pattern)
        if without == "ends":
            return self.first_key(pattern) | self.last_key(pattern)
        raise ValueError(f"without must be 'nothing', 'first' or 'ends', got {without!r}")

    def _key_mask(self) -> Mask:
        return self.key_mask if self.kind == "cross" else self.mask


def _numbered(mask: Mask, n: int, device: torch.device) -> Int[Tensor, "rows pos"]:
    return torch.arange(n, device=device)[None] if mask is None else (mask.long().cumsum(1) - 1).clamp(min=0)
