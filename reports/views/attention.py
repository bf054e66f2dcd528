"""Which data does the attention explorer get? Thumbnails of all heads, full maps while they fit, the tokens, and what was left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from reports.attention_bytes import Code, block_of, code_of, packed, pooled
from reports.drawing.attention_map import is_causal
from reports.figures import AttentionMap
from reports.text import format_number, visible_label, visible_token, with_minus
from reports.views._view import View

MAP_SIDE = 256
"""blocks along the side of a full map: of a longer text, neighbouring tokens stand together"""
MAP_BYTES = 600_000
"""of base64: the maps of further heads are left out"""
THUMBNAIL_SIDE = 32
THUMBNAIL_CELLS = 280_000
"""values of all thumbnails together: more heads get smaller ones"""
_LABEL = re.compile(r"L(\d+)H(\d+)")
_WIDE, _FAR = 16, 128


@dataclass(frozen=True)
class _Heads:
    """All heads of a figure: their labels, their places on the grid of layers and heads, and their thumbnails."""

    labels: list[str]
    places: list[tuple[int, int]]
    thumbnails: list[np.ndarray]
    placed: bool
    """are the places layer and head? else the order in which they came"""


@dataclass(frozen=True)
class _Maps:
    """The full maps that fit, by the number of their head; how far they are off; the labels of the heads whose maps did not fit."""

    blobs: dict[str, str]
    shape: list[int]
    error: float
    left_out: list[str]


def _data(figure: AttentionMap) -> Mapping[str, Any] | None:
    heads = _heads(figure)
    if not heads.labels or not len(figure.queries) or not len(figure.keys):
        return None
    triangle = is_causal(figure)
    code = code_of([*heads.thumbnails, *(pooled(pattern, MAP_SIDE) for pattern in figure.patterns.values())])
    side = max(4, min(THUMBNAIL_SIDE, int((THUMBNAIL_CELLS / len(heads.labels)) ** 0.5)))
    small = np.stack([code.encode(pooled(one, side)) for one in heads.thumbnails])
    maps = _maps(figure, heads, code, triangle)
    return {
        "labels": [visible_label(label) for label in heads.labels],
        "first": heads.labels.index(next((label for label in figure.patterns if label in heads.labels), heads.labels[0])),
        "places": [list(place) for place in heads.places],
        "placed": heads.placed,
        "notes": {str(i): with_minus(visible_label(figure.notes[label])) for i, label in enumerate(heads.labels) if figure.notes.get(label)},
        "scores": {visible_label(name): _listed(values, heads.places) for name, values in figure.scores.items()},
        "score": visible_label(next(iter(figure.scores), "")),
        "group": figure.heads_per_kv,
        "sees": figure.sees or ("causal" if triangle else "full"),
        "triangle": triangle,
        "unit": visible_label(figure.unit),
        "code": {"top": code.top, "signed": code.signed},
        "thumbnails": {"shape": list(small.shape[1:]), "blob": packed(small, triangle=triangle)},
        "maps": {"shape": maps.shape, "blobs": maps.blobs},
        "queries": [visible_token(str(token)) for token in figure.queries],
        "keys": None if list(figure.keys) == list(figure.queries) else [visible_token(str(token)) for token in figure.keys],
        "said": " ".join(_said(figure, maps, len(heads.labels), small.shape[1:])),
    }


def _heads(figure: AttentionMap) -> _Heads:
    if figure.thumbnails is not None:
        every = np.ndindex(*np.shape(figure.thumbnails)[:2])
        places = [place for place in every if np.isfinite(figure.thumbnails[place]).any() or _label(place) in figure.patterns]
        return _Heads([_label(place) for place in places], places, [np.asarray(figure.thumbnails[place]) for place in places], True)
    labels = list(figure.patterns)
    places = [tuple(map(int, found.groups())) for label in labels if (found := _LABEL.fullmatch(label))]
    placed = len(places) == len(set(places)) == len(labels) and all(max(place) < _FAR for place in places)
    in_order = [divmod(i, _WIDE) for i in range(len(labels))]
    return _Heads(labels, places if placed else in_order, [pooled(figure.patterns[label], THUMBNAIL_SIDE) for label in labels], placed)


def _label(place: tuple[int, ...]) -> str:
    return f"L{place[0]}H{place[1]}"


def _maps(figure: AttentionMap, heads: _Heads, code: Code, triangle: bool) -> _Maps:
    """Flagged heads first, then in order, while there is room."""
    numbers = {label: i for i, label in enumerate(heads.labels)}
    blobs: dict[str, str] = {}
    error, room, left_out = 0.0, MAP_BYTES, []
    for label in sorted(numbers.keys() & figure.patterns.keys(), key=lambda label: (label not in figure.notes, numbers[label])):
        pattern = np.asarray(pooled(figure.patterns[label], MAP_SIDE), dtype=float)
        codes = code.encode(pattern)
        text = packed(codes, triangle=triangle)
        if len(text) > room:
            left_out.append(label)
            continue
        room -= len(text)
        blobs[str(numbers[label])] = text
        there = np.isfinite(pattern)
        error = max(error, float(np.abs(code.decode(codes)[there] - pattern[there]).max(initial=0.0)))
    shape = [-(-n // block_of(n, MAP_SIDE)) for n in (len(figure.queries), len(figure.keys))]
    return _Maps(blobs, shape, error, left_out)


def _listed(values: np.ndarray, places: Sequence[tuple[int, ...]]) -> list[float | None]:
    return [float(f"{values[place]:.4g}") if np.isfinite(values[place]) else None for place in places]


def _said(figure: AttentionMap, maps: _Maps, n_heads: int, small: tuple[int, ...]) -> Iterator[str]:
    """How the numbers are kept on the page, how far they are off, and what is not there."""
    error = format_number(float(f"{maps.error:.2g}"))
    kept = f"Full maps of {len(maps.blobs)} of {n_heads} heads: one" if maps.blobs else "One"
    yield f"{kept} byte per value on a square-root scale" + (f", largest error {error}." if maps.blobs else ".")
    together = [block_of(n, MAP_SIDE) for n in (len(figure.queries), len(figure.keys))]
    if max(together) > 1:
        what = f"a cell is the mean over {together[0]} queries of the attention to {together[1]} keys together"
        yield f"The text is longer than {MAP_SIDE} tokens: {what}."
    if len(maps.blobs) < n_heads:
        size = f"{small[0]} × {small[1]} blocks of neighbouring tokens"
        yield f"{'The other heads' if maps.blobs else 'The heads'} are shown in {size}, each the mean over its queries of the attention to all of its keys."
    if maps.left_out:
        some = [visible_label(label) for label in maps.left_out[:8]] + (
            [f"{len(maps.left_out) - 8} more"] if len(maps.left_out) > 8 else []
        )
        yield f"Left out for the size of the page: the full maps of {', '.join(some)}."


VIEW = View(kind=AttentionMap, name="attention", data=_data)
