"""How are the tokens of a residual stream summed up, with and without the sink positions?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from analyses._anatomy import Model, Side
from analyses._residual_measure import ALL, VERSIONS, WITHOUT_SINKS, Stream, norm_names
from analyses._residual_statistics import SHARES, plain
from probes.statistics.residual_norms import Growth, fit_growth


def stack_name(side: Side) -> str:
    """What the column `stack` says: the side's own name, the kind of model where there is only one stack."""
    return side.name or ("decoder" if side.config.causal else "encoder")


def pinned(side: Side) -> bool:
    """Does a norm layer behind every sum set the norm of every state?"""
    return side.config.norm_place == "post" and side.config.norm in ("layer", "rms")


def stack_frame(side: Side, stream: Stream) -> pd.DataFrame:
    """The choices of the stack that decide what can be said about its stream."""
    config = side.config
    norms = "none" if config.norm == "none" else config.norm_place
    row = {"n_layers": config.n_layers, "norms": norms, "pinned": pinned(side), "head": config.head}
    return pd.DataFrame([row | {"n_texts": len(stream.real), "n_tokens": int(stream.real.sum())}])


def gates_frame(side: Side, stream: Stream, dtype: torch.dtype) -> pd.DataFrame:
    """The largest deviation of each block; two additions round by half a unit of the last place each."""
    gate = "normed sum" if side.config.norm_place == "post" else "additivity" if side.config.residual else "replacement"
    worst = stream.rounding[:, stream.real].max(-1)
    bound = max(1e-6, 4 * torch.finfo(dtype).eps)
    return pd.DataFrame({"gate": gate, "layer": np.arange(len(worst)), "measured": worst, "bound": bound})


def states_frame(stream: Stream) -> pd.DataFrame:
    """Norms, and the share of the largest coordinates, of every state and version."""
    found = []
    for state, (norm, largest) in enumerate(zip(stream.norm, stream.largest, strict=True)):
        for version in VERSIONS:
            chosen = stream.over(version)
            shares = {f"top_{k}": quantile(share[chosen], 0.5) for k, share in zip(SHARES, largest, strict=True)}
            values = norm[chosen]
            log = np.log(values) if values.size and values.min() > 0 else np.array([])
            found.append(
                {"state": state, "positions": version, "n_tokens": values.size}
                | spread("norm", values)
                | {"norm_max": quantile(values, 1.0), "mean_log_norm": log.mean() if log.size else np.nan}
                | shares
            )
    return pd.DataFrame(found)


def blocks_frame(stream: Stream) -> pd.DataFrame:
    """What every block adds, in all versions; NaN for what it does not have."""
    found = []
    for layer in range(len(stream.cosine)):
        for version in VERSIONS:
            chosen = stream.over(version)
            row = {"layer": layer, "positions": version, "n_tokens": int(chosen.sum())}
            for name in ("attn", "cross", "mlp", "cosine"):
                row |= spread(name, getattr(stream, name)[layer][chosen])
            cosine = stream.cosine[layer][chosen]
            found.append(row | {"influence": float(1 - cosine.mean()) if cosine.size else np.nan})
    return pd.DataFrame(found)


def positions_frame(stream: Stream) -> pd.DataFrame:
    """The median norm over the texts that are long enough, by state and position, and in how many that is a sink position."""
    kept = np.flatnonzero(stream.real.any(0))
    norm = np.stack([np.median(stream.norm[:, stream.real[:, p], p], axis=1) for p in kept], axis=1)  # state position
    state, position = np.meshgrid(np.arange(len(norm)), kept, indexing="ij")
    counts = {"n_texts": stream.real.sum(0)[position.ravel()], "n_sinks": stream.sinks.sum(0)[position.ravel()]}
    return pd.DataFrame({"state": state.ravel(), "position": position.ravel(), "norm": norm.ravel()} | counts)


