"""Which data does the coloured text get? Every row's tokens and numbers, the range of the colours, and what is said of each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from reports.drawing.canvas import numbers
from reports.drawing.scale import scale_of
from reports.figures import TokenMap
from reports.text import format_number, visible_label, visible_token, with_minus, with_unit
from reports.views._view import View

MOST_TOKENS = 400
"""of a row; the rest is left out, and the view says so"""


def _data(figure: TokenMap) -> Mapping[str, Any] | None:
    rows = {name: (list(tokens)[:MOST_TOKENS], numbers(values)[:MOST_TOKENS]) for name, (tokens, values) in figure.rows.items()}
    if not any(tokens for tokens, _ in rows.values()):
        return None
    scale = scale_of(np.concatenate([values for _, values in rows.values()]), figure.signed)
    low, high = (scale.low, scale.high) if scale else (0.0, 1.0)
    ends = [with_unit(float(f"{end:.3g}"), figure.unit) for end in (low, high)]
    return {
        "signed": figure.signed,
        "range": f"Colours from {ends[0]} to {ends[1]}{', white is 0' if figure.signed else ''}." if scale else "No token has a value.",
        "rows": [
            {
                "name": visible_label(name),
                "note": with_minus(visible_label(figure.notes.get(name, ""))) + _left_out(figure, name),
                "tokens": [visible_token(str(token)) for token in tokens],
                "breaks": [i for i, token in enumerate(tokens) if str(token).endswith("\n")],
                "shares": [None if np.isnan(v) else round(float(np.clip((v - low) / (high - low), 0, 1)), 4) for v in values],
                "values": [_shown(float(v), figure) for v in values],
            }
            for name, (tokens, values) in rows.items()
        ],
    }


def _shown(value: float, figure: TokenMap) -> str:
    sign = "+" if figure.signed and value > 0 else ""
    return "no value" if np.isnan(value) else sign + with_unit(value if np.isinf(value) else float(f"{value:.3g}"), figure.unit)


def _left_out(figure: TokenMap, name: str) -> str:
    n = len(figure.rows[name][0])
    return f" The first {MOST_TOKENS} of {format_number(n)} tokens are shown." if n > MOST_TOKENS else ""


VIEW = View(kind=TokenMap, name="token_map", data=_data)
