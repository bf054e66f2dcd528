"""Do the studies of norms, of the feed-forward network and of warm-up measure what they say?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch

from analyses.studies import q13_batch_norm as q13
from analyses.studies import q14_feed_forward as q14
from analyses.studies import q19_warmup_and_dropout as q19
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._tasks_batches import KINDS, PadsUnmarked, Varied, kind_of
from analyses.studies._training import LENGTH, windows
from model.training import CausalLM
from probes import record


@pytest.mark.parametrize(("norm", "training", "same"), [("layer", True, True), ("rms", True, True), ("batch", True, False), ("batch", False, True)])
def test_pads_behind_the_text_enter_by_the_statistics_of_the_batch_alone(norm: str, training: bool, same: bool) -> None:
    model = started_as_in_the_paper(dataclasses.replace(PAPER, norm=norm), seed=0).train(training)
    batch = Varied(batches=windows(1, 24, 4), least=4, seed=0)[0]
    told, untold = (objective(batch, torch.Generator()) for objective in (CausalLM(), PadsUnmarked()))
    assert torch.equal(told.answers, untold.answers) and torch.equal(told.counted, untold.counted) and not batch[1].all()
    with torch.no_grad():
        a, b = (model(*one.inputs)[one.counted] for one in (told, untold))
    assert torch.allclose(a, b, atol=1e-4) == same


def test_mixed_tests_hold_as_many_of_each_kind_and_the_same_pieces() -> None:
    _, tests = q13._texts("mixed kinds", seed=0, steps=2, n_held_out=64)
    for batch in tests[q13.ALL]:
        assert sorted(kind_of(row) for row in batch[0]) == sorted(KINDS * 5)
    rows = {name: {tuple(row) for tokens, _ in batches for row in tokens.tolist()} for name, batches in tests.items()}
    assert rows[q13.ALL] == set.union(*(rows[kind] for kind in KINDS)) and len(rows[q13.ALL]) == 90


def test_statistics_of_the_text_standardise_it_and_others_miss_by_as_much_as_they_are_off() -> None:
    model = started_as_in_the_paper(dataclasses.replace(PAPER, norm="batch", n_layers=1), seed=0)
    batches = [windows(2)[i] for i in range(2)]
    for name in ("blocks.0.ln1", "blocks.0.ln2", "ln_final"):  # each norm is given the statistics of what comes in, once those before it have theirs
        norm = model.get_submodule(name)
        with record(model.eval(), f"{name}.normalized") as seen, torch.no_grad():
            model(torch.cat([tokens for tokens, _ in batches]))
        x = (seen[f"{name}.normalized"] * (norm.variance + norm.eps).sqrt() + norm.mean).flatten(0, 1)
        norm.mean.copy_(x.mean(0))
        norm.variance.copy_(x.var(0, unbiased=False))
    assert q13._distance(model, batches) < 0.01
    assert q13._distance(model.train(), batches[:1]) < 0.01, "a batch in training mode has its own"
    model.eval().ln_final.mean[3] -= 2 * model.ln_final.variance[3].sqrt()
    assert q13._distance(model, batches) == pytest.approx(2.0, abs=0.01)
    model.ln_final.variance[3] /= 9
    assert q13._distance(model, batches) == pytest.approx(8.0, abs=0.05)


def test_three_blocks_of_attention_have_the_weights_of_one_with_a_network_and_more_products() -> None:
    d, n, alone = PAPER.d_model, LENGTH, q14._blocks(q14.ALONE, PAPER)
    assert q14._products(alone, n) / q14._products(PAPER, n) == pytest.approx((24 * d**2 + 12 * n * d) / (24 * d**2 + 4 * n * d))
    weights = [sum(p.numel() for p in started_as_in_the_paper(config, 0).blocks.parameters() if p.dim() > 1) for config in (alone, PAPER)]
    assert weights[0] == weights[1]


def test_a_way_of_which_a_seed_broke_off_is_named_and_not_drawn() -> None:
    study, ways = q19.WarmupAndDropout(n_seeds=2), [str(way) for way in q19.WAYS]
    arms = pd.DataFrame([{"way": way, "seed": seed, "loss": 2.0} for way in ways for seed in (0, 1)])
    curves = pd.DataFrame([{"way": way, "seed": seed, "step": step, "loss": 2.0} for way in ways for seed in (0, 1) for step in (1.0, 2.0)])
    broken = str(q19.Way(place="post", rate=q19.HIGH, warm=False))
    curves = curves[(curves.way != broken) | (curves.seed == 0)]
    tables = {name: dataclasses.make_dataclass("Frame", ["frame"])(frame) for name, frame in (("arms", arms), ("curves", curves))}
    lines = study.draw(tables)[1]
    assert broken not in lines.series and broken in lines.caption and len(lines.series) == 3
    assert all(np.isfinite(series.y).all() for series in lines.series.values())