def norms_frame(model: Model, side: Side, stream: Stream) -> pd.DataFrame:
    """The scale of every norm layer over tokens, and its gain over coordinates."""
    words = (("min", 0.0), ("median", 0.5), ("max", 1.0))
    found = []
    for name, scale in zip(norm_names(model, side), stream.scale, strict=True):
        module = side.stack.get_submodule(name)
        gain = plain(module.gain + getattr(module, "gain_offset", 0.0))
        layer = int(name.split(".")[1]) if "." in name else side.config.n_layers if name == "ln_final" else -1
        for version in VERSIONS:
            values = scale[stream.over(version)]
            found.append(
                {"norm": name, "layer": layer, "positions": version}
                | {f"scale_{word}": quantile(values, q) for word, q in words}
                | {f"gain_{word}": quantile(gain, q) for word, q in words}
            )
    return pd.DataFrame(found)


def growth_frame(side: Side, states: pd.DataFrame) -> pd.DataFrame:
    """The growth of the norm with depth, in all versions; NaN where norm layers set the norm."""
    logs = {version: states.mean_log_norm[states.positions == version].to_numpy() for version in VERSIONS}
    none = Growth(np.nan, np.nan, np.nan, np.nan, np.nan, side.config.n_layers)
    return pd.DataFrame([{"positions": version} | vars(none if pinned(side) else fit_growth(log)) for version, log in logs.items()])


def massive_frame(stream: Stream) -> pd.DataFrame:
    """Massive activations, a row for each place (position, dimension): in how many texts, after which blocks, how large."""
    columns = ["position", "dimension", "first_state", "last_state", "n_states", "n_texts", "value_median", "value_largest", "ratio"]
    found = pd.DataFrame([vars(one) for one in stream.massive], columns=["state", "example", "position", "dimension", "value", "ratio"])
    places = []
    for (position, dimension), group in found.groupby(["position", "dimension"]):
        largest = float(group.value.loc[group.value.abs().idxmax()])
        states = group.state.min(), group.state.max(), group.state.nunique()
        values = float(group.value.median()), largest, float(group.ratio.max())
        places.append((position, dimension, *states, group.example.nunique(), *values))
    frame = pd.DataFrame(places, columns=columns)
    return frame.sort_values(
        ["n_texts", "n_states", "position", "dimension"], ascending=[False, False, True, True], kind="stable", ignore_index=True
    )


def pooled_frame(stream: Stream) -> pd.DataFrame:
    """How close every state's pooled representation is to the text's final one, and to those of the other texts."""
    found = []
    for k, version in enumerate((ALL, WITHOUT_SINKS)):
        final = _unit(stream.pooled[-1, k])
        for state, pooled in enumerate(stream.pooled[:, k]):
            cosine = _unit(pooled) @ final.T  # text, final of text
            own, others = cosine.diagonal(), cosine[~np.eye(len(cosine), dtype=bool)]
            known = np.isfinite(own)
            nearest = float(np.mean(cosine.argmax(1) == np.arange(len(own)))) if len(own) > 1 and known.all() else np.nan
            row = {"state": state, "positions": version, "n_texts": int(known.sum())} | spread("cosine", own[known])
            found.append(row | {"others_median": quantile(others[np.isfinite(others)], 0.5), "nearest": nearest})
    return pd.DataFrame(found).sort_values("state", kind="stable", ignore_index=True)


def _unit(vectors: Float[np.ndarray, "text d_model"]) -> Float[np.ndarray, "text d_model"]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def spread(name: str, values: Float[np.ndarray, "n"]) -> dict[str, float]:
    """Median and the 5th and 95th percentile."""
    return {f"{name}_median": quantile(values, 0.5), f"{name}_p05": quantile(values, 0.05), f"{name}_p95": quantile(values, 0.95)}


def quantile(values: Float[np.ndarray, "n"], q: float) -> float:
    """NaN of nothing."""
    return float(np.quantile(values, q)) if values.size else float("nan")
