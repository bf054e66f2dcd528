"""What would the model say after every layer? A cell per layer and position with its first choice, coloured by the probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reports.drawing import heatmap
from reports.drawing.canvas import Picture
from reports.figures import Heatmap, LensGrid
from reports.text import visible_token

MOST_LAYERS, MOST_POSITIONS = 48, 64


def picture(figure: LensGrid) -> Picture:
    """The first choices as a map; at most 48 layers and 64 positions, and the axes say so."""
    layers, positions = shown_cells(figure)
    first = np.asarray(figure.probabilities, dtype=float)[layers][:, positions, :1]
    tokens = np.asarray(figure.tokens, dtype=object)[layers][:, positions, :1]
    there = first.shape[-1] > 0
    shape = first.shape[:2]
    words = [visible_token(str(token)) for token in tokens.reshape(-1)] if there else [""] * (shape[0] * shape[1])
    return heatmap.picture(
        Heatmap(
            name=figure.name,
            title=figure.title,
            caption=figure.caption,
            alt=figure.alt,
            low=0.0,
            high=1.0,
            unit="probability",
            values=first[..., 0] if there else np.full(shape, np.nan),
            text=texts(words, shape),
            rows=[str(figure.layers[i]) for i in layers],
            columns=[visible_token(str(figure.positions[i])) for i in positions],
            row_label=figure.layer_label + left_out(layers, figure.layers),
            column_label="token" + left_out(positions, figure.positions),
        )
    )


def shown_cells(figure: LensGrid) -> tuple[np.ndarray, np.ndarray]:
    """Which layers (evenly spaced, the first and the last among them) and which positions (the last ones) are shown."""
    n = len(figure.layers)
    layers = np.unique(np.linspace(0, n - 1, min(n, MOST_LAYERS)).round().astype(int)) if n else np.zeros(0, dtype=int)
    return layers, np.arange(max(0, len(figure.positions) - MOST_POSITIONS), len(figure.positions))


def left_out(shown: Sequence[int], whole: Sequence[str]) -> str:
    """What an axis says where it does not show everything.

    >>> left_out([0, 1], ["a", "b"]), left_out([1], ["a", "b"])
    ('', ' (1 of 2)')
    """
    return f" ({len(shown)} of {len(whole)})" if len(shown) < len(whole) else ""


def texts(words: Sequence[str], shape: tuple[int, ...]) -> np.ndarray:
    """The words as an array of objects of this shape: text with lone surrogates fits no other type."""
    flat = np.empty(len(words), dtype=object)
    flat[:] = words
    return flat.reshape(shape)
