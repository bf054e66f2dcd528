"""What does an attention head do? Entropy, distance, and the mass on the ends, the neighbours, the repeated and the aligned token.

Every function takes patterns, Float[batch head query key], whose rows sum to 1, and a `View`: what the queries may see in
causal, full and cross-attention, and which tokens are real. Positions are counted from the masks, so that padding on either
side changes nothing; rows of padding are NaN or left out. Scores that need a distance within one sequence (previous, same and
next token, mean distance, repetitions) are NaN in cross-attention.

`without` takes an attention sink out of the keys and renormalises the rest: "first" the first real key, α_ij / (1 − α_i0), the
sink of decoders; "ends" the first and the last, where encoders rest ([CLS] and [SEP], Clark et al. 2019). The mass on a sink
says little about what a head looks for.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.statistics._view import Pattern, View, Without

CAUSAL = View()
"""Causal self-attention of tokens that are all real."""
ONE_KEY = 1e-6
"""tokens²: a head whose keys vary less looks at one key only, whatever the query"""


def row_sum_error(pattern: Pattern, view: View = CAUSAL) -> float:
    """The largest |Σ_j α_ij − 1| over the rows of real tokens that see a key: 0 but for rounding."""
    rows = view.visible(pattern).any(-1)  # rows 1 query
    error = (_exact(pattern).sum(-1) - 1).abs()
    return _largest(error.masked_fill(~rows, 0.0))


def hidden_mass(pattern: Pattern, view: View = CAUSAL) -> float:
    """The largest |α_ij| at a key that the query must not see (later, padding, out of the span): exactly 0; NaN where none is hidden."""
    keys = view.visible(pattern)
    hidden = ~keys & keys.any(-1, keepdim=True)
    return _largest(_exact(pattern).masked_fill(~hidden, 0.0).abs()) if bool(hidden.any()) else float("nan")


def row_entropy(
    pattern: Pattern, view: View = CAUSAL, *, normalised: bool = False, without: Without = "nothing"
) -> Float[Tensor, "batch head query"]:
    """H_i = −Σ_j α_ij ln α_ij in nats, or H_i / ln(number of visible keys); NaN where fewer than two keys are visible.

    >>> row_entropy(torch.tensor([[[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.5, 0.25, 0.25]]]]), normalised=True, without="first")
    tensor([[[nan, nan, 1.]]])
    """
    pattern, keys = _rest(pattern, view, without)
    n_keys = keys.sum(-1)  # rows 1 query
    entropy = torch.special.entr(_exact(pattern)).sum(-1)
    if normalised:
        entropy = entropy / n_keys.clamp(min=2).to(entropy.dtype).log()
    return entropy.masked_fill(n_keys < 2, torch.nan)


def first_token_mass(pattern: Pattern, view: View = CAUSAL) -> Float[Tensor, "batch head"]:
    """Mean mass on the first real token, over the rows that see it and at least one more."""
    return _end_mass(pattern, view, view.first_key(pattern))


def last_token_mass(pattern: Pattern, view: View = CAUSAL) -> Float[Tensor, "batch head"]:
    """Mean mass on the last real token ([SEP] of an encoder, Clark et al. 2019), over the rows that see it and at least one more."""
    return _end_mass(pattern, view, view.last_key(pattern))


def received_mass(pattern: Pattern, view: View = CAUSAL, *, length: int = 64) -> Float[Tensor, "batch head key"]:
    """α_k = 1/(T−k+1) Σ_{i≥k} A_ik over the first T = `length` real tokens (Gu et al. 2024); NaN at other keys.

    A head has a sink at token k where α_k > ε = 0.3; Sink_k is the share of such heads. The last columns rest on few
    rows: α_T is one number. Where queries see later keys the mean is over all that see k; in cross-attention T counts
    queries alone.
    """
    queries = view.query_positions(pattern) < length  # rows query
    keys = view.key_positions(pattern) < length if view.one_sequence else torch.ones_like(view.key_positions(pattern), dtype=torch.bool)
    pairs = view.visible(pattern) & queries[:, None, :, None] & keys[:, None, None, :]
    mean = (_exact(pattern) * pairs).sum(-2) / pairs.sum(-2)  # batch head key; 0/0 = NaN outside
    return mean.masked_fill(~keys[:, None, :], torch.nan)


def sink_score(pattern: Pattern, view: View = CAUSAL, *, length: int = 64) -> Float[Tensor, "batch head"]:
    """α_1 of `received_mass`: the mass that the first real token receives, its own row included (Gu et al. 2024)."""
    received = received_mass(pattern, view, length=length)
    return received.masked_fill(~view.first_key(pattern)[:, :, 0], 0.0).sum(-1)


def mean_distance(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """Σ_ij α_ij |i − j| / Σ_ij α_ij in tokens, over the rows that see at least two keys (Vig & Belinkov 2019, equation 2).

    A row without a choice is left out; `without` takes columns out of both sums. NaN in cross-attention.
    """
    if not view.one_sequence:
        return _undefined(pattern)
    keys = view.visible(pattern)
    keys = keys & (keys.sum(-1, keepdim=True) >= 2) & ~view.left_out(pattern, without)
    alpha = _exact(pattern) * keys
    apart = view.offsets(pattern).abs().to(alpha.dtype)  # rows 1 query key
    return (alpha * apart).sum((-2, -1)) / alpha.sum((-2, -1))


def previous_token_score(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−1}; a previous-token head has more than 0.4 (convention of the ARENA and TransformerLens demos)."""
    return offset_score(pattern, 1, view, without=without)


