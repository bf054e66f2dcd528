"""On what input are a bridge's hooks tried? A few tokens, each at several places, and how long every axis is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A small input, and how long each axis of a site is on it."""

    tokens: tuple[Tensor, ...]
    """of one stack, or the source's and the target's; every token stands at several places"""
    sizes: Mapping[str, int]
    score_cap: float | None
    rotary: bool
    """are q and k rotated before they meet"""
    rounding: float
    """by how much, of the largest logit, an example may differ because of the others in its batch: they share no arithmetic
    but in mixtures of experts"""

    @staticmethod
    def of(bridge: Any, *, two_stacks: bool) -> Probe:
        """Three examples of a few tokens that have no role."""
        cfg, device = bridge.cfg, next(bridge.original_model.parameters()).device
        foreign = bridge.original_model.config
        roles = {getattr(foreign, f"{role}_token_id", None) for role in ("pad", "bos", "eos", "decoder_start", "mask")}
        words = torch.tensor([i for i in range(min(cfg.d_vocab, 200)) if i not in roles][-60:])
        n = min(6, cfg.n_ctx)
        order = torch.randperm(len(words), generator=torch.Generator().manual_seed(0))
        first = words[order.repeat(n)[:n]]
        target = torch.stack([first, first.roll(1), first.flip(0)]).to(device)  # the same tokens at other places
        cap = getattr(cfg, "attn_scores_soft_cap", None)
        return Probe(
            tokens=(target.roll(2, dims=1)[:, : n - 1], target) if two_stacks else (target,),
            sizes={
                "batch": 3,
                "pos": n,
                "1": 1,
                "d_model": cfg.d_model,
                "head": cfg.n_heads,
                "d_head": cfg.d_head,
                "kv_head": getattr(cfg, "n_key_value_heads", None) or cfg.n_heads,
            },
            score_cap=cap if cap and cap > 0 else None,
            rounding=4 * torch.finfo(cfg.dtype).eps if getattr(cfg, "num_experts", None) else 0.0,
            rotary=getattr(cfg, "positional_embedding_type", "standard") == "rotary",
        )

    def length(self, name: str, axis: str) -> int | None:
        """How long an axis of a site is; None if any length will do."""
        in_source = len(self.tokens) > 1 and name.startswith("encoder.")
        reads_source = in_source or ".cross_attn." in name
        n, m = self.sizes["pos"], self.sizes["pos"] - (len(self.tokens) > 1)
        if axis in ("pos", "query"):
            return m if in_source or (reads_source and name.endswith((".k", ".v"))) else n
        return (m if reads_source else n) if axis == "key" else self.sizes.get(axis)

    def repeated(self, row: int, times: int) -> tuple[Tensor, ...]:
        """One example, several times."""
        return tuple(x[row].expand(times, -1).contiguous() for x in self.tokens)
