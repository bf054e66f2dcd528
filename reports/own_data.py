"""How do a researcher's own numbers become figures and tables? By their shape; what the numbers mean, only their owner can say."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from reports.figures import Bars, Figure, Heatmap, Lines, Series
from reports.result import Column, Table
from reports.text import format_number

Own = Figure | Table
_TAKEN = "a DataFrame, an array of one or two axes, a mapping of name to number or series, a Figure or a Table"


def own(name: str, value: object) -> Own:
    """The figure or table that shows a value.

    A DataFrame becomes a table without units, an array of two axes a heatmap, of one axis a line, a mapping of names to series lines
    over their index, a mapping of names to numbers bars. Figures and tables stay as they are: they can say what units they have.
    Tensors are taken as arrays.

    Raises:
        TypeError: for anything else, and for arrays that do not hold numbers.
        ValueError: for ragged arrays, series of different lengths, arrays of more than two axes, columns of one name.

    >>> type(own("entropy", np.zeros((2, 3)))).__name__, type(own("loss", {"a": [1, 2], "b": [3, 4]})).__name__
    ('Heatmap', 'Lines')
    """
    if isinstance(value, (Figure, Table)):
        return value
    if isinstance(value, pd.DataFrame):
        return _table(name, value)
    if isinstance(value, pd.Series):
        value = {str(value.name or name): value}
    if isinstance(value, Mapping):
        return _mapping(name, value)
    if isinstance(value, str) or not (hasattr(value, "__array__") or isinstance(value, (Sequence, int, float))):
        raise TypeError(f"{name!r} must be {_TAKEN}, got {type(value).__module__}.{type(value).__qualname__}")
    array = _numbers(name, value)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name!r} must be an array of one or two axes, got shape {array.shape}; choose what to show, or make an AttentionMap of it")
    return _heatmap(name, array) if array.ndim == 2 else _lines(name, np.arange(len(array)), {"": array}, "index")


def _table(name: str, frame: pd.DataFrame) -> Table:
    if not (isinstance(frame.index, pd.RangeIndex) and frame.index.name is None):
        frame = frame.reset_index()
    columns = [" · ".join(str(part) for part in column if str(part)) if isinstance(column, tuple) else str(column) for column in frame.columns]
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"the columns of {name!r} need different names, got {', '.join(twice)} more than once")
    frame = frame.set_axis(columns, axis=1)
    return Table(frame=frame, columns={column: Column(unit="", meaning="unit and meaning are not said") for column in columns}, caption="")


def _mapping(name: str, values: Mapping[object, object]) -> Figure:
    if not values:
        raise ValueError(f"{name!r} must hold at least one number or series, got an empty mapping")
    arrays = {str(key): _numbers(f"{name}: {key}", value) for key, value in values.items()}
    sizes = {key: array.shape for key, array in arrays.items()}
    if set(sizes.values()) == {()}:
        return _bars(name, arrays)
    if len(set(sizes.values())) > 1 or any(len(shape) != 1 for shape in sizes.values()):
        told = ", ".join(f"{key} {shape}" for key, shape in sizes.items())
        raise ValueError(f"the series of {name!r} must have one axis and one length, got shapes {told}")
    return _over_index(name, arrays, [value.index for value in values.values() if isinstance(value, pd.Series)])


def _over_index(name: str, arrays: Mapping[str, np.ndarray], indices: Sequence[pd.Index]) -> Figure:
    """Lines over the index that the series share; one series over words is bars."""
    if any(not index.equals(indices[0]) for index in indices):
        raise ValueError(f"the series of {name!r} must share one index; align them first, for example with pandas.concat")
    if not indices:
        return _lines(name, np.arange(len(next(iter(arrays.values())))), arrays, "index")
    if pd.api.types.is_numeric_dtype(indices[0].dtype):
        return _lines(name, indices[0].to_numpy(float), arrays, str(indices[0].name or "index"))
    if len(arrays) == 1:
        return _bars(name, dict(zip(map(str, indices[0]), next(iter(arrays.values())), strict=True)))
    raise TypeError(f"the series of {name!r} must have an index of numbers, got {indices[0].dtype}; make a DataFrame of them for a table")


def _numbers(name: str, value: object) -> np.ndarray:
    """Float[...]: any array, tensor or nested list of numbers."""
    if hasattr(value, "detach"):  # a tensor, on any device, of a type that numpy may not have
        value = value.detach().double().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        lengths = ", ".join(str(len(row)) if hasattr(row, "__len__") else "a number" for row in list(value)[:6]) if isinstance(value, Sequence) else "another"
        raise ValueError(f"{name!r} must have rows of one length, got lengths {lengths}") from error
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name!r} must hold numbers, got {array.dtype}")
    return array.astype(float)


def _heatmap(name: str, values: np.ndarray) -> Heatmap:
    rows, columns = values.shape
    place = ""
    if np.isfinite(values).any():
        row, column = np.unravel_index(np.nanargmax(np.where(np.isfinite(values), values, np.nan)), values.shape)
        place = f", the largest in row {row}, column {column}"
    return Heatmap(**_words(name, values, f"{rows} rows × {columns} columns", place), values=values, rows=list(map(str, range(rows))), signed=_signed(values),
                   columns=list(map(str, range(columns))), row_label="row", column_label="column", unit="1")


def _lines(name: str, x: np.ndarray, arrays: Mapping[str, np.ndarray], x_label: str) -> Lines:
    values = np.concatenate(list(arrays.values()))
    n = len(arrays)
    size = f"{len(x)} points" + (f" of {n} series" if n > 1 else "")
    return Lines(**_words(name, values, size), x=x, series={key: Series(y=array) for key, array in arrays.items()}, x_label=x_label, y_label="value",
                 markers=len(x) <= 24)


def _bars(name: str, values: Mapping[str, np.ndarray]) -> Bars:
    numbers = np.array([float(value) for value in values.values()])
    return Bars(**_words(name, numbers, f"{len(numbers)} values"), labels=list(values), values=numbers, unit="1", signed=_signed(numbers))


def _signed(values: np.ndarray) -> bool:
    return bool((values < 0).any() and (values > 0).any())


def _words(name: str, values: np.ndarray, size: str, place: str = "") -> dict[str, str]:
    """Name, title, caption and alt text of a figure whose owner gave nothing but a name."""
    finite = values[np.isfinite(values)]
    span = f"from {format_number(float(finite.min()))} to {format_number(float(finite.max()))}{place}" if finite.size else "none of them a number"
    gone = values.size - finite.size
    found = f"{size}, {span}" + (f"; {gone} without a value" if gone and finite.size else "")
    slug = "-".join(re.findall(r"[a-z0-9]+", name.lower())) or "figure"
    return {"name": slug, "title": found, "caption": f"{name}, as it was given; unit and meaning are not said.", "alt": f"{name}: {found}."}
