"""How much does each sub-layer change the residual stream, and does it add to what is there or turn it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probes.errors import SiteError
from probes.observable import Observable, find, layer_of
from probes.statistics._contract import Part, Seen, Statistic, exact
from probes.statistics._running import described, join_moments, moments_of
from probes.statistics._sites import ALL, FIRST, REST, WITHOUT_FIRST, tidy

READ = {"attn_out": "resid_pre", "cross_attn_out": "resid_mid", "mlp_out": "resid_mid_cross resid_mid resid_pre", "resid_post": "resid_pre"}
"""what is added to the stream → the stream that it is added to, the first that there is; and the stream after a block → before it"""


@dataclass(frozen=True, kw_only=True)
class UpdateNorms(Statistic):
    """What each sub-layer adds (u: `attn_out`, `cross_attn_out`, `mlp_out`) against the stream x that it is added to.

    `ratio` is ‖u‖ / ‖x‖ and `cosine` cos(u, x) at each real token; for `resid_post` they compare the stream after a whole
    block with that before it, and 1 − cosine is the block influence of Men et al. (2024, ShortGPT). All are numbers without
    unit; what is undefined beside a zero vector is not counted.

    Columns: `site`, `layer`, `positions` (all, without first), `n` tokens, `ratio`, `ratio_std`, `ratio_largest`, `cosine`,
    `cosine_std`, where a plain name is the mean over tokens.

    Raises UnknownSiteError for `at` that matches nothing, SiteError for a site that is none of these.

    >>> from model import Transformer, TransformerConfig; from probes import stream
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = stream(model, [(torch.tensor([[1, 2, 3]]),)], {"updates": UpdateNorms()})["updates"]
    >>> table["site"].unique().tolist()[:3]
    ['blocks.0.attn_out', 'blocks.0.mlp_out', 'blocks.0.resid_post']
    """

    at: str | tuple[str, ...] | None = None
    """None: all of these that the model has"""

    def sites(self, model: Observable) -> list[tuple[str, ...]]:
        """Each update with the stream that it is added to."""
        known = list(model.sites())
        names = find(self.at, known) if self.at is not None else [name for name in known if _read_by(name, known)]
        if not names or (wrong := [name for name in names if not _read_by(name, known)]):
            raise SiteError(
                f"UpdateNorms compares {', '.join(READ)} with the stream before it, got {wrong[0] if names else 'a model without any'}"
            )
        return [(name, _read_by(name, known)) for name in names]

    def finish(self) -> pd.DataFrame:
        rows = []
        for name in dict.fromkeys(key.partition("|")[0] for key in self.state):
            parts = {kind: [self.state[f"{name}|{what}|{kind}"] for what in ("ratio", "cosine")] for kind in (FIRST, REST)}
            both = [join_moments(a, b) for a, b in zip(*parts.values(), strict=True)]
            for positions, (ratio, cosine) in {ALL: both, WITHOUT_FIRST: parts[REST]}.items():
                size, angle = described(ratio), described(cosine)
                rows.append({
                    "site": name, "layer": layer_of(name), "positions": positions, "n": int(ratio["n"]),
                    "ratio": float(size["mean"]), "ratio_std": float(size["variance"]) ** 0.5, "ratio_largest": float(size["largest"]),
                    "cosine": float(angle["mean"]), "cosine_std": float(angle["variance"]) ** 0.5,
                })  # fmt: skip
        return tidy(rows)

    def _measure(self, seen: Seen) -> dict[str, Part]:
        (name, update), (_, stream) = seen.values.items()
        first = (seen.positions == 0).to(update.device)
        mask = seen.mask.to(update.device)
        state = {}
        for kind, chosen in {FIRST: mask & first, REST: mask & ~first}.items():
            ratio, cosine = compared(update[chosen], stream[chosen])
            for what, values in {"ratio": ratio, "cosine": cosine}.items():
                state[f"{name}|{what}|{kind}"] = moments_of(values[values.isfinite()])
        return state

    def _join(self, a: Part, b: Part) -> Part:
        return join_moments(a, b)


def compared(update: Float[Tensor, "token d"], stream: Float[Tensor, "token d"]) -> tuple[Float[Tensor, "token"], Float[Tensor, "token"]]:
    """‖u‖ / ‖x‖ and cos(u, x) of each token, not finite beside a zero vector."""
    u, x = exact(update), exact(stream)
    size, before = u.norm(dim=-1), x.norm(dim=-1)
    return size / before, torch.einsum("td,td->t", u, x) / (size * before)


def _read_by(name: str, known: Sequence[str]) -> str | None:
    """The stream that an update is added to, None for what is no update."""
    block, _, word = name.rpartition(".")
    return next((f"{block}.{stream}" for stream in READ.get(word, "").split() if f"{block}.{stream}" in known), None)


STATISTIC = UpdateNorms
