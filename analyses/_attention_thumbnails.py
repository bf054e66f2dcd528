"""What does every head look at on one text? A small picture of each head and whole maps of the most telling, one block at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from analyses._anatomy import AttentionKind, Inputs, Model, attentions, sides
from analyses._attention_scores import ROLES, sees
from analyses._contract import table
from probes import record
from reports import Table
from reports.attention_bytes import block_of, packed, pooled, unpacked

MOST_MAPS = 24
"""heads of one kind whose whole maps are kept where not all are"""
MOST_CELLS = MOST_MAPS * 256 * 257 // 2
"""values of the whole maps of one kind: where all heads need no more, all are kept"""
SIDE = 32
"""blocks of tokens along the side of a small picture"""
_DTYPE = np.dtype("<f2")


def maps_of(model: Model, example: Inputs, heads: pd.DataFrame) -> Table:
    """Every head's pattern on one example without padding: in blocks, and whole where it is kept. `heads` has their scores."""
    kept = {kind.key: _kept(kind, heads, example) for kind in attentions(model)}
    rows = [
        {"attention": kind.key, "layer": layer, "head": head, "blocks": _packed(pooled(pattern, SIDE), kind)}
        | {"pattern": _packed(pattern, kind) if (layer, head) in kept[kind.key] else ""}
        for kind, layer, patterns in _patterns(model, example)
        for head, pattern in enumerate(patterns)
    ]
    packing = "as 2-byte floats, key after key, in causal attention only those up to the query, deflated, in base64"
    return table(
        pd.DataFrame(rows, columns=["attention", "layer", "head", "blocks", "pattern"]).sort_values(
            ["attention", "layer", "head"], ignore_index=True
        ),
        f"The patterns of the heads on the example, {packing}; the page and the figures' files hold them as numbers.",
        measurement=True,  # other hardware rounds other last bits, which packed text cannot tell from a difference
        attention=("", "self (of the only stack), encoder, decoder or cross"),
        layer=("", "block"),
        head=("", "head in its layer"),
        blocks=("", f"at most {SIDE} × {SIDE} blocks of neighbouring tokens: mean over queries of the sum over keys, packed"),
        pattern=("", "every query and key, packed; empty where it is not kept"),
    )


def thumbnails_of(rows: pd.DataFrame, n_queries: int, n_keys: int, *, causal: bool) -> Float[np.ndarray, "layer head query key"]:
    """The small pictures of one kind of attention, of its rows of the table; NaN for a head that is not there."""
    shape = tuple(-(-n // block_of(n, SIDE)) for n in (n_queries, n_keys))
    found = np.full((rows["layer"].max() + 1, rows["head"].max() + 1, *shape), np.nan, dtype=np.float32)
    for row in rows.itertuples(index=False):
        found[row.layer, row.head] = unpacked(row.blocks, shape, _DTYPE, triangle=causal)
    return found


def whole_maps_of(
    rows: pd.DataFrame, n_queries: int, n_keys: int, *, causal: bool
) -> dict[tuple[int, int], Float[np.ndarray, "query key"]]:
    """(layer, head) → its pattern, where it is kept."""
    whole = rows[rows["pattern"] != ""]
    return {
        (row.layer, row.head): unpacked(row.pattern, (n_queries, n_keys), _DTYPE, triangle=causal).astype(np.float32)
        for row in whole.itertuples(index=False)
    }


def most_telling(heads: pd.DataFrame, roles: Sequence[str], most: int) -> list[tuple[int, int]]:
    """(layer, head) of the first by every score, then of the second by every score, and so on.

    >>> scores = pd.DataFrame({"layer": [0, 0, 0], "head": [0, 1, 2], "sink": [0.1, 0.9, 0.5], "induction": [0.3, 0.2, 0.1]})
    >>> most_telling(scores, ["sink", "induction"], 2)
    [(0, 1), (0, 0)]
    """
    ranked = [
        heads.dropna(subset=[role]).sort_values([role, "layer", "head"], ascending=[False, True, True]) for role in roles if role in heads
    ]
    places = [list(zip(one["layer"].tolist(), one["head"].tolist(), strict=True)) for one in ranked]
    found: dict[tuple[int, int], None] = {}
    for rank in range(len(heads)):
        found |= dict.fromkeys(own[rank] for own in places if rank < len(own))
    return list(found)[:most]


def _kept(kind: AttentionKind, heads: pd.DataFrame, example: Inputs) -> set[tuple[int, int]]:
    own = heads[heads["attention"] == kind.key]
    queries, keys = (tokens.shape[1] for tokens in kind.tokens(example))
    cells = queries * (queries + 1) // 2 if kind.causal else queries * keys
    if len(own) * cells <= MOST_CELLS:
        return set(zip(own["layer"], own["head"], strict=True))
    texts = [role if role in own else f"{role}_text" for role in ROLES[sees(kind)]]
    return set(most_telling(own, texts, max(1, min(MOST_MAPS, MOST_CELLS // cells))))


def _patterns(model: Model, example: Inputs) -> Iterator[tuple[AttentionKind, int, Float[np.ndarray, "head query key"]]]:
    state = model.start(*example)
    for side in sides(model):
        here = [kind for kind in attentions(model) if kind.side.name == side.name]
        for layer in range(side.config.n_layers):
            with record(model, [kind.site(layer, "pattern") for kind in here]) as activations:
                state = model.step(state, side.first_step + layer)
            for kind in here:
                yield kind, layer, _numpy(activations[kind.site(layer, "pattern")][0])


def _packed(pattern: np.ndarray, kind: AttentionKind) -> str:
    return packed(pattern.astype(_DTYPE), triangle=kind.causal)


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
