"""Is the right thing predicted, and is the loss what its definition says?"""

from __future__ import annotations

import pytest
import torch

from model.training import CausalLM, MaskedLM, SequenceToSequence, token_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("pad", ["left", "right"])
def test_every_real_token_but_the_first_is_predicted(pad: str) -> None:
    tokens = torch.tensor([[1, 2, 3, 4]])
    mask = torch.tensor([[False, True, True, True] if pad == "left" else [True, True, True, False]])
    exercise = CausalLM()((tokens, mask), generator())
    assert exercise.answers[exercise.counted].tolist() == ([3, 4] if pad == "left" else [2, 3])
    assert torch.equal(exercise.inputs[0], tokens)


def test_the_decoder_is_given_what_it_should_have_written() -> None:
    source, target = torch.tensor([[9, 8, 7]]), torch.tensor([[0, 4, 5]])
    exercise = SequenceToSequence()((source, target, None, None), generator())
    assert torch.equal(exercise.inputs[1], target) and exercise.answers[exercise.counted].tolist() == [4, 5]


@pytest.mark.parametrize("pad", ["left", "right"])
def test_the_decoder_learns_where_to_end(pad: str) -> None:
    target = torch.tensor([[0, 4, 5], [0, 6, 9] if pad == "right" else [9, 0, 6]])
    mask = torch.tensor([[True] * 3, [True, True, False] if pad == "right" else [False, True, True]])
    exercise = SequenceToSequence(end_id=1)((torch.tensor([[9, 8], [9, 8]]), target, None, mask), generator())
    rows = [exercise.answers[i][exercise.counted[i]].tolist() for i in range(2)]
    assert rows == [[4, 5, 1], [6, 1]] and torch.equal(exercise.inputs[1], target)


def test_masking_is_that_of_bert() -> None:
    tokens = torch.randint(5, 1000, (2000, 40), generator=generator(1))
    tokens[:, 0] = 2
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 30:] = False
    objective = MaskedLM(mask_id=4, d_vocab=1000, never=(0, 1, 2, 3))
    exercise = objective((tokens, mask), generator())
    read, chosen = exercise.inputs[0], exercise.counted
    assert (chosen.sum(-1) == round(0.15 * 29)).all()
    assert not chosen[:, 0].any() and not chosen[:, 30:].any()
    assert torch.equal(exercise.answers, tokens) and torch.equal(read[~chosen], tokens[~chosen])
    masked, same = (read == 4)[chosen].double().mean(), (read == tokens)[chosen].double().mean()
    drawn = 1 - masked - same
    assert masked == pytest.approx(0.8, abs=0.02) and same == pytest.approx(0.1, abs=0.015) and drawn == pytest.approx(0.1, abs=0.015)
    assert read[chosen].min() == 4
    places = chosen[:, 1:30].double().mean(0)
    assert (places - 4 / 29).abs().max() < 0.04  # every place is as likely


def test_masking_is_drawn_from_the_generator() -> None:
    batch = (torch.arange(10, 40).unsqueeze(0),)
    objective = MaskedLM(mask_id=4, d_vocab=100)
    first, again, other = (objective(batch, generator(seed)).inputs[0] for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_label_smoothing_is_a_mixture_with_the_uniform_answer() -> None:
    logits = torch.randn(2, 5, 7, generator=generator(), dtype=torch.float64)
    exercise = CausalLM()((torch.randint(7, (2, 5), generator=generator()),), generator())
    surprise = -logits.log_softmax(-1)[exercise.counted]
    answered = surprise.gather(-1, exercise.answers[exercise.counted].unsqueeze(-1)).sum()
    expected = 0.9 * answered + 0.1 * surprise.mean(-1).sum()
    torch.testing.assert_close(token_loss(logits, exercise, label_smoothing=0.1), expected)
    torch.testing.assert_close(token_loss(logits, exercise), answered)


def test_half_precision_logits_are_summed_in_single() -> None:
    exercise = CausalLM()((torch.zeros(1, 4, dtype=torch.long),), generator())
    assert token_loss(torch.zeros(1, 4, 5, dtype=torch.bfloat16), exercise).dtype == torch.float32


@pytest.mark.parametrize(("objective", "batch", "message"), [
    (CausalLM(), (torch.zeros(1, 2),) * 3, r"\(tokens, mask\) or \(tokens,\), got 3 tensors"),
    (CausalLM(), (torch.zeros(1, 2), torch.ones(1, 3, dtype=torch.bool)), r"shape of tokens \(1, 2\), got \(1, 3\)"),
    (MaskedLM(mask_id=4, d_vocab=5), (torch.tensor([[1, 5]]),), r"from 0 to 4 \(d_vocab=5\), got 5"),
    (SequenceToSequence(), (torch.zeros(1, 2),) * 2, r"\(source, target, source_mask, target_mask\), got 2 tensors"),
])
def test_a_batch_that_does_not_fit(objective: object, batch: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        objective(batch, generator())


@pytest.mark.parametrize(("values", "message"), [
    ({"rate": 0.0}, "rate is a share of the tokens above 0, got rate=0.0"),
    ({"mask_id": 9}, r"mask_id must be from 0 to 4 \(d_vocab=5\), got mask_id=9"),
    ({"never": (0, 1, 2, 3)}, "never and mask_id hold all 5 of the vocabulary"),
])
def test_a_masked_objective_says_what_is_wrong_with_it(values: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MaskedLM(**{"mask_id": 4, "d_vocab": 5, **values})
