"""What do the synthetic tasks of the studies share? So many batches, each drawn anew from the seed and its number alone."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from model.training.objectives import Batch


class Drawn(Sequence[Batch]):
    """`n_batches` that are made when they are read. Raises IndexError behind the last one, so that a loop over them ends."""

    n_batches: int

    def __len__(self) -> int:
        return self.n_batches

    def __getitem__(self, i: int) -> Batch:
        if not 0 <= i < self.n_batches:
            raise IndexError(i)
        return self.drawn(i)

    @abstractmethod
    def drawn(self, i: int) -> Batch:
        """Batch i."""
