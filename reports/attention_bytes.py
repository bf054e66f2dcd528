"""How is attention kept in few bytes? One byte per value of √p, key after key, without what a causal mask hides, deflated, base64.

√p spreads the small probabilities, of which attention mostly consists: the error is largest near 1, where it is 1/254 at most. Key after
key, because neighbouring queries look alike at the same key, which deflate finds.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

_LEVELS, _MISSING = 254, 255


@dataclass(frozen=True, kw_only=True)
class Code:
    """What a byte means: 0 to 254 are 0 to `top`, or −`top` to `top` where values are signed; 255 is no value."""

    top: float = 1.0
    signed: bool = False

    def encode(self, values: np.ndarray) -> np.ndarray:
        """UInt8[...] of Float[...]; what is not finite has no value."""
        floats = np.asarray(values, dtype=float)
        there = np.isfinite(floats)
        shares = np.where(there, floats, 0.0) / self.top
        roots = np.sign(shares) * np.sqrt(np.minimum(np.abs(shares), 1.0))
        levels = (_LEVELS / 2) * (1 + roots) if self.signed else _LEVELS * roots
        return np.where(there, np.rint(levels), _MISSING).astype(np.uint8)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """Float[...] of UInt8[...], NaN where there is no value.

        >>> code = Code()
        >>> code.decode(code.encode(np.array([0.0, 0.765, 1.0, np.nan]))).round(3)
        array([0.   , 0.764, 1.   ,   nan])
        """
        levels = np.asarray(codes, dtype=float)
        roots = 2 * levels / _LEVELS - 1 if self.signed else levels / _LEVELS
        return np.where(codes == _MISSING, np.nan, np.sign(roots) * roots**2 * self.top)


def code_of(values: Iterable[np.ndarray]) -> Code:
    """The code that holds all of these: probabilities as they are, larger values by the largest, signed where one is below 0."""
    low, high = 0.0, 1.0
    for array in values:
        finite = np.asarray(array, dtype=float)
        finite = finite[np.isfinite(finite)]
        low, high = min(low, finite.min(initial=0.0)), max(high, np.abs(finite).max(initial=0.0))
    return Code(top=float(high), signed=bool(low < 0))


def packed(maps: np.ndarray, *, triangle: bool) -> str:
    """[..., query, key] of any numbers as text; of a `triangle` only the keys up to the query.

    >>> packed(np.array([[1, 0], [2, 3]], dtype=np.uint8), triangle=True)
    'eNpjZGIGAAANAAc='
    """
    transposed = np.swapaxes(np.asarray(maps), -1, -2)  # key query
    kept = transposed[..., *np.triu_indices(maps.shape[-1])] if triangle else transposed
    return base64.b64encode(zlib.compress(np.ascontiguousarray(kept).tobytes(), 9)).decode("ascii")


def unpacked(text: str, shape: tuple[int, ...], dtype: np.typing.DTypeLike, *, triangle: bool) -> np.ndarray:
    """The [..., query, key] that `packed` was given; 0 above a `triangle`."""
    flat = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype=dtype)
    *before, queries, keys = shape
    transposed = np.zeros((*before, keys, queries), dtype=dtype)
    if triangle:
        transposed[..., *np.triu_indices(keys)] = flat.reshape(*before, keys * (keys + 1) // 2)
    else:
        transposed[...] = flat.reshape(transposed.shape)
    return np.swapaxes(transposed, -1, -2)


def block_of(count: int, most: int) -> int:
    """How many tokens stand together so that at most `most` blocks are left.

    >>> block_of(256, 32), block_of(5, 32), block_of(33, 32)
    (8, 1, 2)
    """
    return max(1, -(-count // most))


def pooled(pattern: np.ndarray, most: int) -> np.ndarray:
    """Float[query block, key block] of Float[..., query, key]: what the queries of a block give the keys of a block on average.

    The mean over queries of the sum over keys: rows that sum to 1 still do. Missing values are left out; a block of nothing else is NaN.

    >>> pooled(np.array([[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]), 2)
    array([[1. , 0. ],
           [0.5, 0.5]])
    """
    queries, keys = pattern.shape[-2:]
    if queries <= most and keys <= most or not pattern.size:
        return np.asarray(pattern)
    starts = [np.arange(0, count, block_of(count, most)) for count in (queries, keys)]
    floats = np.asarray(pattern, dtype=float)
    there = np.isfinite(floats)
    mass, cells = (np.add.reduceat(x, starts[1], axis=-1, dtype=float) for x in (np.where(there, floats, 0.0), there))
    mass, rows = (np.add.reduceat(x, starts[0], axis=-2, dtype=float) for x in (mass, cells > 0))
    return np.divide(mass, rows, out=np.full(mass.shape, np.nan), where=rows > 0)
