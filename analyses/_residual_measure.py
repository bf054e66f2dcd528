"""What is known of one stack's residual stream, token by token? Position p is the p-th real token, whichever side was padded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float

from analyses._anatomy import Inputs, Model, Side
from analyses._reading import read_whole
from analyses._residual_statistics import ADDED, NORMS, BlockStreams, PooledStates
from probes.statistics import Part
from probes.statistics.residual_norms import MassiveActivation, sink_positions

VERSIONS = ALL, WITHOUT_SINKS, SINKS = "all", "without sinks", "sinks only"
"""the positions that a version of a statistic is over; the first token of a text is always a sink position"""


@dataclass(frozen=True)
class Stream:
    """What the residual stream of every token is like. `state` l is the stream after l blocks."""

    norm: Float[np.ndarray, "state example pos"]
    largest: Float[np.ndarray, "state share example pos"]
    """share of the squared norm in the 1, 3 and 10 largest coordinates"""
    attn: Float[np.ndarray, "layer example pos"]
    """‖attn_out‖ / ‖resid_pre‖"""
    cross: Float[np.ndarray, "layer example pos"]
    """‖cross_attn_out‖ / ‖resid_mid‖, NaN without cross-attention"""
    mlp: Float[np.ndarray, "layer example pos"]
    """‖mlp_out‖ over the norm of the stream that it is added to, NaN without a feed-forward network"""
    cosine: Float[np.ndarray, "layer example pos"]
    """between resid_pre and resid_post"""
    rounding: Float[np.ndarray, "layer example pos"]
    """how far a block is from what defines it, see `deviation`"""
    scale: Float[np.ndarray, "norm_layer example pos"]
    """what the norm layers divide by, see `norm_names`; NaN in a batch norm"""
    pooled: Float[np.ndarray, "state version example d_model"]
    """final norm of every state, averaged over all tokens and without the sinks; without coordinates where there is a head"""
    sinks: Bool[np.ndarray, "example pos"]
    real: Bool[np.ndarray, "example pos"]
    massive: tuple[MassiveActivation, ...]

    def over(self, version: str) -> Bool[np.ndarray, "example pos"]:
        """The positions that a version of a statistic is over."""
        return over(self.real, self.sinks, version)


def over(real: Bool[np.ndarray, "example pos"], sinks: Bool[np.ndarray, "example pos"], version: str) -> Bool[np.ndarray, "example pos"]:
    """The positions that a version of a statistic is over: never padding."""
    return {ALL: real, WITHOUT_SINKS: real & ~sinks, SINKS: real & sinks}[version]


def rows(inputs: Inputs, first: int, last: int) -> Inputs:
    """Some examples of what a model is called with."""
    return tuple(None if part is None else part[first:last] for part in inputs)


def measure_stream(model: Model, side: Side, inputs: Inputs, *, batch_size: int, sink_factor: float) -> Stream:
    """Everything about the stream of one stack, a batch of texts at a time: only one block's states exist at once."""
    statistic = BlockStreams(side=side, names=tuple(norm_names(model, side)))
    state = read_whole(model, inputs, {"blocks": statistic}, batch_size=batch_size)["blocks"]
    blocks = [state[str(layer)] for layer in range(side.config.n_layers)]
    real, norm = blocks[0]["real"], _states(blocks, "norm")
    sinks = sink_positions(torch.from_numpy(norm), torch.from_numpy(real), factor=sink_factor).numpy()
    missing = np.full(real.shape, np.nan)
    scales = {name: part[name] for part in blocks for name in part if name.endswith(".scale")}
    found = [scales.get(f"{name}.scale", missing) for name in statistic.names]
    return Stream(
        norm=norm,
        largest=np.moveaxis(_states(blocks, "largest"), -1, 1),
        **{name: np.stack([part.get(name, missing) for part in blocks]) for name in (*ADDED.values(), "cosine", "rounding")},
        scale=np.stack(found) if found else np.empty((0, *real.shape)),
        pooled=_pooled(model, side, inputs, sinks, batch_size),
        sinks=sinks,
        real=real,
        massive=tuple(_massive(row) for part in blocks for row in part["massive"]),
    )


def _states(blocks: list[Part], name: str) -> np.ndarray:
    """What the blocks hold of their states, the last axis, as one array whose first axis is all of them."""
    return np.moveaxis(np.concatenate([part[name] for part in blocks], axis=-1), -1, 0)


def _massive(row: np.ndarray) -> MassiveActivation:
    state, example, position, dimension = (int(x) for x in row[:4])
    return MassiveActivation(state, example, position, dimension, float(row[4]), float(row[5]))


def norm_names(model: Model, side: Side) -> list[str]:
    """The norm layers of a stack's residual stream by name, in the order in which they run."""
    layers = range(side.config.n_layers)
    words = [f"{word}{after}" for word in NORMS.values() for after in ("", "_post")]
    names, sites = ["ln_embed", *(f"blocks.{i}.{word}" for i in layers for word in words), "ln_final"], model.sites()
    return [name for name in names if f"{side.prefix}{name}.normalized" in sites]


def _pooled(model: Model, side: Side, inputs: Inputs, sinks: Bool[np.ndarray, "example pos"], batch_size: int) -> np.ndarray:
    """Float[state version example d_model], without coordinates where a head reads the states."""
    if side.config.head != "none":
        return np.empty((side.config.n_layers + 1, 2, len(sinks), 0))
    statistic = PooledStates(side=side, sinks=sinks)
    state = read_whole(model, inputs, {"pooled": statistic}, batch_size=batch_size)["pooled"]
    return np.stack([state[name]["pooled"] for (name,) in statistic.sites(model)]).swapaxes(1, 2)


