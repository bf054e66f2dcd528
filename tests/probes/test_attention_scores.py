"""Do the attention scores mean what their definitions say? Planted patterns, naive loops, padding."""

import math

import numpy as np
import pytest
import torch

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
    assert scores.induction_score(half, P, without_first=True).item() == pytest.approx(1.0)
    assert scores.row_entropy(sink, without_first=True).isnan().all()  # nothing is left
    assert scores.previous_token_score(sink, without_first=True).isnan().all()


@pytest.mark.parametrize("without_first", [False, True])
def test_row_scores_equal_naive_loops(without_first: bool) -> None:
    pattern = random_pattern()
    entropy, distance, previous = (np.full((2, 3, N), np.nan), np.zeros((2, 3)), np.zeros((2, 3)))
    for b in range(2):
        for h in range(3):
            moved, mass, steps = 0.0, 0.0, []
            for i in range(N):
                keys = [j for j in range(i + 1) if not (without_first and j == 0)]
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
    np.testing.assert_allclose(scores.row_entropy(pattern, normalised=True, without_first=without_first), entropy, rtol=1e-9)
    np.testing.assert_allclose(scores.mean_distance(pattern, without_first=without_first), distance, rtol=1e-9)
    np.testing.assert_allclose(scores.previous_token_score(pattern, without_first=without_first), previous, rtol=1e-9)


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
    for without_first in (False, True):
        for score in (scores.previous_token_score, scores.mean_distance):
            torch.testing.assert_close(score(wide, mask, without_first=without_first), score(pattern, without_first=without_first))
        torch.testing.assert_close(
            scores.induction_score(wide, P, mask, without_first=without_first),
            scores.induction_score(pattern, P, without_first=without_first),
        )
        torch.testing.assert_close(
            scores.prefix_matching_score(wide, padded, mask, without_first=without_first),
            scores.prefix_matching_score(pattern, tokens, without_first=without_first),
        )
        torch.testing.assert_close(
            scores.row_entropy(wide, mask, without_first=without_first)[:, :, places],
            scores.row_entropy(pattern, without_first=without_first),
            equal_nan=True,
        )
    torch.testing.assert_close(scores.first_token_mass(wide, mask), scores.first_token_mass(pattern))
    torch.testing.assert_close(scores.sink_score(wide, mask, length=5), scores.sink_score(pattern, length=5))
    assert scores.row_sum_error(wide, mask) < 1e-12
    assert scores.hidden_mass(wide, mask) == 0.0


def test_the_gates_see_a_row_that_is_off_and_mass_on_a_later_token() -> None:
    pattern = random_pattern()
    assert scores.row_sum_error(pattern) < 1e-12 and scores.hidden_mass(pattern) == 0.0
    pattern[1, 2, 3, 5] = 0.25
    assert scores.row_sum_error(pattern) == pytest.approx(0.25) and scores.hidden_mass(pattern) == 0.25
    pattern[0, 0, 0, 0] = torch.nan
    assert math.isnan(scores.row_sum_error(pattern))


def test_low_precision_is_reduced_in_single_precision() -> None:
    assert scores.row_entropy(random_pattern().bfloat16()).dtype == torch.float32
