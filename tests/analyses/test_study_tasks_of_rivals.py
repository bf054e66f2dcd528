"""Are the tasks of the studies of recurrent networks, attribution, tokenizers, drafts and masks what they say?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from analyses._flops import forward_flops
from analyses.studies import _tasks_pieces
from analyses.studies._recurrent import operations_per_token, recurrent_twin
from analyses.studies._starts import started_as_in_the_paper
from analyses.studies._tasks_associations import N_KEYS, Associations, ValueOfKey
from analyses.studies._tasks_drafts import ngram_draft, write_checked
from analyses.studies._tasks_masking import BERT, ENCODER, MASK, PLACES, PREFIX, Corrupted, Following, Hidden, prefix_lengths
from analyses.studies._tasks_parity import CONFIG as PARITY
from analyses.studies._tasks_parity import START, Bits, Parity
from analyses.studies._tasks_pieces import followed, letters_of, merged, pieces_by
from analyses.studies._tasks_triggers import ASK, CONFIG, N_CLASSES, N_PLAIN, Class, Triggers, classes, decisive, learn_triggers
from analyses.studies._tasks_writing import InTurn, log_probabilities, repeated_runs, write_by_rules
from analyses.studies._training import BASE, BATCH
from analyses.studies.q26_efficiency import _together
from analyses.studies.q28_bert_and_gpt import BEGINNING, N_WRITTEN, _pieces, _write
from analyses.studies.q34_interpretability import NO_SCORES, WAYS, _agreement, _auroc, _between_seeds
from model import Sampling, Transformer, generate
from model.choices import Positions
from probes import intervene, record
from probes.product_chain import product_chain


def test_parity_is_that_of_every_prefix_and_no_shorter_text_tells_it() -> None:
    tokens, _ = Bits(n_batches=2, batch=2000, length=9, seed=3)[1]
    exercise = Parity()((tokens, None), torch.Generator())
    bits, answers = tokens[:, 1:], exercise.answers[:, 1:]
    assert bool((tokens[:, 0] == START).all()) and int(bits.max()) == 1 and exercise.counted[0].tolist() == [False] + 9 * [True]
    assert answers[:50].tolist() == [[sum(row[: i + 1]) % 2 for i in range(9)] for row in bits[:50].tolist()]
    agreement = (answers[:, -1:] == bits).double().mean(0)  # of the whole with any one bit
    assert float((agreement - 0.5).abs().max()) < 0.05
    with pytest.raises(IndexError):
        Bits(n_batches=2, batch=1, length=3, seed=3)[2]


@pytest.mark.parametrize("positions", ["none", "alibi", "rotary"])
def test_a_transformer_without_a_table_of_positions_tells_1_from_11_by_the_start_alone(positions: Positions) -> None:
    model = started_as_in_the_paper(dataclasses.replace(PARITY, positions=positions), 0).double().eval()
    ones = torch.ones(1, 8, dtype=torch.long)
    with torch.no_grad():
        bare, begun = model(ones)[0], model(torch.cat((torch.full((1, 1), START), ones), dim=1))[0, 1:]
    assert float((bare - bare[0]).abs().max()) < 1e-12 and float((begun[1:] - begun[:-1]).abs().amax(1).min()) > 1e-4


def test_a_value_is_told_by_its_own_key_alone() -> None:
    batches = Associations(n_batches=1, batch=2000, n_pairs=(5,), seed=0)
    tokens, _ = batches[0]
    exercise = ValueOfKey()((tokens, None), torch.Generator())
    asked, answers = tokens[:, 10:], exercise.answers[:, 10:]
    for row, keys, values in zip(tokens[:50].tolist(), asked[:50].tolist(), answers[:50].tolist(), strict=True):
        assert dict(zip(row[0:10:2], row[1:10:2], strict=True)) == dict(zip(keys, values, strict=True))
    assert exercise.n_tokens == 5 * 2000 and float((answers[:, 0] == answers[:, 1]).double().mean()) < 0.1
    assert int(tokens[:, 0:10:2].max()) < N_KEYS <= int(tokens[:, 1:10:2].min())
    assert {len(Associations(n_batches=9, batch=1, n_pairs=(2, 4), seed=0)[i][0][0]) for i in range(9)} == {6, 12}


def test_every_trigger_decides_and_nothing_else_does() -> None:
    tokens, _ = Triggers(n_batches=1, batch=500, n_triggers=2, seed=0)[0]
    cause, right = decisive(tokens), classes(tokens)
    assert cause.sum(1).eq(2).all() and tokens[:, -1].eq(ASK).all() and not cause[:, -1].any()
    turned = torch.where(cause & (cause.cumsum(1) == 1), N_PLAIN + (tokens - N_PLAIN + 1) % N_CLASSES, tokens)
    assert (classes(turned) != right).all()  # either trigger alone turns the answer
    assert torch.equal(classes(torch.where(tokens < N_PLAIN, (tokens + 1) % N_PLAIN, tokens)), right)
    exercise = Class()((tokens, None), torch.Generator())
    assert exercise.n_tokens == 500 and torch.equal(exercise.answers[:, -1], right)
    assert (right - N_PLAIN).bincount(minlength=4).min() > 90  # no class is a good guess


def test_the_yardstick_of_attribution_ranks_as_it_should() -> None:
    cause = torch.tensor([[True, False, False, True], [False, True, False, False]])
    assert _auroc(cause.double(), cause) == 1 and _auroc(-cause.double(), cause) == 0 and _auroc(torch.ones(2, 4), cause) == 0.5
    marks = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 2.0, 1.0, 3.0]])
    assert _auroc(marks, cause) == pytest.approx((0.5 + 2 / 3) / 2)
    assert _agreement(marks, marks**3) == pytest.approx(1) and _agreement(marks, -marks) == pytest.approx(-1)
    assert math.isnan(_agreement(marks, torch.ones(2, 4)))
    unlike, like = {way: marks for way in WAYS}, {way: -marks for way in WAYS}
    pairs = _between_seeds([like, like, unlike, like, like])
    assert [(one["pair"], round(one["agreement"])) for one in pairs[:: len(WAYS)]] == [(0, 1), (1, -1)]  # no model is in two pairs


def test_attention_without_scores_is_uniform_and_stays_so() -> None:
    config = dataclasses.replace(CONFIG, n_layers=1, score_scale=NO_SCORES)
    learnt, _ = learn_triggers(config, 1, seed=0, steps=5)
    with torch.no_grad(), record(learnt.model, "blocks.0.attn.pattern") as activations:
        learnt.model(*Triggers(n_batches=1, batch=4, n_triggers=1, seed=1)[0])
    (pattern,) = activations.values()
    assert bool((pattern == pattern[0, 0, 0, 0]).all()) and float((pattern.sum(-1) - 1).abs().max()) < 1e-6


class Cycle(nn.Module):
    """Says that each token is followed by the next of ten, but 7 by 0."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        after = torch.where(tokens == 7, 0, (tokens + 1) % 10)
        return nn.functional.one_hot(after, 10).float()


