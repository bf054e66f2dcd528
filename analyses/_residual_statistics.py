"""What is kept of one stack's residual stream while it flows by? A few numbers for every token, before, in and behind each block.

Padding is put behind the real tokens before anything is measured, so that position p is the p-th real token whichever side
was padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from analyses._anatomy import Side
from model.block import Block
from model.sites import unobserved
from probes import Observable
from probes.statistics import Part, Seen, Statistic
from probes.statistics.residual_norms import largest_share, massive_activations

SHARES = (1, 3, 10)
ADDED = {"attn_out": "attn", "cross_attn_out": "cross", "mlp_out": "mlp"}
"""what a block adds, in this order, where it is there: site → column"""
NORMS = {"attn_out": "ln1", "cross_attn_out": "ln_cross", "mlp_out": "ln2"}
STATES = ("resid_mid", "resid_mid_cross", "resid_post")
"""the stream after each addition, where it has a site"""


@dataclass(frozen=True, kw_only=True)
class BlockStreams(Statistic):
    """What the stream of one stack is like before, in and behind every block, token by token: a few numbers for each."""

    side: Side
    names: tuple[str, ...]
    """the norm layers of the stack"""

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        """A group for each block; with the first one the norm of the embedding."""
        known, found = model.sites(), []
        for layer in range(self.side.config.n_layers):
            here = f"blocks.{layer}."
            wanted = [here + word for word in ("resid_pre", *ADDED, *STATES)]
            wanted += [f"{name}.scale" for name in self.names if name.startswith(here) or (name == "ln_embed" and layer == 0)]
            found.append(tuple(f"{self.side.prefix}{name}" for name in wanted if f"{self.side.prefix}{name}" in known))
        return found

    def finish(self) -> pd.DataFrame:
        """A row per block, example and position."""
        frames = []
        for layer, part in self.state.items():
            example, position = np.indices(part["real"].shape).reshape(2, -1)
            numbers = {name: part[name].ravel() for name in ("cosine", "rounding")}
            frames.append(pd.DataFrame({"layer": int(layer), "example": example, "position": position} | numbers)[part["real"].ravel()])
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["layer", "example", "position"])

    def _measure(self, seen: Seen) -> dict[str, Part]:
        mask = None if bool(seen.mask.all()) else seen.mask
        first = next(iter(seen.values))
        layer = int(first.removeprefix(self.side.prefix).split(".")[1])
        real = real_first(seen.mask, mask)
        values = {_short(name.removeprefix(self.side.prefix)): real_first(value, mask) for name, value in seen.values.items()}
        block, n_layers = self.side.stack.blocks[layer], self.side.config.n_layers
        states = [*([values["resid_pre"]] if layer == 0 else []), values["resid_post"]]
        scales = {name: plain(exact(value)[..., 0]) for name, value in values.items() if name.endswith(".scale")}
        if layer == n_layers - 1 and hasattr(self.side.stack.ln_final, "scale"):
            scales["ln_final.scale"] = plain(_final_scale(self.side, states[-1], real))
        return {str(layer): {
            "norm": np.stack([plain(exact(state).norm(dim=-1)) for state in states], axis=-1),
            "largest": np.stack([np.stack([plain(largest_share(state, k)) for k in SHARES], axis=-1) for state in states], axis=-1),
            "real": real.cpu().numpy(), "massive": _found(states, real, 0 if layer == 0 else layer + 1, seen.first_example),
            **{name: plain(value) for name, value in _block(block, values, real).items()}, **scales,
        }}  # fmt: skip

    def _join(self, a: Part, b: Part) -> Part:
        return {name: np.concatenate([a[name], b[name]]) for name in a}


@dataclass(frozen=True, kw_only=True)
class PooledStates(Statistic):
    """The final norm of every state of one stack, averaged over all real tokens of an example, and without the sinks."""

    side: Side
    sinks: Bool[np.ndarray, "example pos"] = field(compare=False)
    """of all examples; which tokens are sinks is known when all states were seen, so that the stream is read a second time"""

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        names = ["blocks.0.resid_pre", *(f"blocks.{layer}.resid_post" for layer in range(self.side.config.n_layers))]
        return [(f"{self.side.prefix}{name}",) for name in names]

    def finish(self) -> pd.DataFrame:
        """A row per state and example, a column per coordinate, without the sinks."""
        frames = [pd.DataFrame(part["pooled"][:, 1]).assign(site=site) for site, part in self.state.items()]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["site"])

    def _measure(self, seen: Seen) -> dict[str, Part]:
        ((name, state),) = seen.values.items()
        mask = None if bool(seen.mask.all()) else seen.mask
        real, state = real_first(seen.mask, mask), real_first(state, mask)
        sinks = torch.from_numpy(self.sinks[seen.first_example : seen.first_example + len(state)]).to(real.device)
        read = exact(self.side.stack.ln_final(state, real))
        chosen = torch.stack([real, real & ~sinks], dim=1).to(read.dtype)  # batch version pos
        return {name: {"pooled": plain(torch.einsum("bpd,bvp->bvd", read, chosen) / chosen.sum(-1, keepdim=True))}}

    def _join(self, a: Part, b: Part) -> Part:
        return {"pooled": np.concatenate([a["pooled"], b["pooled"]])}


def real_first(values: Tensor, mask: Bool[Tensor, "batch pos"] | None) -> Tensor:
    """Every example with its padding behind its real tokens; `values` is [batch, pos, …].

    >>> real_first(torch.tensor([[0, 5, 6]]), torch.tensor([[False, True, True]]))
    tensor([[5, 6, 0]])
    """
    if mask is None:
        return values
    order = (~mask).long().argsort(dim=1, stable=True)
    return values.gather(1, order.view(*order.shape, *[1] * (values.dim() - 2)).expand_as(values))


def _short(name: str) -> str:
    """`resid_post` of a block, but a norm layer's whole name."""
    return name if name.endswith(".scale") else name.rpartition(".")[2]


def _final_scale(side: Side, state: Tensor, real: Tensor) -> Float[Tensor, "batch pos"]:
    """What the final norm divides by, without the head that follows it."""
    norm, seen = side.stack.ln_final, []
    leave = norm.scale.watch(seen.append)
    try:
        norm(state, real)
    finally:
        leave()
    return exact(seen[0])[..., 0]


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
            norm = getattr(block, NORMS[parts[0]])
            with unobserved(norm):
                expected, size = norm(sum(terms), real), exact(before).norm(dim=-1)
        else:
            expected, size = sum(_wide(term) for term in terms), sum(exact(term).norm(dim=-1) for term in terms)
        worst = torch.maximum(worst.to(_wide(before).dtype), (_wide(before) - _wide(expected)).norm(dim=-1) / size)
    return worst


def _found(states: list[Tensor], real: Tensor, first_state: int, first_example: int) -> np.ndarray:
    """Massive activations, a row each."""
    found = [vars(one) for one in massive_activations(torch.stack(states), real)]
    rows = [[one["state"] + first_state, one["example"] + first_example, *list(one.values())[2:]] for one in found]
    return np.array(rows, dtype=float).reshape(-1, 6)


def exact(values: Tensor) -> Tensor:
    """In fp32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def plain(values: Tensor) -> np.ndarray:
    """The same numbers without torch."""
    return values.detach().to("cpu", torch.float64).numpy()


def _wide(values: Tensor) -> Tensor:
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)  # no doubles there
