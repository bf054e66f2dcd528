"""What is measured of one stack's residual stream, token by token?

Padding is put behind the real tokens before anything is measured, so that position p is the p-th real token whichever side
was padded; `real` says which positions hold one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from analyses._anatomy import Inputs, Model, Side
from model.block import Block
from probes import record
from probes.statistics.residual_norms import (
    MassiveActivation,
    largest_share,
    massive_activations,
    sink_positions,
)

SHARES = (1, 3, 10)
VERSIONS = ALL, WITHOUT_SINKS, SINKS = "all", "without sinks", "sinks only"
"""the positions that a version of a statistic is over; the first token of a text is always a sink position"""
ADDED = {"attn_out": "attn", "cross_attn_out": "cross", "mlp_out": "mlp"}
"""what a block adds, in this order, where it is there: site → column"""
NORMS = {"attn_out": "ln1", "cross_attn_out": "ln_cross", "mlp_out": "ln2"}
STATES = ("resid_mid", "resid_mid_cross", "resid_post")
"""the stream after each addition, where it has a site"""


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


def real_first(values: Tensor, mask: Bool[Tensor, "batch pos"] | None) -> Tensor:
    """Every example with its padding behind its real tokens; `values` is [batch, pos, …].

    >>> real_first(torch.tensor([[0, 5, 6]]), torch.tensor([[False, True, True]]))
    tensor([[5, 6, 0]])
    """
    if mask is None:
        return values
    order = (~mask).long().argsort(dim=1, stable=True)
    return values.gather(1, order.view(*order.shape, *[1] * (values.dim() - 2)).expand_as(values))


def measure_stream(model: Model, side: Side, inputs: Inputs, *, batch_size: int, sink_factor: float) -> Stream:
    """Everything about the stream of one stack, a batch of texts at a time: only one batch's states exist at once."""
    firsts = range(0, len(inputs[0]), batch_size)
    parts = [_batch(model, side, rows(inputs, first, first + batch_size), sink_factor) for first in firsts]
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=-2) for f in fields(Stream) if f.name != "massive"}
    massive = [
        MassiveActivation(**vars(one) | {"example": one.example + first})
        for first, part in zip(firsts, parts, strict=True)
        for one in part.massive
    ]
    return Stream(**joined, massive=tuple(massive))


def norm_names(model: Model, side: Side) -> list[str]:
    """The norm layers of a stack's residual stream by name, in the order in which they run."""
    layers = range(side.config.n_layers)
    words = [f"{word}{after}" for word in NORMS.values() for after in ("", "_post")]
    names, sites = ["ln_embed", *(f"blocks.{i}.{word}" for i in layers for word in words), "ln_final"], model.sites()
    return [name for name in names if f"{side.prefix}{name}.normalized" in sites]


def _batch(model: Model, side: Side, inputs: Inputs, sink_factor: float) -> Stream:
    tokens, mask = side.tokens(inputs)
    real = real_first(torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask, mask)
    states, blocks, scales = [], [], {}
    for block, values in zip(side.stack.blocks, _values(model, side, inputs), strict=True):
        values = {name: real_first(value, mask) for name, value in values.items()}
        states += [values["resid_post"]] if states else [values["resid_pre"], values["resid_post"]]
        scales |= {name: exact(value)[..., 0] for name, value in values.items() if name.endswith(".scale")}
        blocks.append(_block(block, values, real))
    scales |= _final_scale(model, side, states[-1], real)
    stack = torch.stack(states)
    norms = exact(stack).norm(dim=-1)
    sinks = sink_positions(norms, real, factor=sink_factor)
    missing = torch.full_like(norms[0], torch.nan)
    found = [scales.get(f"{name}.scale", missing) for name in norm_names(model, side)]
    return Stream(
        norm=plain(norms),
        largest=np.stack([plain(largest_share(stack, k)) for k in SHARES], axis=1),
        **{name: np.stack([plain(block.get(name, missing)) for block in blocks]) for name in (*ADDED.values(), "cosine", "rounding")},
        scale=plain(torch.stack(found)) if found else np.empty((0, *norms.shape[1:])),
        pooled=_pooled(side, stack, real, sinks),
        sinks=sinks.cpu().numpy(),
        real=real.cpu().numpy(),
        massive=tuple(massive_activations(stack, real)),
    )


