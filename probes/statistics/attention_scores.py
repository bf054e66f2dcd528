"""What does an attention head do? Entropy, distance, and the mass on the first, the previous and the repeated token.

Every function takes patterns of a causal model, Float[batch head query key], whose rows sum to 1, and a mask that is
True at real tokens (None: all are). Positions are counted from the mask, so that padding on either side changes
nothing; rows of padding are NaN. `without_first=True` takes the first real token out of the keys and renormalises the
rest, α_ij / (1 − α_i0): the mass that rests on an attention sink says little about what a head looks for.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Pattern = Float[Tensor, "batch head query key"]
Mask = Bool[Tensor, "batch pos"] | None


def row_sum_error(pattern: Pattern, mask: Mask = None) -> float:
    """The largest |Σ_j α_ij − 1| over the rows of real tokens: 0 but for rounding."""
    rows = visible_keys(pattern, mask).any(-1)  # rows 1 query
    error = (_exact(pattern).sum(-1) - 1).abs()
    return _largest(error.masked_fill(~rows, 0.0))


def hidden_mass(pattern: Pattern, mask: Mask = None) -> float:
    """The largest |α_ij| at a key that the query must not see, a later one or padding: exactly 0."""
    keys = visible_keys(pattern, mask)
    return _largest(_exact(pattern).masked_fill(keys | ~keys.any(-1, keepdim=True), 0.0).abs())


def row_entropy(pattern: Pattern, mask: Mask = None, *, normalised: bool = False, without_first: bool = False) -> Float[Tensor, "batch head query"]:
    """H_i = −Σ_j α_ij ln α_ij in nats, or H_i / ln(number of visible keys); NaN where fewer than two keys are visible.

    >>> row_entropy(torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]]]), normalised=True, without_first=True)
    tensor([[[nan, nan, 1.]]])
    """
    keys = visible_keys(pattern, mask)
    if without_first:
        pattern, keys = _without_first(pattern, mask), keys & ~first_key(pattern, mask)
    n_keys = keys.sum(-1)  # rows 1 query
    entropy = torch.special.entr(_exact(pattern)).sum(-1)
    if normalised:
        entropy = entropy / n_keys.clamp(min=2).to(entropy.dtype).log()
    return entropy.masked_fill(n_keys < 2, torch.nan)


def first_token_mass(pattern: Pattern, mask: Mask = None) -> Float[Tensor, "batch head"]:
    """Mean mass on the first real token, over the rows that see at least one more."""
    mass = _mass(pattern, first_key(pattern, mask) & visible_keys(pattern, mask))
    return mass.masked_fill(visible_keys(pattern, mask).sum(-1) < 2, torch.nan).nanmean(-1)


def received_mass(pattern: Pattern, mask: Mask = None, *, length: int = 64) -> Float[Tensor, "batch head key"]:
    """α_k = 1/(T−k+1) Σ_{i≥k} A_ik over the first T = `length` real tokens (Gu et al. 2024); NaN at other keys.

    A head has a sink at token k where α_k > ε = 0.3; Sink_k is the share of such heads. The last columns rest on few
    rows: α_T is one number.
    """
    inside = real_positions(pattern, mask) < length  # rows pos
    if mask is not None:
        inside = inside & mask
    pairs = visible_keys(pattern, mask) & inside[:, None, :, None] & inside[:, None, None, :]
    mean = (_exact(pattern) * pairs).sum(-2) / pairs.sum(-2)  # batch head key; 0/0 = NaN outside
    return mean.masked_fill(~inside[:, None, :], torch.nan)


def sink_score(pattern: Pattern, mask: Mask = None, *, length: int = 64) -> Float[Tensor, "batch head"]:
    """α_1 of `received_mass`: the mass that the first real token receives, its own row included (Gu et al. 2024)."""
    received = received_mass(pattern, mask, length=length)
    return received.masked_fill(~first_key(pattern, mask)[:, :, 0], 0.0).sum(-1)


def mean_distance(pattern: Pattern, mask: Mask = None, *, without_first: bool = False) -> Float[Tensor, "batch head"]:
    """Σ_ij α_ij |i − j| / Σ_ij α_ij in tokens, over the rows that see at least two keys (Vig & Belinkov 2019, equation 2).

    The first row has no choice and is left out; `without_first` takes the first column out of both sums.
    """
    keys = visible_keys(pattern, mask)
    keys = keys & (keys.sum(-1, keepdim=True) >= 2)
    if without_first:
        keys = keys & ~first_key(pattern, mask)
    alpha = _exact(pattern) * keys
    where = real_positions(pattern, mask).to(alpha.dtype)
    apart = (where[:, None, :, None] - where[:, None, None, :]).abs()  # rows 1 query key
    return (alpha * apart).sum((-2, -1)) / alpha.sum((-2, -1))


def previous_token_score(pattern: Pattern, mask: Mask = None, *, without_first: bool = False) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−1}; a previous-token head has more than 0.4 (convention of the ARENA and TransformerLens demos)."""
    return offset_score(pattern, 1, mask, without_first=without_first)


