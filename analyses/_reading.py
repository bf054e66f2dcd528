"""How does an analysis read and sweep its examples? Whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pandas as pd

from analyses._anatomy import Inputs, Model
from probes import read_stream
from probes.statistics import Part, Statistic


def read_whole(model: Model, inputs: Inputs, statistics: Mapping[str, Statistic], *, batch_size: int) -> dict[str, Mapping[str, Part]]:
    """The state of every statistic after all examples. Raises KeyboardInterrupt where it was interrupted: half of a text is no result."""
    reading = read_stream(model, batches(inputs, batch_size), statistics, progress=False)
    if not reading.complete:
        raise KeyboardInterrupt
    return {name: statistic.state for name, statistic in reading.statistics.items()}


def whole(swept: pd.DataFrame) -> pd.DataFrame:
    """The rows of a sweep. Raises KeyboardInterrupt where it was interrupted: some of the edits are no result.

    >>> table = pd.DataFrame({"effect": [0.0]})
    >>> table.attrs["complete"] = True
    >>> len(whole(table))
    1
    """
    if not swept.attrs["complete"]:
        raise KeyboardInterrupt
    return swept


def batches(inputs: Inputs, size: int) -> Iterator[Inputs]:
    """The examples, so many at a time."""
    for first in range(0, len(inputs[0]), size):
        yield tuple(None if part is None else part[first : first + size] for part in inputs)