@pytest.mark.parametrize(("known", "passes"), [([0, 1, 2, 3, 4, 5, 6, 7] * 3, 3), ([9, 8] * 5, 12), ([0, 1, 2, 9] * 3, 8)])
def test_a_checked_draft_writes_what_the_model_writes_in_as_many_passes_as_its_mistakes_ask(known: list[int], passes: int) -> None:
    written, n = write_checked(Cycle(), ngram_draft(known), [0, 1], n_new=12, ahead=4)
    assert written == [2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5]
    assert n == passes


def test_rules_that_write_in_the_same_passes_write_what_each_writes_alone() -> None:
    model = Transformer(BASE, generator=torch.Generator().manual_seed(0)).eval()
    prompts = torch.randint(BASE.d_vocab, (3, 5), generator=torch.Generator().manual_seed(1))
    rules = {"first": Sampling(top_k=1), "two": Sampling(top_k=2), "again": Sampling(top_p=1e-6)}
    found = write_by_rules(model, prompts, rules, n_new=9, generator=torch.Generator().manual_seed(2))
    greedy = generate(model, prompts, n_new=9, stop=None)
    for name in ("first", "again"):
        assert found[name][0].tolist() == greedy.tokens.tolist()
    texts = torch.cat((prompts, found["two"][0]), dim=1)
    best = model(texts)[:, 4:-1].topk(2).indices  # of every new token
    assert bool((best == found["two"][0].unsqueeze(-1)).any(-1).all()) and found["two"][0].tolist() != greedy.tokens.tolist()
    torch.testing.assert_close(log_probabilities(model, texts, 9, batch=2), found["two"][1])
    assert repeated_runs([5, 6, 7, 8, 9] * 2) == pytest.approx(2 / 7) and repeated_runs([1] * 200) == pytest.approx(196 / 197)
    with pytest.raises(ValueError, match="rows must be a multiple of the 3 rules, got 4"):
        InTurn(rules=tuple(rules.values())).probabilities(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="rules must hold at least one"):
        InTurn()


