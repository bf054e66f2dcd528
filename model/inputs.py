"""Is this something that the model can read? Every mistake in tokens and mask is one sentence with the number in it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def check_inputs(
    tokens: Int[Tensor, "batch pos"], mask: Bool[Tensor, "batch pos"] | None, *, d_vocab: int, n_ctx: int,
    n_read: int = 0, read: Bool[Tensor, "batch read"] | None = None,
) -> Bool[Tensor, "batch pos"] | None:
    """Raise ValueError unless the model can read these, behind `n_read` tokens already read.

    Returns the mask, None where every token is real.
    """
    if not isinstance(tokens, Tensor):
        raise ValueError(f"tokens must be a tensor of token ids [batch, pos], got {type(tokens).__name__}")
    if tokens.dim() != 2:
        raise ValueError(f"tokens must have two axes [batch, pos], got shape {tuple(tokens.shape)}")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"tokens must be whole numbers (torch.long), got {tokens.dtype}")
    if tokens.numel() == 0:
        raise ValueError(f"tokens must hold at least one example and one position, got shape {tuple(tokens.shape)}")
    low, high = (int(x) for x in tokens.aminmax())
    if low < 0 or high >= d_vocab:
        raise ValueError(f"token ids must be from 0 to {d_vocab - 1} (d_vocab={d_vocab}), got {low if low < 0 else high}")
    longest = n_read + tokens.shape[1]
    if mask is not None:
        mask = _check_mask(tokens, mask)
    if longest > n_ctx and (mask is not None or read is not None):
        before = torch.full((len(tokens),), n_read, device=tokens.device) if read is None else read.sum(-1)
        longest = int((before + (tokens.shape[1] if mask is None else mask.sum(-1))).max())
    if longest > n_ctx:
        raise ValueError(f"the context holds {n_ctx} tokens (n_ctx={n_ctx}), got a sequence of {longest}")
    return mask


def check_segments(segments: Int[Tensor, "batch pos"], tokens: Int[Tensor, "batch pos"], n_segments: int) -> Int[Tensor, "batch pos"]:
    """Raise ValueError unless these are segment numbers of these tokens."""
    if segments.shape != tokens.shape:
        raise ValueError(f"segments must have the shape of tokens {tuple(tokens.shape)}, got {tuple(segments.shape)}")
    low, high = (int(x) for x in segments.aminmax())
    if low < 0 or high >= n_segments:
        raise ValueError(f"segments must be from 0 to {n_segments - 1}, got {low if low < 0 else high}")
    return segments


def _check_mask(tokens: Tensor, mask: Tensor) -> Tensor | None:
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a bool tensor, True at real tokens, got {kind}")
    if mask.shape != tokens.shape:
        raise ValueError(f"mask must have the shape of tokens {tuple(tokens.shape)}, got {tuple(mask.shape)}")
    return None if bool(mask.all()) else mask
