"""Do the attention scores mean what their definitions say? Planted patterns, naive loops, padding; causal, full and cross-attention."""

import math

import numpy as np
import pytest
import torch

from probes.statistics import View
from probes.statistics import attention_scores as scores

N, P = 8, 4


def planted(offset: int, n: int = N) -> torch.Tensor:
    """Every query looks at the key `offset` before it, at itself where there is none."""
    pattern = torch.zeros(1, 1, n, n)
    for i in range(n):
        pattern[0, 0, i, i - offset if i >= offset else i] = 1.0
    return pattern


def random_pattern(seed: int = 0, batch: int = 2, heads: int = 3, n: int = N) -> torch.Tensor:
    logits = 2 * torch.randn(batch, heads, n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.masked_fill(~torch.ones(n, n, dtype=torch.bool).tril(), -torch.inf).softmax(-1)


def test_each_planted_head_has_its_score_and_no_other() -> None:
    kinds = {"previous": planted(1), "induction": planted(P - 1), "duplicate": planted(P)}
    measured = {
        "previous": scores.previous_token_score,
        "induction": lambda p: scores.induction_score(p, P),
        "duplicate": lambda p: scores.duplicate_token_score(p, P),
    }
    for kind, pattern in kinds.items():
        assert {name: score(pattern).item() for name, score in measured.items()} == {name: float(name == kind) for name in measured}


def test_prefix_matching_is_induction_on_tokens_repeated_once_and_counts_every_repeat_beyond() -> None:
    pattern, once = random_pattern(n=2 * P), torch.arange(P)
    tokens = torch.cat([once, once]).expand(2, -1)
    torch.testing.assert_close(scores.prefix_matching_score(pattern, tokens), scores.induction_score(pattern, P))
    thrice = torch.cat([once, once, once])[None]
    assert (
        scores.prefix_matching_score(planted(2 * P - 1, 3 * P), thrice).item() == 0.5
    )  # the third occurrence finds the first, the second finds nothing
    assert scores.induction_score(planted(2 * P - 1, 3 * P), P).item() == 0.0


def test_prefix_matching_is_not_duplicate_token_attention() -> None:
    tokens = torch.arange(P).repeat(2)[None]
    assert scores.prefix_matching_score(planted(P), tokens).item() == 0.0


def test_uniform_attention_has_the_largest_entropy_and_known_means() -> None:
    uniform = torch.ones(N, N).tril()
    uniform = (uniform / uniform.sum(-1, keepdim=True))[None, None]
    torch.testing.assert_close(scores.row_entropy(uniform, normalised=True)[0, 0, 1:], torch.ones(N - 1))
    assert scores.row_entropy(uniform)[0, 0, 0].isnan()
    assert scores.first_token_mass(uniform).item() == pytest.approx(np.mean([1 / (i + 1) for i in range(1, N)]))
    assert scores.sink_score(uniform, length=N).item() == pytest.approx(np.mean([1 / (i + 1) for i in range(N)]))
    assert scores.mean_distance(uniform).item() == pytest.approx(np.mean([i / 2 for i in range(1, N)]))


def test_a_sink_hides_an_induction_head_until_it_is_taken_out() -> None:
    sink = torch.zeros_like(planted(1))
    sink[..., 0] = 1.0
    half = 0.9 * sink + 0.1 * planted(P - 1)
    assert scores.induction_score(half, P).item() == pytest.approx(0.1)
    assert scores.induction_score(half, P, without="first").item() == pytest.approx(1.0)
    assert scores.row_entropy(sink, without="first").isnan().all()  # nothing is left
    assert scores.previous_token_score(sink, without="first").isnan().all()


@pytest.mark.parametrize("without", ["nothing", "first"])
def test_row_scores_equal_naive_loops(without: str) -> None:
    pattern = random_pattern()
    entropy, distance, previous = (np.full((2, 3, N), np.nan), np.zeros((2, 3)), np.zeros((2, 3)))
    for b in range(2):
        for h in range(3):
            moved, mass, steps = 0.0, 0.0, []
            for i in range(N):
                keys = [j for j in range(i + 1) if not (without == "first" and j == 0)]
                row = {j: pattern[b, h, i, j].item() for j in keys}
                total = sum(row.values())
                if len(keys) >= 2:
                    entropy[b, h, i] = -sum(a / total * math.log(a / total) for a in row.values()) / math.log(len(keys))
                if i >= 1:
                    moved += sum(a * (i - j) for j, a in row.items())
                    mass += total
                if i - 1 in row:
                    steps.append(row[i - 1] / total)
            distance[b, h], previous[b, h] = moved / mass, np.mean(steps)
    np.testing.assert_allclose(scores.row_entropy(pattern, normalised=True, without=without), entropy, rtol=1e-9)
    np.testing.assert_allclose(scores.mean_distance(pattern, without=without), distance, rtol=1e-9)
    np.testing.assert_allclose(scores.previous_token_score(pattern, without=without), previous, rtol=1e-9)


def test_received_mass_equals_the_formula_and_adds_up() -> None:
    pattern, length = random_pattern(), 5
    received = scores.received_mass(pattern, length=length)
    for k in range(length):
        np.testing.assert_allclose(received[..., k], np.mean([pattern[..., i, k].numpy() for i in range(k, length)], axis=0), rtol=1e-12)
    assert received[..., length:].isnan().all()
    weights = torch.arange(length, 0, -1, dtype=torch.float64)
    torch.testing.assert_close(
        (received[..., :length] * weights).sum(-1), torch.full((2, 3), float(length), dtype=torch.float64)
    )  # Σ_j C_j = n


@pytest.mark.parametrize("places", [range(3, 3 + N), range(N), [0, 2, 3, 5, 6, 7, 9, 10]], ids=["left", "right", "holes"])
def test_padding_changes_nothing(places) -> None:
    pattern, places = random_pattern(batch=1), list(places)
    tokens = torch.tensor([[3, 1, 3, 1, 3, 1, 3, 1]])
    wide, mask, padded = torch.rand(1, 3, 11, 11, dtype=torch.float64), torch.zeros(1, 11, dtype=torch.bool), torch.full((1, 11), 3)
    mask[0, places] = True
    wide[:, :, places] = 0.0
    for i, at in enumerate(places):
        wide[:, :, at, places] = pattern[:, :, i]
    padded[0, places] = tokens[0]
    view = View(mask=mask)
    for without in ("nothing", "first"):
        for score in (scores.previous_token_score, scores.mean_distance):
            torch.testing.assert_close(score(wide, view, without=without), score(pattern, without=without))
        torch.testing.assert_close(
            scores.induction_score(wide, P, view, without=without), scores.induction_score(pattern, P, without=without)
        )
        torch.testing.assert_close(
            scores.prefix_matching_score(wide, padded, view, without=without),
            scores.prefix_matching_score(pattern, tokens, without=without),
        )
        torch.testing.assert_close(
            scores.row_entropy(wide, view, without=without)[:, :, places], scores.row_entropy(pattern, without=without), equal_nan=True
        )
    torch.testing.assert_close(scores.first_token_mass(wide, view), scores.first_token_mass(pattern))
    torch.testing.assert_close(scores.sink_score(wide, view, length=5), scores.sink_score(pattern, length=5))
    assert scores.row_sum_error(wide, view) < 1e-12
    assert scores.hidden_mass(wide, view) == 0.0


def test_the_gates_see_a_row_that_is_off_and_mass_on_a_later_token() -> None:
    pattern = random_pattern()
    assert scores.row_sum_error(pattern) < 1e-12 and scores.hidden_mass(pattern) == 0.0
    pattern[1, 2, 3, 5] = 0.25
    assert scores.row_sum_error(pattern) == pytest.approx(0.25) and scores.hidden_mass(pattern) == 0.25
    pattern[0, 0, 0, 0] = torch.nan
    assert math.isnan(scores.row_sum_error(pattern))


def test_low_precision_is_reduced_in_single_precision() -> None:
    assert scores.row_entropy(random_pattern().bfloat16()).dtype == torch.float32


FULL, CROSS = View(kind="full"), View(kind="cross")


def rows_that_sum_to_1(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(-1)


def test_where_all_is_seen_the_next_token_and_the_last_have_scores() -> None:
    pattern = rows_that_sum_to_1((2, 3, N, N))
    p = pattern.numpy()
    step = [p[..., i, i + 1] for i in range(N - 1)]
    np.testing.assert_allclose(scores.next_token_score(pattern, FULL), np.mean(step, axis=0), rtol=1e-12)
    np.testing.assert_allclose(scores.same_token_score(pattern, FULL), np.mean([p[..., i, i] for i in range(N)], axis=0), rtol=1e-12)
    np.testing.assert_allclose(
        scores.previous_token_score(pattern, FULL), np.mean([p[..., i + 1, i] for i in range(N - 1)], axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(scores.first_token_mass(pattern, FULL), p[..., 0].mean(-1), rtol=1e-12)
    np.testing.assert_allclose(scores.last_token_mass(pattern, FULL), p[..., -1].mean(-1), rtol=1e-12)
    np.testing.assert_allclose(scores.received_mass(pattern, FULL, length=5)[..., :5], p[..., :5, :5].mean(-2), rtol=1e-12)
    apart = np.abs(np.arange(N)[:, None] - np.arange(N))
    np.testing.assert_allclose(scores.mean_distance(pattern, FULL), (p * apart).sum((-2, -1)) / N, rtol=1e-12)
    assert scores.next_token_score(random_pattern()).isnan().all()  # a causal head sees none


def test_without_the_ends_equals_a_naive_loop() -> None:
    p = rows_that_sum_to_1((1, 2, N, N))
    inner = p[..., 1:-1] / p[..., 1:-1].sum(-1, keepdim=True)
    entropy = -(inner * inner.log()).sum(-1)
    torch.testing.assert_close(scores.row_entropy(p, FULL, without="ends"), entropy)
    torch.testing.assert_close(scores.row_entropy(p, FULL, without="ends", normalised=True), entropy / math.log(N - 2))
    steps = torch.stack([inner[..., i, i] for i in range(N - 2)])  # query i looks at key i + 1, which is column i of the rest
    torch.testing.assert_close(scores.next_token_score(p, FULL, without="ends"), steps.mean(0))


def test_cross_attention_has_no_distance_within_a_sequence() -> None:
    pattern, tokens = rows_that_sum_to_1((2, 3, 4, 6)), torch.zeros(2, 4, dtype=torch.long)
    undefined = [
        scores.mean_distance(pattern, CROSS),
        scores.previous_token_score(pattern, CROSS),
        scores.next_token_score(pattern, CROSS),
        scores.same_token_score(pattern, CROSS),
        scores.induction_score(pattern, 2, CROSS),
        scores.prefix_matching_score(pattern, tokens, CROSS),
    ]
    assert all(values.shape == (2, 3) and values.isnan().all() for values in undefined)
    torch.testing.assert_close(scores.first_token_mass(pattern, CROSS), pattern[..., 0].mean(-1))
    torch.testing.assert_close(scores.row_entropy(pattern, CROSS, normalised=True), -(pattern * pattern.log()).sum(-1) / math.log(6))
    torch.testing.assert_close(scores.received_mass(pattern, CROSS, length=3), pattern[..., :3, :].mean(-2))


@pytest.mark.parametrize("queries", [range(4), range(3, 7), [0, 2, 3, 6]], ids=["right", "left", "holes"])
@pytest.mark.parametrize("keys", [range(6), range(3, 9), [1, 2, 4, 5, 7, 8]], ids=["right", "left", "holes"])
@pytest.mark.parametrize("without", ["nothing", "first", "ends"])
def test_padding_of_queries_and_of_keys_changes_nothing(queries, keys, without: str) -> None:
    pattern, queries, keys = rows_that_sum_to_1((1, 2, 4, 6)), list(queries), list(keys)
    wide = torch.rand(1, 2, 7, 9, dtype=torch.float64)  # padded queries look anywhere
    mask, key_mask = torch.zeros(1, 7, dtype=torch.bool), torch.zeros(1, 9, dtype=torch.bool)
    mask[0, queries], key_mask[0, keys] = True, True
    wide[:, :, queries] = 0.0
    for i, at in enumerate(queries):
        wide[:, :, at, keys] = pattern[:, :, i]
    view = View(kind="cross", mask=mask, key_mask=key_mask)
    for score in (scores.first_token_mass, scores.last_token_mass, scores.sink_score):
        torch.testing.assert_close(score(wide, view), score(pattern, CROSS))
    for score in (scores.monotonicity, scores.diagonal_share):
        torch.testing.assert_close(score(wide, view, without=without), score(pattern, CROSS, without=without))
    for normalised in (False, True):
        rows = scores.row_entropy(wide, view, normalised=normalised, without=without)
        torch.testing.assert_close(rows[:, :, queries], scores.row_entropy(pattern, CROSS, normalised=normalised, without=without))
        assert rows[:, :, ~mask[0]].isnan().all()
    assert scores.row_sum_error(wide, view) < 1e-12 and scores.hidden_mass(wide, view) == 0.0
    wide[0, 1, queries[2], (~key_mask[0]).nonzero()[0]] = 0.125
    assert scores.hidden_mass(wide, view) == 0.125


@pytest.mark.parametrize("places", [range(3, 3 + N), range(N)], ids=["left", "right"])
def test_padding_of_full_attention_changes_nothing(places) -> None:
    pattern, places = rows_that_sum_to_1((1, 3, N, N)), list(places)
    wide, mask = torch.rand(1, 3, 11, 11, dtype=torch.float64), torch.zeros(1, 11, dtype=torch.bool)
    mask[0, places] = True
    wide[:, :, places] = 0.0
    for i, at in enumerate(places):
        wide[:, :, at, places] = pattern[:, :, i]
    view = View(kind="full", mask=mask)
    for score in (scores.next_token_score, scores.previous_token_score, scores.same_token_score, scores.mean_distance):
        torch.testing.assert_close(score(wide, view, without="ends"), score(pattern, FULL, without="ends"))
    torch.testing.assert_close(scores.last_token_mass(wide, view), scores.last_token_mass(pattern, FULL))
    torch.testing.assert_close(
        scores.received_mass(wide, view, length=5)[..., places], scores.received_mass(pattern, FULL, length=5), equal_nan=True
    )


def test_prefix_matching_counts_earlier_occurrences_only_even_where_later_ones_are_seen() -> None:
    tokens = torch.arange(P).repeat(2)[None]
    forwards, backwards = torch.eye(2 * P)[None, None], torch.eye(2 * P)[None, None]
    for i in range(P - 1):
        forwards[0, 0, i] = torch.eye(2 * P)[i + P + 1]  # the token that will follow the later occurrence
    for i in range(P, 2 * P):
        backwards[0, 0, i] = torch.eye(2 * P)[i - P + 1]
    assert scores.prefix_matching_score(forwards, tokens, FULL).item() == 0.0
    assert scores.prefix_matching_score(backwards, tokens, FULL).item() == 1.0


def test_monotonicity_equals_the_weighted_correlation() -> None:
    pattern = rows_that_sum_to_1((2, 3, 5, 7), seed=4)
    i, j = (grid.ravel() for grid in np.indices((5, 7)))
    for b in range(2):
        for h in range(3):
            covariance = np.cov(i, j, aweights=pattern[b, h].numpy().ravel())
            expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
            assert scores.monotonicity(pattern, CROSS)[b, h].item() == pytest.approx(expected, abs=1e-12)


def test_a_planted_alignment_is_told_from_a_sink_and_from_a_drift() -> None:
    n, m = 12, 20
    aligned, backwards, drift, sink = torch.zeros(n, m), torch.zeros(n, m), torch.full((n, m), 1 / m), torch.zeros(n, m)
    pace = [round(i * (m - 1) / (n - 1)) for i in range(n)]
    aligned[range(n), pace], backwards[range(n), pace[::-1]], sink[:, -1] = 1.0, 1.0, 1.0
    drift[range(n), pace] += 0.01
    drift /= drift.sum(-1, keepdim=True)  # the expected key rises all the way: rank correlation 1
    pattern = torch.stack([aligned, backwards, drift, sink, 0.5 * sink + 0.5 * aligned])[None]
    along, along_rest = (scores.monotonicity(pattern, CROSS, without=without)[0].tolist() for without in ("nothing", "ends"))
    assert along[0] > 0.99 and along[1] < -0.99 and abs(along[2]) < 0.05 and math.isnan(along[3]) and along[4] < 0.7
    assert along_rest[4] > 0.99 and math.isnan(along_rest[3])
    share = scores.diagonal_share(pattern, CROSS)[0].tolist()
    assert share[0] == 1.0 and share[1] <= 2 / n and share[2] == 1.0 and share[3] <= 2 / n
    assert scores.diagonal_share(pattern, CROSS, without="ends")[0, 3].isnan()


def test_an_alignment_of_two_tokens_is_none() -> None:
    assert scores.monotonicity(torch.eye(2)[None, None], CROSS).isnan() and scores.diagonal_share(torch.eye(2)[None, None], CROSS).isnan()


def test_a_window_counts_the_keys_that_it_holds() -> None:
    window = (torch.arange(N)[:, None] - torch.arange(N)).abs() < 3
    seen = window & torch.ones(N, N, dtype=torch.bool).tril()
    uniform = (seen / seen.sum(-1, keepdim=True))[None, None]
    view = View(span=window[None, None])
    torch.testing.assert_close(scores.row_entropy(uniform, view, normalised=True)[0, 0, 1:], torch.ones(N - 1))
    assert scores.row_entropy(uniform, normalised=True)[0, 0, -1] < 0.6  # without it, as if all earlier keys were seen
    assert scores.first_token_mass(uniform, view).item() == pytest.approx(np.mean([1 / 2, 1 / 3]))  # the rows that see it
    assert scores.hidden_mass(uniform, view) == 0.0
    uniform[0, 0, 7, 2] = 0.25
    assert scores.hidden_mass(uniform, view) == 0.25 and scores.hidden_mass(uniform) == 0.0


def test_where_nothing_is_hidden_there_is_no_hidden_mass() -> None:
    assert math.isnan(scores.hidden_mass(rows_that_sum_to_1((1, 1, 4, 4)), FULL))


def test_views_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="kind must be 'causal', 'full' or 'cross', got 'both'"):
        View(kind="both")
    with pytest.raises(ValueError, match="leave key_mask out, or give kind='cross', got kind='full'"):
        View(kind="full", key_mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="square, got 4 queries and 6 keys"):
        scores.row_entropy(rows_that_sum_to_1((1, 1, 4, 6)))
    with pytest.raises(ValueError, match="without must be 'nothing', 'first' or 'ends', got 'sink'"):
        scores.row_entropy(random_pattern(), without="sink")
