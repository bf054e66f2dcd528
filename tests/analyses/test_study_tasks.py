"""Are the studies' tasks what they say: solvable by what they test, and by nothing else?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from analyses.studies._passes import GPT2, learning, measured, ratios, rivals, spread, timed
from analyses.studies._tasks_lengths import LONG, SPANS, by_span, context_gain, losses_by_context
from analyses.studies._tasks_neighbour import CHANCE, CONFIG, N_TOKENS, Before, Permutations
from analyses.studies._tasks_recall import ASK, N_VALUES, Marked, WhichMarked
from analyses.studies._training import BASE
from model import Transformer


def test_neighbours_cannot_be_told_without_order() -> None:
    tokens, mask = Permutations(n_batches=3, batch=400, seed=1)[2]
    assert torch.equal(tokens.sort(1).values, torch.arange(N_TOKENS).expand_as(tokens))  # the set says nothing
    exercise = Before()((tokens, mask), torch.Generator())
    assert torch.equal(exercise.answers[:, 1:], tokens[:, :-1]) and exercise.n_tokens == 400 * (N_TOKENS - 1)
    counts = torch.zeros(N_TOKENS, N_TOKENS).index_put_((tokens[:, 1:], tokens[:, :-1]), torch.ones(()), accumulate=True)
    assert counts.diagonal().sum() == 0
    frequency = counts / counts.sum(1, keepdim=True)
    assert float((frequency[~torch.eye(N_TOKENS, dtype=torch.bool)] - CHANCE).abs().max()) < 0.06
    assert torch.equal(tokens, Permutations(n_batches=3, batch=400, seed=1)[2][0])
    with pytest.raises(IndexError):
        Permutations(n_batches=3, batch=1, seed=1)[3]


def test_the_marked_token_is_as_far_back_as_it_is_said_and_nothing_else_tells_it() -> None:
    tokens, mask = Marked(n_batches=1, batch=3000, length=12, least=5, seed=0)[0]
    marked = (tokens >= N_VALUES) & (tokens < ASK)
    assert marked.sum(1).eq(1).all() and tokens[:, -1].eq(ASK).all()
    back = 11 - marked.int().argmax(1)
    assert int(back.min()) == 5 and int(back.max()) == 11
    exercise = WhichMarked()((tokens, mask), torch.Generator())
    assert torch.equal(exercise.answers[:, -1], tokens[marked]) and exercise.counted.sum() == 3000
    share = torch.bincount(exercise.answers[:, -1] - N_VALUES, minlength=N_VALUES) / 3000
    assert float((share - 1 / N_VALUES).abs().max()) < 0.03


class Reads(nn.Module):
    """A stand-in whose loss after c characters is a known function of how many it has read."""

    def __init__(self, better_after: int) -> None:
        super().__init__()
        self.better_after = better_after

    def forward(self, tokens, mask=None):
        following = torch.cat((tokens[:, 1:], tokens[:, -1:]), 1)
        right = nn.functional.one_hot(following, BASE.d_vocab).float()
        known = (torch.arange(tokens.shape[1]) + 1 >= self.better_after).float()[:, None]
        return right * 20.0 * known


def test_losses_by_context_count_the_characters_that_were_read() -> None:
    losses = losses_by_context(Reads(40), 3)
    assert losses.shape == (3, LONG - 1)
    uniform = np.log(BASE.d_vocab)
    found = by_span(losses)
    assert [found[span] for span in SPANS] == pytest.approx([uniform, uniform, 0.0, 0.0], abs=1e-5)
    assert float(losses[0, 38]) == pytest.approx(uniform) and float(losses[0, 39]) == pytest.approx(0.0, abs=1e-5)


def test_far_context_is_worth_what_a_model_that_needs_it_loses_without_it() -> None:
    uniform = np.log(BASE.d_vocab)
    assert context_gain(Reads(64), 2) == pytest.approx(uniform, abs=1e-4)  # near: 32 to 63 characters read; whole: 96 to 127
    assert context_gain(Reads(10), 2) == pytest.approx(0.0, abs=1e-5)
    assert context_gain(Reads(200), 2) == pytest.approx(0.0, abs=1e-5)


def test_times_are_paired_by_round() -> None:
    planted = pd.DataFrame({"arm": ["a", "b"] * 3, "repeat": [0, 0, 1, 1, 2, 2], "seconds": [1.0, 2.0, 10.0, 20.0, 3.0, 6.0]})
    assert ratios(planted, "b", "a").tolist() == [2.0, 2.0, 2.0]
    effect = measured("ratio", ratios(planted, "b", "a"))
    assert (effect.estimate, effect.low, effect.n) == (2.0, 2.0, 3) and effect.kind.startswith("measured")
    assert spread(pd.DataFrame({"arm": ["a"] * 5, "repeat": range(5), "seconds": [1.0, 2.0, 3.0, 4.0, 5.0]})) == pytest.approx(2 / 3)
    assert spread(planted) == 0  # all arms grew slower together
    planted.loc[planted.arm == "b", "seconds"] = [2.0, 30.0, 12.0]
    assert spread(planted) == pytest.approx((5 / 12 - 7 / 24) / (1 / 3))  # a over b: 1/2, 1/3, 1/4
    calls = {"a": 0, "b": 0}
    found = timed({arm: lambda arm=arm: calls.update({arm: calls[arm] + 1}) for arm in calls}, repeats=4, seed=0)
    assert min(calls.values()) > 5 and found.groupby("arm").size().to_dict() == {"a": 4, "b": 4}  # the first rounds are not timed


def test_rivals_have_as_many_weights_and_learning_gives_gradients() -> None:
    sizes = [sum(p.numel() for p in model.parameters()) for model in rivals(32)]
    assert abs(sizes[1] / sizes[0] - 1) < 0.04
    for model in rivals(32):
        learning(model, torch.zeros(1, 4, dtype=torch.long))()
        assert all(p.grad is not None for p in model.parameters())
    assert (
        CONFIG.n_ctx == N_TOKENS
        and sum(p.numel() for p in Transformer(GPT2.__class__(**{**vars(GPT2), "n_layers": 1, "d_vocab": 8})).blocks.parameters())
        == 7_087_872
    )


def test_short_passes_are_read_together_and_every_reading_is_that_of_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, runs = [0.0], {"short": 0, "long": 0}

    def passes(arm: str, seconds: float) -> None:
        runs[arm] += 1
        clock[0] += seconds

    monkeypatch.setattr("time.process_time", lambda: clock[0])
    times = timed({"short": lambda: passes("short", 0.002), "long": lambda: passes("long", 0.5)}, 4, seed=0)
    assert np.allclose(times.groupby("arm").seconds.agg(["min", "max"]).loc[["short", "long"]], [[0.002, 0.002], [0.5, 0.5]])
    assert runs == {"short": 1 + 1 + 4 * 3, "long": 1 + 1 + 4}  # three short passes fill 5 ms
    assert np.allclose(ratios(times, "long", "short"), 250.0)


def test_passes_are_timed_on_one_thread() -> None:
    before, threads = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        timed({"pass": lambda: threads.append(torch.get_num_threads())}, 1, seed=0)
        assert set(threads) == {1} and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_clock_that_stands_still_ends_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.process_time", lambda: 0.0)
    assert (timed({"nothing": lambda: None}, 1, seed=0).seconds > 0).all()
