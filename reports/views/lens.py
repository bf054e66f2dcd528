"""Which data does the logit-lens grid get? The choices of every layer at every position with their probabilities, and the rank of the target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reports.drawing.lens_grid import left_out, shown_cells
from reports.figures import LensGrid
from reports.text import visible_label, visible_token
from reports.views._view import View


def _data(figure: LensGrid) -> Mapping[str, Any] | None:
    layers, positions = shown_cells(figure)
    probabilities = np.asarray(figure.probabilities, dtype=float)[layers][:, positions]
    if not probabilities.size:
        return None
    tokens = [visible_token(str(token)) for token in np.asarray(figure.tokens, dtype=object)[layers][:, positions].reshape(-1)]
    words = sorted(set(tokens))
    number = {word: i for i, word in enumerate(words)}
    return {
        "layers": [visible_label(str(figure.layers[i])) for i in layers],
        "positions": [visible_token(str(figure.positions[i])) for i in positions],
        "numbers": [int(i) for i in positions],
        "layer_label": visible_label(figure.layer_label),
        "words": words,
        "k": probabilities.shape[-1],
        "tokens": [number[token] for token in tokens],
        "probabilities": [None if np.isnan(p) else float(f"{np.clip(p, 0, 1):.3g}") for p in probabilities.reshape(-1)],
        "said": f"layers{left_out(layers, figure.layers)}, positions{left_out(positions, figure.positions)}"
        if _cut(figure, layers, positions)
        else "",
        **_targets(figure, layers, positions),
    }


def _cut(figure: LensGrid, layers: np.ndarray, positions: np.ndarray) -> bool:
    return len(layers) < len(figure.layers) or len(positions) < len(figure.positions)


def _targets(figure: LensGrid, layers: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
    """The right answers, and their ranks by layer and position; None where there is none."""
    if figure.targets is None or figure.ranks is None:
        return {"targets": None, "ranks": None}
    ranks = np.asarray(figure.ranks, dtype=float)[layers][:, positions]
    return {
        "targets": [visible_token(str(figure.targets[i])) if str(figure.targets[i]) else None for i in positions],
        "ranks": [int(rank) if np.isfinite(rank) and abs(rank) < 1e15 else None for rank in ranks.reshape(-1)],
    }


VIEW = View(kind=LensGrid, name="lens", data=_data)