@pytest.fixture
def few_words(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("aab",) * 4 + ("ab",) * 3 + ("xyz",) * 2 + ("q",) * 5
    monkeypatch.setattr(_tasks_pieces, "words", lambda half: words)


@pytest.mark.usefixtures("few_words")
def test_every_rule_merges_the_pair_that_it_says() -> None:
    assert letters_of("aab") == ["a", "##a", "##b"]
    assert pieces_by("frequency", 1) == ("##ab",)  # 4 times, as often as aa, and # stands before a
    assert set(pieces_by("mutual information", 1)) <= {"xy", "##yz"}  # rare letters that are always together
    assert len(pieces_by("frequency", 50)) == 5  # all words whole, then nothing is left to merge
    assert merged({"[UNK]": 0, "a": 1, "##b": 2, "ab": 3, "##bc": 4}) == ("ab", "##bc")


@pytest.fixture
def forget() -> Iterator[None]:
    """What is remembered of one text is not taken for another."""
    followed.cache_clear()
    yield
    followed.cache_clear()


@pytest.mark.parametrize("rule", ["frequency", "likelihood", "mutual information"])
@pytest.mark.usefixtures("few_words", "forget")
def test_the_rule_that_was_followed_is_found_and_ties_do_not_matter(rule: str) -> None:
    pieces = pieces_by(rule, 50)
    found = followed(pieces)
    assert found[rule] == 1.0 and min(found.values()) < 1.0
    assert followed(("aa", "aab", "ab", "xy", "xyz"))["frequency"] == 1.0, "aa is as frequent as ab at first"
    with pytest.raises(ValueError, match="no two neighbours of the text give the piece 'qa' after 1 merges"):
        followed(("aa", "qa"))


@pytest.mark.usefixtures("few_words")
def test_likelihood_is_that_of_the_whole_text() -> None:
    def log_likelihood(cut: list[list[str]]) -> float:
        pieces = [piece for word in cut for piece in word]
        return sum(math.log(pieces.count(piece) / len(pieces)) for piece in pieces)

    text = [letters_of(word) for word in _tasks_pieces.words(0)]
    gains = {}
    for pair in {pair for word in text for pair in zip(word[:-1], word[1:], strict=True)}:
        joined = [_joined(word, pair) for word in text]
        gains[pair[0] + pair[1].removeprefix("##")] = log_likelihood(joined) - log_likelihood(text)
    best = max(gains.values())
    (taken,) = pieces_by("likelihood", 1)
    assert gains[taken] == pytest.approx(best)


def _joined(word: list[str], pair: tuple[str, str]) -> list[str]:
    for i in range(len(word) - 1):
        if (word[i], word[i + 1]) == pair:
            return [*word[:i], pair[0] + pair[1].removeprefix("##"), *word[i + 2 :]]
    return word


def test_shares_of_corruption_are_those_asked_for() -> None:
    tokens = torch.randint(4, BASE.d_vocab, (400, 50), generator=torch.Generator().manual_seed(0))
    exercise = BERT((tokens, None), torch.Generator().manual_seed(1))
    chosen, read = exercise.counted, exercise.inputs[0]
    assert chosen.sum(1).eq(20).all() and torch.equal(read[~chosen], tokens[~chosen]) and torch.equal(exercise.answers, tokens)
    masked, kept = (read == MASK)[chosen].double().mean(), (read == tokens)[chosen].double().mean()
    assert abs(float(masked) - 0.8) < 0.02 and abs(float(kept) - 0.1) < 0.02
    everything = Corrupted(rate=0.1)((tokens, None), torch.Generator().manual_seed(1))
    assert (everything.inputs[0] == MASK).equal(everything.counted)


def test_both_ways_of_asking_want_the_same_character() -> None:
    batch = (torch.arange(40).view(2, 20) + 4, None)
    hidden, left, following = (
        one(batch, torch.Generator()) for one in (Hidden(place=7), Hidden(place=7, reads="left"), Following(place=7))
    )
    for exercise in (hidden, left, following):
        assert torch.equal(exercise.answers[exercise.counted], batch[0][:, 7])
        assert not (exercise.inputs[0] == batch[0][:, 7:8]).any()
    assert hidden.inputs[0].shape == (2, 20) and left.inputs[0].shape == (2, 8) and following.inputs[0].shape == (2, 7)


def test_a_prefix_model_is_asked_as_it_has_learnt() -> None:
    """The last character of a prefix is read in training as if nothing stood behind it, for every length that is asked for and written behind."""
    lengths = prefix_lengths(BATCH).tolist()
    assert set(PLACES) <= set(lengths) and min(lengths) == 4 and max(lengths) == BEGINNING + N_WRITTEN
    model = started_as_in_the_paper(ENCODER, seed=0).eval()
    tokens = torch.randint(4, BASE.d_vocab, (BATCH, 31), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), intervene(model, PREFIX):
        learnt = model(tokens)
    for row, n in enumerate(lengths):
        assert torch.allclose(learnt[row, n - 1], model(tokens[row : row + 1, :n])[0, -1], atol=1e-5)


class Counting(nn.Module):
    """Says the number of characters that are no mask, at the last place alone."""

    def forward(self, tokens, mask=None):
        logits = torch.zeros(*tokens.shape, BASE.d_vocab)
        logits[torch.arange(len(tokens)), -1, (tokens != MASK).sum(1)] = 1e4
        return logits


@pytest.mark.parametrize("fills", [True, False])
def test_what_is_written_is_what_the_model_says_of_the_end(fills: bool) -> None:
    written = _write(Counting(), 3, seed=0, fills=fills)
    assert torch.equal(written[:, :BEGINNING], _pieces(3)[:, :BEGINNING]) and written.shape == _pieces(3).shape
    assert (written[:, BEGINNING:] == torch.arange(BEGINNING, BEGINNING + N_WRITTEN)).all()


@pytest.mark.parametrize("n", [1, 2, 9])
def test_layers_that_advance_together_wait_for_every_step_and_once_per_layer(n: int) -> None:
    cells, head = [nn.LSTMCell(3, 3) for _ in range(2)], nn.Linear(3, 5)
    states = [(torch.zeros(1, 3), torch.zeros(1, 3)) for _ in cells]
    for _ in range(n):
        x = torch.zeros(1, 3)
        for i, cell in enumerate(cells):
            states[i] = cell(x, states[i])
            x = states[i][0]
    assert product_chain(head(x)) == _together(n, n_layers=2)


@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"d_mlp": 0}])
def test_operations_are_those_of_the_flop_count_and_the_twin_is_as_large(changes: dict[str, int]) -> None:
    config = BASE.from_dict(BASE.to_dict() | changes)
    flops, n = forward_flops(config, 16), 16
    every_logit = flops.linear + flops.attention + n * flops.unembedding
    assert operations_per_token(config, n) * n == every_logit
    sizes = [sum(p.numel() for p in model.parameters()) for model in (Transformer(config), recurrent_twin(config, 0))]
    assert abs(sizes[1] / sizes[0] - 1) < 0.05
