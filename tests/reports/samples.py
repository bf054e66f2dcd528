"""Which results do the tests of this room use? Small ones of every kind, and strings that want to do harm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from reports import (
    AttentionMap,
    Bars,
    CircuitGraph,
    Column,
    Evidence,
    Figure,
    Heatmap,
    Histogram,
    LensGrid,
    Lines,
    Provenance,
    Result,
    Series,
    Table,
    TokenMap,
    Verdict,
    Waterfall,
)

HOSTILE = (
    "</script><script>alert(1)</script>", "<!--<script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "</style><style>*{}",
    "a\u2028b", "abc\u202edef\u2066", "nul\x00byte", "lone\ud800surrogate", "{{7*7}}{% raw %}", "$\\frac{", "$$", "a_b^c", "_hidden",
    "'\" onmouseover='alert(1)", "javascript:alert(1)", "https://example.org/x.js", "]]>&lt;&amp;", "url(https://example.org)", "\ufffe\uffff\x1b[31m",
)

WORDS = {"title": "One head carries the effect", "caption": "n = 4", "alt": "The largest effect is 1 nat."}


def figures(text: str = "word") -> list[Figure]:
    """One figure of every kind, each with a missing value, with `text` in every place that takes text."""
    words = {"title": text, "caption": text, "alt": text}
    values = np.array([[0.5, np.nan], [-1.0, 2.0]])
    pattern = np.array([[1.0, 0.0], [0.25, 0.75]])
    bands = Series(y=np.array([1.0, np.nan]), low=np.array([0.5, np.nan]), high=np.array([2.0, np.nan]))
    return [
        Heatmap(name="heatmap", **words, values=values, rows=[text, "b"], columns=("c", text), row_label=text, column_label=text, unit=text,
                text=np.array([[text, "1"], ["2", text]], dtype=object), column_groups=[text, "b"]),
        Lines(name="lines", **words, x=np.array([1, 2]), series={text: bands, "other": Series(y=np.array([3.0, 4.0]))}, x_label=text, y_label=text),
        Bars(name="bars", **words, labels=[text, "b"], values=np.array([1.0, np.nan]), unit=text, low=np.array([0.5, np.nan])),
        Histogram(name="histogram", **words, counts=np.array([3, 0, 1]), edges=np.array([0.0, 1.0, 2.0, 3.0]), x_label=text),
        TokenMap(name="token-map", **words, rows={text: ([text, ""], np.array([0.5, np.nan])), "b": (["x"], np.array([-0.5]))}, unit=text, notes={text: text}),
        LensGrid(name="lens-grid", **words, probabilities=values[:, :, None].repeat(2, axis=2), tokens=np.array([[[text, "1"], ["2", text]]] * 2, dtype=object),
                 layers=[text, "1"], positions=["a", text], layer_label=text, targets=[text, ""], ranks=np.array([[3.0, np.nan], [1.0, np.nan]])),
        Waterfall(name="waterfall", **words, groups=[text, "0", "0"], kinds=[text, "attention", text], values=np.array([1.0, np.nan, -0.5]), total=0.5, unit=text,
                  group_label=text, total_label=text),
        CircuitGraph(name="circuit-graph", **words, nodes=[text, "b", "c"], layers=np.array([0, 1, 1]), places=np.array([0, 1, 0]), values=np.array([1.0, np.nan, -0.5]),
                     senders=np.array([0, 0]), receivers=np.array([1, 2]), edge_values=np.array([0.5, np.nan]), unit=text, node_label=text, edge_label=text,
                     edge_notes=[text, ""]),
        AttentionMap(name="attention-map", **words, patterns={text: pattern, "L1H1": pattern * np.nan}, queries=[text, "b"], keys=["a", text],
                     unit=text, notes={text: text}),
    ]


def provenance(text: str = "word", **changes: Any) -> Provenance:
    fields = {
        "command": f"prosect report --model {text}", "versions": {"torch": "2.9", "prosect": text}, "git_commit": text, "git_dirty": True,
        "model": {"name": text, "sha256": "00", "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "d_model": 64, text: text},
        "corpus": {"source": text, "digest": "11", "text_tokens": 12345}, "seed": 7, "dtype": "float32", "device": "cpu", "threads": 1, "platform": text,
    }
    return Provenance(**{**fields, **changes})


def table(text: str = "word", rows: int = 3, measurement: bool = False) -> Table:
    frame = pd.DataFrame({
        "token": pd.Series([text] * rows, dtype=object), "effect": np.where(np.arange(rows) == 1, np.nan, np.arange(rows) / 7),
        "count": np.arange(rows), "flagged": np.arange(rows) % 2 == 0,
    })
    columns = {"token": Column(unit="", meaning=text), "effect": Column(unit="nats", meaning="rise of the loss"),
               "count": Column(unit=text, meaning="how often"), "flagged": Column(unit="", meaning="above the bound")}
    return Table(frame=frame, columns=columns, caption=text, measurement=measurement)


def result(text: str = "word", analysis: str = "head-ablation", **changes: Any) -> Result:
    evidence = (
        Evidence(name=text, measured=0.62, unit=text, threshold=0.3, relation="<", where=text, source=text),
        Evidence(name="heads", measured=math.inf, unit="1"),
    )
    fields = {
        "analysis": analysis, "title": text, "question": text, "method": text, "limits": text, "notes": {"z": text, "a": text},
        "parameters": {"metric": text, "alpha": 0.1, "bound": math.inf, "only": (1, "x"), "none": None, "nested": {"b": [1], "a": math.nan}},
        "tables": {"zeta": table(text), "alpha": table(text, rows=0)}, "figures": tuple(figures(text)),
        "verdict": Verdict(status="warn", claim=text, evidence=evidence, why=text), "provenance": provenance(text),
    }
    return Result(**{**fields, **changes})


def same(a: Any, b: Any) -> bool:
    """Equality of type and value all the way down: order of keys, dtypes, and NaN equal to NaN."""
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
        return True
    if type(a) is not type(b):
        return False
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and all(same(x, y) for x, y in zip(a.reshape(-1).tolist(), b.reshape(-1).tolist(), strict=True))
    if isinstance(a, Mapping):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


TEXT = st.text(st.characters(), max_size=6)
"""Any characters, lone surrogates and controls among them."""


def arrays(*shape: int, nonnegative: bool = False) -> st.SearchStrategy[np.ndarray]:
    size = math.prod(shape)

    def of(bits: int) -> st.SearchStrategy[np.ndarray]:
        numbers = st.floats(min_value=0.0 if nonnegative else None, width=bits)
        return st.lists(numbers, min_size=size, max_size=size).map(lambda flat: np.array(flat, dtype=f"float{bits}").reshape(shape))

    return st.sampled_from([16, 32, 64]).flatmap(of)


@st.composite
def any_figure(draw: st.DrawFn, kind: type[Figure]) -> Figure:
    """A figure of the kind, with any numbers and any text."""
    words = {"name": draw(st.from_regex(r"[a-z0-9]+(-[a-z0-9]+)?", fullmatch=True)),
             **{part: draw(TEXT) + "." for part in ("title", "caption", "alt")}}
    n, m = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    texts = lambda count: draw(st.lists(TEXT, min_size=count, max_size=count))  # noqa: E731
    names = draw(st.lists(TEXT, max_size=3, unique=True))
    if kind is Heatmap:
        cells = np.array([[draw(TEXT) for _ in range(m)] for _ in range(n)], dtype=object).reshape(n, m)
        return Heatmap(**words, values=draw(arrays(n, m)), rows=texts(n), columns=tuple(texts(m)), row_label=draw(TEXT), column_label=draw(TEXT),
                       unit=draw(TEXT), signed=draw(st.booleans()), text=draw(st.sampled_from([None, cells])), low=draw(st.none() | st.floats()),
                       column_groups=texts(m if draw(st.booleans()) else 0))
    if kind is Lines:
        series = {name: Series(y=draw(arrays(n)), low=draw(st.none() | arrays(n)), high=draw(st.none() | arrays(n))) for name in names}
        return Lines(**words, x=np.sort(draw(arrays(n))), series=series, x_label=draw(TEXT), y_label=draw(TEXT), log_x=draw(st.booleans()), log_y=draw(st.booleans()))
    if kind is Bars:
        return Bars(**words, labels=texts(n), values=draw(arrays(n)), unit=draw(TEXT), low=draw(st.none() | arrays(n)), high=draw(st.none() | arrays(n)))
    if kind is Histogram:
        return Histogram(**words, counts=draw(arrays(n, nonnegative=True)), edges=np.sort(draw(arrays(n + 1))), x_label=draw(TEXT), log_y=draw(st.booleans()))
    if kind is TokenMap:
        return TokenMap(**words, rows={name: (texts(n), draw(arrays(n))) for name in names}, unit=draw(TEXT), signed=draw(st.booleans()))
    if kind is AttentionMap:
        grid = draw(st.none() | arrays(2, 1, n, m))
        return AttentionMap(**words, patterns={name: draw(arrays(n, m)) for name in names}, queries=texts(n), keys=texts(m), notes=dict.fromkeys(names, "why"),
                            thumbnails=grid, scores={} if grid is None else {draw(TEXT): draw(arrays(2, 1))}, heads_per_kv=draw(st.integers(1, 3)))
    if kind is LensGrid:
        k = draw(st.integers(0, 2))
        cells = np.array([draw(TEXT) for _ in range(n * m * k)], dtype=object).reshape(n, m, k)
        ranked = {"targets": texts(m), "ranks": draw(arrays(n, m))} if draw(st.booleans()) else {}
        return LensGrid(**words, probabilities=draw(arrays(n, m, k)), tokens=cells, layers=texts(n), positions=texts(m), **ranked)
    if kind is Waterfall:
        return Waterfall(**words, groups=texts(n), kinds=texts(n), values=draw(arrays(n)), total=draw(st.floats()), unit=draw(TEXT), group_label=draw(TEXT),
                         total_label=draw(TEXT))
    if kind is CircuitGraph:
        ends = st.lists(st.integers(0, max(0, n - 1)), min_size=m if n else 0, max_size=m if n else 0).map(lambda some: np.array(some, dtype=int))
        senders, receivers = draw(ends), draw(ends)
        return CircuitGraph(**words, nodes=texts(n), layers=draw(arrays(n)), places=draw(arrays(n)), values=draw(arrays(n)), senders=senders, receivers=receivers,
                            edge_values=draw(arrays(len(senders))), unit=draw(TEXT), edge_notes=draw(st.sampled_from([None, texts(len(senders))])))
    raise TypeError(f"say here how a {kind.__name__} is made")