def induction_score(pattern: Pattern, period: int, mask: Mask = None, *, without_first: bool = False) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−P+1} over i ≥ P, on tokens that repeat with period P: the token after the earlier occurrence.

    An induction head has more than 0.4 (ARENA and TransformerLens demos). On tokens that differ within a period and
    are repeated once this equals `prefix_matching_score`.
    """
    return offset_score(pattern, period - 1, mask, from_query=period, without_first=without_first)


def duplicate_token_score(pattern: Pattern, period: int, mask: Mask = None, *, without_first: bool = False) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−P} over i ≥ P, on tokens that repeat with period P: the earlier occurrence itself (Wang et al. 2023).

    Not to be confused with induction, although several repositories publish this offset under that name.
    """
    return offset_score(pattern, period, mask, from_query=period, without_first=without_first)


def prefix_matching_score(
    pattern: Pattern, tokens: Int[Tensor, "batch pos"], mask: Mask = None, *, without_first: bool = False
) -> Float[Tensor, "batch head"]:
    """Mean mass on all tokens that followed earlier occurrences of the query's token (Olsson et al. 2022), by token identity.

    Averaged over the rows that have such a token. The definition is for repeated random tokens; on text it also counts
    repetitions that are no evidence of induction.
    """
    return _mean_mass(pattern, keys_after_same_token(pattern, tokens, mask), mask, without_first)


def offset_score(
    pattern: Pattern, offset: int, mask: Mask = None, *, from_query: int = 0, without_first: bool = False
) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−offset} over the real tokens i ≥ `from_query` that have such a key; NaN where there is none."""
    where = real_positions(pattern, mask)
    keys = (where[:, None, :, None] - where[:, None, None, :] == offset) & (where >= from_query)[:, None, :, None]
    return _mean_mass(pattern, keys, mask, without_first)


def keys_after_same_token(pattern: Pattern, tokens: Int[Tensor, "batch pos"], mask: Mask = None) -> Bool[Tensor, "batch 1 query key"]:
    """True at (i, j) where token j − 1 equals token i and j ≤ i: where an induction head looks."""
    where = real_positions(pattern, mask)
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    real = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    last = torch.where(real, index, -1).cummax(1).values.roll(1, 1)  # the real token before, -1 for the first
    before = tokens.gather(1, last.clamp(min=0))
    same = (tokens[:, :, None] == before[:, None, :]) & (where > 0)[:, None, :]
    return same[:, None] & visible_keys(pattern, mask)


def visible_keys(pattern: Pattern, mask: Mask = None) -> Bool[Tensor, "rows 1 query key"]:
    """True where a real query may look: at itself and at earlier real tokens. `rows` is 1 where nothing is masked."""
    n = pattern.shape[-1]
    causal = torch.ones(n, n, dtype=torch.bool, device=pattern.device).tril()[None, None]
    return causal if mask is None else causal & mask[:, None, None, :] & mask[:, None, :, None]


def first_key(pattern: Pattern, mask: Mask = None) -> Bool[Tensor, "rows 1 1 key"]:
    """True at the first real token."""
    first = real_positions(pattern, mask) == 0
    return (first if mask is None else first & mask)[:, None, None, :]


def real_positions(pattern: Pattern, mask: Mask = None) -> Int[Tensor, "rows pos"]:
    """The number of each token among the real ones, from 0; what padding has is not to be used."""
    if mask is None:
        return torch.arange(pattern.shape[-1], device=pattern.device)[None]
    return (mask.long().cumsum(1) - 1).clamp(min=0)


def _mean_mass(pattern: Pattern, keys: Bool[Tensor, "rows 1 query key"], mask: Mask, without_first: bool) -> Float[Tensor, "batch head"]:
    """Mean over rows of the mass on `keys`; rows without one are left out."""
    keys = keys & visible_keys(pattern, mask)
    if without_first:
        keys, pattern = keys & ~first_key(pattern, mask), _without_first(pattern, mask)
    return _mass(pattern, keys).masked_fill(~keys.any(-1), torch.nan).nanmean(-1)


def _mass(pattern: Pattern, keys: Bool[Tensor, "rows 1 query key"]) -> Float[Tensor, "batch head query"]:
    return (_exact(pattern) * keys).sum(-1)


def _without_first(pattern: Pattern, mask: Mask) -> Pattern:
    """The pattern over the other keys, renormalised; NaN where nothing is left."""
    rest = _exact(pattern).masked_fill(first_key(pattern, mask), 0.0)
    return rest / rest.sum(-1, keepdim=True)


def _exact(pattern: Pattern) -> Pattern:
    return pattern.to(torch.promote_types(pattern.dtype, torch.float32))


def _largest(values: Tensor) -> float:
    """The maximum, NaN if there is one among the values."""
    return float(values.max())
