"""How is a pattern read without writing it out? A few queries at a time, with the model's own mask, bias and scale."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from model.masks import AttentionMask, Sight, chunks
from model.sites import Site, _add

Score = Callable[[slice, slice], Float[Tensor, "batch head query key"]]
Mix = Callable[[Float[Tensor, "batch head query key"], slice, slice], Float[Tensor, "batch head query d_head"]]


class PatternRows:
    """The pattern of one attention in one forward pass, computed for the queries that are asked for, in fp32 at least.

    `score(queries, keys)` gives scores before the mask. Keys outside of `reach(queries)` are hidden from all of them, and what
    is given for some queries is over the keys of their reach. With `mix(pattern, queries, keys)`, which gives rows of z, those
    of the queries that are read are kept, so that the forward pass need not compute the pattern a second time.
    """

    def __init__(self, score: Score, mask: AttentionMask, entries_per_query: int, mix: Mix | None = None) -> None:
        self._score, self._mask, self._mix, self._entries_per_query = score, mask, mix, entries_per_query
        self._z: dict[int, tuple[slice, Tensor]] = {}

    @property
    def n_query(self) -> int:
        """How many queries there are."""
        return self._mask.queries.shape[1]

    def chunks(self, limit: int) -> list[slice]:
        """Consecutive queries for which at most `limit` numbers are in memory at once, but one query at least."""
        return chunks(self.n_query, self._entries_per_query, limit)

    def reach(self, queries: slice) -> slice:
        """Keys outside of which none of these queries sees any."""
        return self._mask.reach(queries)

    def read(
        self, queries: slice
    ) -> tuple[Float[Tensor, "batch head query key"], Float[Tensor, "batch head query key"], Sight]:
        """α and ln α over the keys of the reach, the reader's own, and what each query may see of these keys.

        At hidden keys α is 0 and ln α a large negative number, so that α ln α is 0. Rows of queries that see nothing hold
        nothing meaningful.
        """
        keys = self.reach(queries)
        scores, sight = self._score(queries, keys), Sight(self._mask, queries, keys)
        some = sight.partial  # most keys are seen by all of these queries: the others are filled
        if some.stop > some.start:
            scores[..., some].masked_fill_(sight.hidden, torch.finfo(scores.dtype).min / 2)
        log_alpha = torch.log_softmax(scores, -1, out=scores)  # in place: fresh memory costs as much as the softmax
        alpha = log_alpha.exp()
        if self._mix is not None and queries.start not in self._z:
            self._z[queries.start] = queries, self._mix(alpha, queries, keys)
        return alpha, log_alpha, sight

    def z(self) -> Float[Tensor, "batch head query d_head"] | None:
        """What the attention gives, from the rows that were read; None unless they were all queries, each once."""
        parts = [self._z[start] for start in sorted(self._z)]
        ends = [0, *(queries.stop for queries, _ in parts)]
        whole = [queries.start for queries, _ in parts] == ends[:-1] and ends[-1] == self.n_query
        return torch.cat([z for _, z in parts], dim=2) if whole else None


class PatternSite(Site):
    """A pattern's site, which can also be watched by rows: then it is not written out."""

    def __init__(self) -> None:
        super().__init__("pattern")
        self._row_watchers: dict[object, Callable[[PatternRows], None]] = {}

    def watch_rows(self, look: Callable[[PatternRows], None]) -> Callable[[], None]:
        """Show `look` the pattern of every pass as `PatternRows` until the returned function is called."""
        return _add(self._row_watchers, look)

    @property
    def watched_by_rows(self) -> bool:
        """Does anybody look at the pattern by rows?"""
        return bool(self._row_watchers)

    def show(self, rows: PatternRows) -> None:
        """Show the rows to everybody who watches them."""
        for look in tuple(self._row_watchers.values()):
            look(rows)

    def _get_name(self) -> str:
        return "Site"