def same_token_score(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """mean_i A_ii: how much a token looks at itself."""
    return offset_score(pattern, 0, view, without=without)


def next_token_score(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i+1} (Clark et al. 2019, section 3.1); NaN in causal attention, which sees no next token."""
    return offset_score(pattern, -1, view, without=without)


def induction_score(pattern: Pattern, period: int, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−P+1} over i ≥ P, on tokens that repeat with period P: the token after the earlier occurrence.

    An induction head has more than 0.4 (ARENA and TransformerLens demos). On tokens that differ within a period and
    are repeated once this equals `prefix_matching_score`.
    """
    return offset_score(pattern, period - 1, view, from_query=period, without=without)


def duplicate_token_score(
    pattern: Pattern, period: int, view: View = CAUSAL, *, without: Without = "nothing"
) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−P} over i ≥ P, on tokens that repeat with period P: the earlier occurrence itself (Wang et al. 2023).

    Not to be confused with induction, although several repositories publish this offset under that name.
    """
    return offset_score(pattern, period, view, from_query=period, without=without)


def prefix_matching_score(
    pattern: Pattern, tokens: Int[Tensor, "batch pos"], view: View = CAUSAL, *, without: Without = "nothing"
) -> Float[Tensor, "batch head"]:
    """Mean mass on all tokens that followed earlier occurrences of the query's token (Olsson et al. 2022), by token identity.

    Averaged over the rows that have such a token; NaN in cross-attention. The definition is for repeated random tokens; on
    text it also counts repetitions that are no evidence of induction.
    """
    if not view.one_sequence:
        return _undefined(pattern)
    return _mean_mass(pattern, _keys_after_same_token(pattern, tokens, view), view, without)


def offset_score(
    pattern: Pattern, offset: int, view: View = CAUSAL, *, from_query: int = 0, without: Without = "nothing"
) -> Float[Tensor, "batch head"]:
    """mean_i A_{i,i−offset} over the real tokens i ≥ `from_query` that see such a key; NaN where there is none, and in cross-attention."""
    if not view.one_sequence:
        return _undefined(pattern)
    late = (view.query_positions(pattern) >= from_query)[:, None, :, None]
    return _mean_mass(pattern, (view.offsets(pattern) == offset) & late, view, without)


def monotonicity(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """Correlation of query position i and key position j, every pair weighted by its mass α_ij: from −1 to 1.

    1 where attention moves through the keys in step with the queries, as an alignment does; 0 where all queries look at the
    same keys, however sharply; negative where it moves backwards. A slow drift of broad attention counts little, unlike in
    the rank correlation of i with the expected key. NaN with fewer than three queries, and where all mass is on one key. A
    convention of this toolkit.

    >>> monotonicity(torch.eye(4)[None, None]), monotonicity(torch.full((1, 1, 4, 5), 0.2), View(kind="cross"))
    (tensor([[1.]]), tensor([[0.]]))
    """
    pattern, keys = _rest(pattern, view, without)
    alpha = torch.nan_to_num(_exact(pattern)) * keys  # batch head query key; a row of which nothing is left weighs nothing
    total = alpha.sum((-2, -1), keepdim=True)
    queries = view.query_positions(pattern)[:, None, :, None].to(alpha.dtype)
    where = view.key_positions(pattern)[:, None, None, :].to(alpha.dtype)
    i, j = (x - (alpha * x).sum((-2, -1), keepdim=True) / total for x in (queries, where))
    together, queries_vary, keys_vary = ((alpha * product).sum((-2, -1)) / total[..., 0, 0] for product in (i * j, i * i, j * j))
    undefined = ((alpha.sum(-1) > 0).sum(-1) < 3) | (keys_vary < ONE_KEY)
    return (together / (queries_vary * keys_vary).sqrt()).masked_fill(undefined, torch.nan)


def diagonal_share(pattern: Pattern, view: View = CAUSAL, *, without: Without = "nothing") -> Float[Tensor, "batch head"]:
    """Share of queries whose largest mass lies within one key of the line from the first pair of real tokens to the last.

    The line is j = i · (n_keys − 1) / (n_queries − 1), a constant pace through the other sequence. Rows of which `without`
    leaves nothing are left out; NaN with fewer than three. Chance is about 3 / n_keys. A convention of this toolkit.

    >>> diagonal_share(torch.eye(3, 6).roll(1, -1)[None, None], View(kind="cross"))  # keys 1, 2, 3; the line is at 0, 2.5, 5
    tensor([[0.6667]])
    """
    pattern, keys = _rest(pattern, view, without)
    alpha = torch.nan_to_num(_exact(pattern)) * keys
    rows = alpha.sum(-1) > 0  # batch head query
    queries, where = view.query_positions(pattern), view.key_positions(pattern)
    pace = where.amax(-1, keepdim=True) / queries.amax(-1, keepdim=True).clamp(min=1)  # rows 1
    line = (queries * pace)[:, None].expand(len(alpha), alpha.shape[1], -1)
    largest = where.expand(len(alpha), -1)[:, None].expand(-1, alpha.shape[1], -1).gather(-1, alpha.argmax(-1))  # batch head query
    near = ((largest - line).abs() <= 1) & rows
    n = rows.sum(-1)
    return (near.sum(-1) / n).masked_fill(n < 3, torch.nan)


def _keys_after_same_token(pattern: Pattern, tokens: Int[Tensor, "batch pos"], view: View) -> Bool[Tensor, "batch 1 query key"]:
    """True at (i, j) where token j − 1 equals token i and j ≤ i: where an induction head looks."""
    index = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    real = torch.ones_like(tokens, dtype=torch.bool) if view.mask is None else view.mask
    last = torch.where(real, index, -1).cummax(1).values.roll(1, 1)  # the real token before, -1 for the first
    before = tokens.gather(1, last.clamp(min=0))
    same = (tokens[:, :, None] == before[:, None, :]) & (view.key_positions(pattern) > 0)[:, None, :]
    return same[:, None] & (view.offsets(pattern) >= 0) & view.visible(pattern)


def _end_mass(pattern: Pattern, view: View, end: Bool[Tensor, "rows 1 1 key"]) -> Float[Tensor, "batch head"]:
    keys = view.visible(pattern)
    end = end & keys & (keys.sum(-1, keepdim=True) >= 2)
    return _mass(pattern, end).masked_fill(~end.any(-1), torch.nan).nanmean(-1)


def _mean_mass(pattern: Pattern, keys: Bool[Tensor, "rows 1 query key"], view: View, without: Without) -> Float[Tensor, "batch head"]:
    """Mean over rows of the mass on `keys`; rows without one are left out."""
    pattern, left = _rest(pattern, view, without)
    keys = keys & left
    return _mass(pattern, keys).masked_fill(~keys.any(-1), torch.nan).nanmean(-1)


def _mass(pattern: Pattern, keys: Bool[Tensor, "rows 1 query key"]) -> Float[Tensor, "batch head query"]:
    return (_exact(pattern) * keys).sum(-1)


def _rest(pattern: Pattern, view: View, without: Without) -> tuple[Pattern, Bool[Tensor, "rows 1 query key"]]:
    """The pattern over the keys that are not left out, renormalised (NaN where nothing is left), and which of them are visible."""
    keys = view.visible(pattern)
    if without == "nothing":
        return pattern, keys
    out = view.left_out(pattern, without)
    rest = _exact(pattern).masked_fill(out, 0.0)
    return rest / rest.sum(-1, keepdim=True), keys & ~out


def _undefined(pattern: Pattern) -> Float[Tensor, "batch head"]:
    return _exact(pattern).new_full(pattern.shape[:2], torch.nan)


def _exact(pattern: Pattern) -> Pattern:
    return pattern.to(torch.promote_types(pattern.dtype, torch.float32))


def _largest(values: Tensor) -> float:
    """The maximum, NaN if there is one among the values."""
    return float(values.max())