def _values(model: Model, side: Side, inputs: Inputs) -> Iterator[Mapping[str, Tensor]]:
    """What is observed in every block, a block at a time; the block's number is left out of the names.

    Whatever runs before the stack's own block 0 (the embedding, the other stack) runs with it.
    """
    sites, state = model.sites(), None
    scales = [f"{side.prefix}{name}.scale" for name in norm_names(model, side)]
    for layer in range(side.config.n_layers):
        here = f"{side.prefix}blocks.{layer}."
        wanted = [here + word for word in ("resid_pre", *ADDED, *STATES)] + [n for n in scales if n.startswith(here)]
        wanted += [f"{side.prefix}ln_embed.scale"] if layer == 0 else []
        with record(model, [name for name in wanted if name in sites]) as activations:
            if state is None:
                state = model.start(*inputs)
                for i in range(side.first_step):
                    state = model.step(state, i)
            state = model.step(state, side.first_step + layer)
        yield {_short(name.removeprefix(side.prefix)): value for name, value in activations.items()}


def _short(name: str) -> str:
    """`resid_post` of a block, but a norm layer's whole name."""
    return name if name.endswith(".scale") else name.rpartition(".")[2]


def _final_scale(model: Model, side: Side, state: Tensor, real: Tensor) -> dict[str, Tensor]:
    site = f"{side.prefix}ln_final.scale"
    if site not in model.sites():
        return {}
    with record(model, site) as activations:
        side.stack.ln_final(state, real)
    return {"ln_final.scale": exact(activations[site])[..., 0]}


def _block(block: Block, values: Mapping[str, Tensor], real: Tensor) -> dict[str, Float[Tensor, "batch pos"]]:
    """What one block adds, against what it is added to."""
    before, found = values["resid_pre"], {}
    for added, after in zip([name for name in ADDED if name in values], _after(block, values), strict=True):
        found[ADDED[added]] = exact(values[added]).norm(dim=-1) / exact(before).norm(dim=-1)
        before = before if block.parallel else values[after]
    cosine = F.cosine_similarity(exact(values["resid_pre"]), exact(values["resid_post"]), dim=-1)
    return found | {"cosine": cosine, "rounding": deviation(block, values, real)}


def _after(block: Block, values: Mapping[str, Tensor]) -> list[str]:
    """The state after each addition."""
    return ["resid_post"] * 2 if block.parallel else [name for name in STATES if name in values]


def deviation(block: Block, values: Mapping[str, Tensor], real: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch pos"]:
    """How far a block is from what defines it, token by token.

    Where additions follow one another (`norm_place` pre, sandwich, output; parallel): ‖resid_post − (resid_pre + Σ additions)‖
    over the sum of their norms. Where a norm stands behind every sum (post): ‖state − norm(state before + addition)‖ / ‖state‖,
    the norm computed anew by the block's own layer. Without residual connections the addition is all of the state. The
    largest of a block's states counts.
    """
    added, after = [name for name in ADDED if name in values], _after(block, values)
    whole = block.parallel or (block.residual and block.place != "post")
    steps = [(added, "resid_post")] if whole else [([one], state) for one, state in zip(added, after, strict=True)]
    before, worst = values["resid_pre"], torch.zeros_like(exact(values["resid_pre"][..., 0]))
    for parts, state in steps:
        terms = [*([before] if block.residual else []), *(values[part] for part in parts)]
        before = values[state]
        if block.place == "post":
            expected, size = getattr(block, NORMS[parts[0]])(sum(terms), real), exact(before).norm(dim=-1)
        else:
            expected, size = sum(_wide(term) for term in terms), sum(exact(term).norm(dim=-1) for term in terms)
        worst = torch.maximum(worst.to(_wide(before).dtype), (_wide(before) - _wide(expected)).norm(dim=-1) / size)
    return worst


def _pooled(side: Side, states: Float[Tensor, "state batch pos d_model"], real: Tensor, sinks: Tensor) -> np.ndarray:
    """Float[state version example d_model]: the final norm of every state, averaged over all real tokens, and without the sinks."""
    if side.config.head != "none":
        return np.empty((len(states), 2, states.shape[1], 0))
    read = torch.stack([exact(side.stack.ln_final(state, real)) for state in states])
    chosen = torch.stack([real, real & ~sinks]).to(read.dtype)  # version batch pos
    return plain(torch.einsum("sbpd,vbp->svbd", read, chosen) / chosen.sum(-1, keepdim=True))


def exact(values: Tensor) -> Tensor:
    """In fp32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def plain(values: Tensor) -> np.ndarray:
    """The same numbers without torch."""
    return values.detach().to("cpu", torch.float64).numpy()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)  # no doubles there
