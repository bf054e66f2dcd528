"""How is a grid of colours kept in an SVG picture? As one PNG pixel per value, which the reader's browser enlarges with sharp edges.

matplotlib would enlarge the grid itself and keep hundreds of pixels per value, or a path for each; this is twenty times smaller.
"""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas

_ENOUGH = 2
"""Values per CSS pixel beyond which a grid is averaged."""
BACKDROP = "backdrop"
"""The gid of what stands behind a grid and is seen where the grid has no colour."""


def bitmaps(canvas: Canvas) -> str:
    """The grids of a painted canvas as SVG elements, in CSS pixels; they are hidden from matplotlib's own writer."""
    found = []
    for panel in canvas.axes:
        for patch in panel.patches:
            if patch.get_gid() == BACKDROP:
                found.append(f'<rect {_place(canvas, panel)} style="fill: {to_hex(patch.get_facecolor())}"/>')
                patch.set_visible(False)
        for grid in (*panel.images, *(part for part in panel.collections if isinstance(part, QuadMesh))):
            found.append(_element(canvas, panel, grid))
            grid.set_visible(False)
    return "".join(found)


def _element(canvas: Canvas, panel: Axes, grid: Artist) -> str:
    colors = grid.to_rgba(grid.get_array(), alpha=grid.get_alpha())
    if isinstance(grid, QuadMesh):  # a colour bar's mesh has one column, from below upwards, or where it lies from left to right
        corners = grid.get_coordinates()
        lying = corners[-1, 0, 0] > corners[0, 0, 0]
        colors = colors.swapaxes(0, 1) if lying else colors[::-1]
    if (colors[..., 3] == 1).all():
        colors = colors[..., :3]
    sharp = getattr(grid, "get_interpolation", lambda: "")() == "nearest"
    style = ' style="image-rendering:pixelated"' if sharp else ""
    data = base64.b64encode(png(np.round(colors * 255).astype(np.uint8))).decode("ascii")
    return f'<image {_place(canvas, panel)} preserveAspectRatio="none"{style} xlink:href="data:image/png;base64,{data}"/>'


def _place(canvas: Canvas, panel: Axes) -> str:
    place = panel.get_window_extent()
    left, top = place.x0, canvas.bbox.height - place.y1
    return f'x="{left:.6g}" y="{top:.6g}" width="{place.width:.6g}" height="{place.height:.6g}"'


def condensed(values: np.ndarray, width: float, height: float) -> np.ndarray:
    """Float[rows, columns] with at most two values per CSS pixel: neighbours are averaged, those without a value left out.

    >>> condensed(np.arange(12.0).reshape(1, 12), width=2, height=1)
    array([[ 1.,  4.,  7., 10.]])
    """
    for axis, pixels in ((0, height), (1, width)):
        together = -(-values.shape[axis] // max(1, int(_ENOUGH * pixels)))
        if together > 1:
            starts = np.arange(0, values.shape[axis], together)
            there = ~np.isnan(values)
            count = np.add.reduceat(there, starts, axis=axis, dtype=float)
            total = np.add.reduceat(np.where(there, values, 0.0), starts, axis=axis)
            values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return values


def png(pixels: np.ndarray) -> bytes:
    """UInt8[rows, columns, 3 or 4] as a PNG file, with a palette where 256 colours are enough; of four, the last is opacity, 0 or 255.

    >>> png(np.zeros((2, 3, 3), dtype=np.uint8))[:8]
    b'\\x89PNG\\r\\n\\x1a\\n'
    """
    rows, columns, channels = pixels.shape
    colors = pixels[..., :3].astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])
    codes, index = np.unique(np.where(pixels[..., 3] == 0, -1, colors) if channels == 4 else colors, return_inverse=True)
    palette = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    few = len(palette) <= 256
    body = index.reshape(rows, columns).astype(np.uint8) if few else pixels.reshape(rows, columns * channels)
    unfiltered = np.hstack([np.zeros((rows, 1), dtype=np.uint8), body]).tobytes()
    header = struct.pack(">IIBBBBB", columns, rows, 8, 3 if few else 2 * (channels - 2), 0, 0, 0)
    palette_chunks = _chunk(b"PLTE", palette.tobytes()) if few else b""
    if few and codes[0] == -1:
        palette_chunks += _chunk(b"tRNS", b"\0")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + palette_chunks + _chunk(b"IDAT", zlib.compress(unfiltered, 9)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
