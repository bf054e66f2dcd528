"""Do the tasks of the attention studies ask what they say, and do the exact arguments behind their verdicts hold?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import stats

from analyses.studies import Effect
from analyses.studies import _tasks_batches as batches
from analyses.studies import _tasks_cycles as cycles
from analyses.studies import _tasks_lookup as lookup
from analyses.studies import _tasks_sources as sources
from analyses.studies._row_ranks import row_rank_correlation
from analyses.studies._training import BASE
from analyses.studies.q05_padding_masks import PaddingMasks, _slopes, _stand_ins
from analyses.studies.q06_reduced_dimension import ARMS as HEADS
from analyses.studies.q07_encoder import _said
from analyses.studies.q20_masked_inputs import Replaced, _loss_of_replaced
from analyses.studies.q22_self_attention import HiddenKey, _errors, _leave_one_out, _on_relevant, _recorded
from model import Transformer, load_model
from probes import Edit, intervene


def test_row_ranks_are_spearmans() -> None:
    a, b = (torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)).round(decimals=1) for seed in (0, 1))
    for n, found in enumerate(row_rank_correlation(a, b, least=4)):
        expected = [stats.spearmanr(a[n, h, i, : i + 1], b[n, h, i, : i + 1]).statistic for h in range(3) for i in range(3, 9)]
        assert found == pytest.approx(np.nanmean(expected))


@pytest.mark.parametrize("size", [2, 3, 4])
def test_symmetric_scores_follow_no_round(size: int) -> None:
    """Gram matrices have s_ii + s_jj ≥ 2 s_ij: all rows of a round having their largest score at the next would contradict it."""
    generator, following = torch.Generator().manual_seed(0), (torch.arange(size) + 1) % size
    x = torch.randn(2000, size, 5, generator=generator) * torch.rand(2000, size, 1, generator=generator).mul(4).exp()
    right = ((x @ x.mT).argmax(-1) == following).sum(-1)
    assert int(right.max()) <= size - 1
    shifted = torch.eye(size)[following]
    assert bool(((shifted @ torch.eye(size)).argmax(-1) == following).all()), "separate queries and keys follow it"


def test_no_head_with_one_projection_exceeds_the_bound() -> None:
    for seed in range(5):
        model = Transformer(dataclasses.replace(cycles.CONFIG, shared_qk=True), generator=torch.Generator().manual_seed(seed))
        tokens = cycles.Rounds(n_batches=1, batch=8, seed=seed)[0][0]
        seen = _recorded(model, tokens)
        q, k = (seen[f"blocks.0.attn.{word}"][:, :, 0] for word in ("q", "k"))
        assert torch.equal(q, k)
        for size in (2, 3, 4):
            right = ((q @ k.mT).argmax(-1) == cycles.next_places(tokens, size)).double().mean()
            assert float(right) <= (size - 1) / size


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_answer_of_a_round_is_what_the_next_one_holds(size: int) -> None:
    tokens = cycles.Rounds(n_batches=2, batch=3, seed=1)[1][0]
    exercise = cycles.HeldByNext(size=size)((tokens, None), torch.Generator())
    for row, answers in zip(tokens.tolist(), exercise.answers.tolist(), strict=True):
        held = {token // cycles.N_HELD: token % cycles.N_HELD for token in row}
        for token, answer in zip(row, answers, strict=True):
            node = token // cycles.N_HELD
            following = node + 1 if (node + 1) % size else node + 1 - size
            assert answer == held[following]


def test_the_answer_of_a_lookup_is_the_value_of_the_key() -> None:
    tokens = lookup.dictionaries(20, seed=0)
    answers = lookup.Lookup()((tokens, None), torch.Generator()).answers[:, -1]
    for row, answer in zip(tokens.tolist(), answers.tolist(), strict=True):
        known = dict(divmod(token, lookup.N_VALUES) for token in row[:-1])
        assert len(known) == lookup.N_PAIRS and answer == known[row[-1] - lookup.N_KEYS * lookup.N_VALUES]


def planted(sharpness: float) -> Transformer:
    """A look-up set by hand: the first coordinates are the key, then come the value and what was found."""
    model = Transformer(dataclasses.replace(lookup.CONFIG, norm="none", final_norm=False)).requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    n_keys, n_values = lookup.N_KEYS, lookup.N_VALUES
    for key in range(n_keys):
        model.embedding.weight[n_keys * n_values + key, key] = 1
        for value in range(n_values):
            model.embedding.weight[key * n_values + value, [key, n_keys + value]] = 1
    model.embedding.weight.div_(model.config.embed_scale)
    attn, identity = model.blocks[0].attn, torch.eye(64)
    attn.W_Q.weight[:n_keys], attn.W_K.weight[:n_keys] = sharpness * identity[:n_keys], identity[:n_keys]
    attn.W_V.weight[:n_values] = identity[n_keys : n_keys + n_values]
    attn.W_O.weight[:, :n_values] = identity[:, n_keys + n_values : n_keys + 2 * n_values]
    model.unembed.unembedding.weight[:n_values] = identity[n_keys + n_values : n_keys + 2 * n_values]
    return model


def test_a_planted_lookup_is_found_as_it_was_planted() -> None:
    tokens, model = lookup.dictionaries(64, seed=3), planted(sharpness=80.0)
    seen = _recorded(model, tokens)
    assert lookup.right_answers(model, tokens) == 1.0
    shared = np.exp(10) / (2 * np.exp(10) + lookup.N_PAIRS - 1)  # the question's own key matches as well as the pair's
    assert _on_relevant(seen, tokens) == pytest.approx(shared, abs=1e-4)
    assert max(_errors(model, seen, "full").values()) < 1e-5
    many = lookup.dictionaries(4000, seed=4)
    assert lookup.right_answers(planted(sharpness=0.0), many) == pytest.approx(lookup.commonest(), abs=0.03), "a head that looks everywhere alike counts values"


@pytest.mark.parametrize("n_sources", [1, 2, 4])
def test_a_source_that_is_asked_for_is_the_one_that_stood_there(n_sources: int) -> None:
    tokens = sources.RandomTokens(n_batches=1, batch=4, seed=0)[0][0]
    exercise = sources.OneOfSources(n_sources=n_sources)((tokens, None), torch.Generator().manual_seed(0))
    asked = set()
    for b, t in exercise.counted.nonzero().tolist():
        which, token = divmod(int(exercise.answers[b, t]), sources.N_TOKENS)
        assert token == int(tokens[b, t - which - 1])
        asked.add(which)
    assert asked == set(range(n_sources)) and not exercise.counted[:, :n_sources].any()


def test_what_stands_in_for_minus_infinity() -> None:
    found = _stand_ins().set_index(["dtype", "fill", "sees"]).weight
    assert (found.xs("real keys and pads", level="sees") == 0).all()
    blind = found.xs("pads only", level="sees")
    assert blind.xs("−∞", level="fill").isna().all() and blind.xs("smallest number", level="fill").to_numpy() == pytest.approx(1, abs=0.01)
    assert np.isnan(blind["float16", "−1e9"]) and blind["float32", "−1e9"] == pytest.approx(1)


def test_leaving_a_key_out_is_judged_by_what_the_model_then_says() -> None:
    """Head by head and key by key, one hidden key at a time, each in a pass of its own; fp32 orders weak keys by its rounding."""
    model = Transformer(dataclasses.replace(BASE, n_layers=2, n_ctx=6), generator=torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(3)  # so that heads differ, and some keys have little weight
    tokens = torch.randint(BASE.d_vocab, (2, 6), generator=torch.Generator().manual_seed(1))
    found, before = _leave_one_out(model, tokens), model.dtype
    assert before == torch.float32, "the model stays as it is"
    model = model.double()
    seen, clean, rows = _recorded(model, tokens), model(tokens)[:, -1].log_softmax(-1), []
    for i in range(2):
        for head in range(BASE.n_heads):
            changed = []
            for key in range(6):
                with intervene(model, Edit(f"blocks.{i}.attn.scores", HiddenKey(key), heads=head, positions=-1)):
                    small = model(tokens)[:, -1].log_softmax(-1) - clean
                changed.append((clean.exp() * (small.expm1() - small)).sum(-1))  # Σ p expm1(d) = 0: no large terms that cancel
            weights = seen[f"blocks.{i}.attn.pattern"][:, head, -1]
            rows.append([stats.spearmanr(weights[n], torch.stack(changed)[:, n]).statistic for n in range(2)])
    assert found == pytest.approx(np.mean(rows, axis=0), abs=1e-9)


def test_what_is_read_in_anothers_stead_is_left_out_of_the_answers() -> None:
    class Copies(torch.nn.Module):
        """Says what it reads, and is otherwise as likely to say one thing as another."""

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
            return 50.0 * torch.nn.functional.one_hot(tokens, BASE.d_vocab).float()

    assert _loss_of_replaced(Copies(), n_held_out=4) == pytest.approx(np.log(BASE.d_vocab - 1))
    exercise = Replaced(place=3)((torch.full((2, 8), 9), None), torch.Generator().manual_seed(0))
    assert bool((exercise.inputs[0][:, 3] != 9).all()) and int((exercise.inputs[0] != 9).sum()) == 2


def test_a_pad_has_a_gradient_unless_it_is_masked() -> None:
    found = _slopes(load_model("mlm"), torch.tensor([[5, 6, 7, 8]]), m=3, seed=0)
    assert found["masked"] == 0 < found["open"]


def test_no_more_sentences_are_promised_than_there_are() -> None:
    with pytest.raises(ValueError, match=r"has \d+ sentences that fit with 12 pads, got n_sentences=10000"):
        PaddingMasks(encoder="mlm", n_sentences=10_000, pads=(1, 12)).measure()


def test_reduced_heads_with_a_wider_feed_forward_network_are_as_large_as_full_ones() -> None:
    full, reduced = (sum(p.numel() for p in Transformer(HEADS[arm]).parameters()) for arm in ("full", "reduced, as many parameters"))
    assert reduced == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.1, 0.2, "loses 0.15 nats"), (-0.2, -0.1, "gains 0.15 nats"), (-0.1, 0.2, "loses 0.05 nats (the interval holds 0)")],
)
def test_a_difference_is_said_by_its_sign(low: float, high: float, expected: str) -> None:
    difference = Effect(quantity="lost", estimate=(low + high) / 2, low=low, high=high, n=5, unit="nats")
    assert _said(difference, "loses {} nats", "gains {} nats") == expected


def test_numbers_are_held_out_within_the_range_of_the_training() -> None:
    """Every tenth hundred, whole, so that the next number can be told; none of them is read in training."""
    read, held = (batches.texts(part)["numbers"] - batches.BASE.d_vocab - batches.N_PHONEMES for part in ("train", "held out"))
    train, test = ({tuple(five.tolist()) for five in x.view(-1, 6)[:, :5]} for x in (read, held))
    assert len(train) == 18_000 and len(test) == 2_000 and not train & test
    assert min(train) < min(test) and all(digits[2] == 9 for digits in test) and {digits[0] for digits in test} == {1, 2}


def test_reading_as_in_training_leaves_the_running_statistics() -> None:
    model = Transformer(dataclasses.replace(BASE, norm="batch"), generator=torch.Generator().manual_seed(0)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batches.loss_in_training_mode(model, [(torch.randint(BASE.d_vocab, (4, 8)), None)])
    assert not model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
