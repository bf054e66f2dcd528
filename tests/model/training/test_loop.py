"""Does a model learn what it is shown, in exactly the steps that the recipe describes?"""

from __future__ import annotations

import math

import pytest
import torch

from model.training import CausalLM, MaskedLM, Recipe, SequenceToSequence, evaluate, train
from model.training.layers import decayed
from model.training.loop import accumulate_gradients, make_optimizer
from tests.model.training.samples import DROPOUT, decoder, encoder, encoder_decoder, joined_rows, ragged

FAST = Recipe(steps=60, learning_rate=1e-2, warmup=5)


def exercises(batches: list) -> list:
    return [CausalLM()(batch, torch.Generator()) for batch in batches]


def test_a_decoder_learns_a_batch_by_heart() -> None:
    table = train(decoder(), ragged(1), CausalLM(), FAST)
    assert table["loss"].iloc[0] == pytest.approx(math.log(23), abs=0.1) and table["loss"].iloc[-1] < 0.05


def test_an_encoder_decoder_learns_a_batch_by_heart() -> None:
    (source, source_mask), (target, target_mask) = ragged(2)
    table = train(encoder_decoder(), [(source, target, source_mask, target_mask)], SequenceToSequence(), FAST)
    assert table["loss"].iloc[-1] < 0.05


def test_an_encoder_learns_what_is_behind_the_masks() -> None:
    batches = [tuple(part.repeat(16, 1) for part in ragged(1)[0])]  # two rows, masked in many places at once
    objective, recipe = MaskedLM(mask_id=4, d_vocab=23, never=(0, 1, 2, 3)), Recipe(steps=150, learning_rate=1e-2, warmup=15)
    table = train(encoder(), batches, objective, recipe, validation=batches)
    assert table["validation_loss"].iloc[-1] < 0.05


def test_accumulated_ragged_batches_are_one_batch() -> None:
    model, batches, recipe = decoder().double(), ragged(4), Recipe(steps=1, learning_rate=1e-3, label_smoothing=0.1)
    in_parts = accumulate_gradients(model, exercises(batches), recipe, 1)
    parts = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    at_once = accumulate_gradients(model, exercises([joined_rows(batches)]), recipe, 1)
    assert in_parts == pytest.approx(at_once, rel=1e-12)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parts[name], parameter.grad, rtol=1e-9, atol=1e-12)
    means = [accumulate_gradients(model, exercises([batch]), recipe, 1) for batch in batches]
    assert abs(sum(means) / 4 - at_once) > 1e-3  # the mean of means is something else


def test_the_table_says_what_happened() -> None:
    model = decoder()
    first = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    table = train(model, ragged(2), CausalLM(), Recipe(steps=1, learning_rate=1e-3, clip_norm=1e-3))
    row, layers = table.iloc[0], ("embedding", "position_embedding", "blocks.0", "blocks.1", "ln_final")
    assert {name.partition("/")[2] for name in table if "/" in name} == set(layers)
    assert row["gradient_norm"] == pytest.approx(math.sqrt(sum(row[f"gradient_norm/{layer}"] ** 2 for layer in layers)))
    assert row["gradient_norm"] > 1e-3 and row["learning_rate"] == pytest.approx(0.0)  # a cosine of one step ends at 0
    assert all(row[f"update_ratio/{layer}"] == 0 for layer in layers)
    assert all(torch.equal(parameter, first[name]) for name, parameter in model.named_parameters())


def test_update_ratio_and_clipping_against_their_definition() -> None:
    recipe = Recipe(steps=3, learning_rate=1e-2, decay="none", clip_norm=0.5, weight_decay=0.1)
    model, twin = decoder(), decoder()
    table = train(model, ragged(1), CausalLM(), recipe)
    optimizer = make_optimizer(twin, recipe)
    for step in range(1, 4):
        accumulate_gradients(twin, exercises(ragged(1)), recipe, step)
        norm = torch.nn.utils.clip_grad_norm_(twin.parameters(), 0.5)
        before = torch.cat([p.detach().reshape(-1).clone() for p in twin.blocks[1].parameters()])
        optimizer.step()
        moved = torch.cat([p.detach().reshape(-1) for p in twin.blocks[1].parameters()]) - before
        row = table.iloc[step - 1]
        assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert row["update_ratio/blocks.1"] == pytest.approx(float(moved.norm() / before.norm()), rel=1e-3)


def test_a_step_is_that_of_adamw_by_its_formula() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, in fp64."""
    recipe = Recipe(steps=4, learning_rate=1e-2, decay="none", betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, clip_norm=None)
    model, twin = decoder().double(), decoder().double()
    train(model, ragged(1), CausalLM(), recipe)
    first, second, pulled = {}, {}, decayed(twin)
    for step in range(1, 5):
        accumulate_gradients(twin, exercises(ragged(1)), recipe, step)
        with torch.no_grad():
            for name, p in twin.named_parameters():
                first[name] = 0.8 * first.get(name, 0) + 0.2 * p.grad
                second[name] = 0.9 * second.get(name, 0) + 0.1 * p.grad**2
                p.mul_(1 - 1e-2 * 0.1 * (name in pulled))
                p.sub_(1e-2 * (first[name] / (1 - 0.8**step)) / ((second[name] / (1 - 0.9**step)).sqrt() + 1e-6))
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)


def test_only_matrices_decay() -> None:
    model = decoder()
    pulled = decayed(model)
    assert "blocks.0.attn.W_Q.weight" in pulled and "blocks.1.mlp.W_out.weight" in pulled
    rest = set(dict(model.named_parameters())) - pulled
    assert {name.rpartition(".")[2] for name in rest - {"embedding.weight", "position_embedding.weight"}} == {"bias", "gain"}
    groups = make_optimizer(model, Recipe(steps=1, learning_rate=1e-3, weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_training_ends_when_nothing_gets_better() -> None:
    recipe = Recipe(steps=200, learning_rate=1e-2, evaluate_every=5, patience=3)
    train_on, other = ragged(1), ragged(1, seed=6)
    table = train(decoder(), train_on, CausalLM(), recipe, validation=other)
    losses = table["validation_loss"].dropna()
    assert len(table) < 200 and len(table) % 5 == 0
    assert losses.index[-1] - losses.idxmin() == 3 * 5 and table["loss"].iloc[-1] < losses.iloc[-1]


def test_autocast_multiplies_in_half_precision_and_keeps_the_parameters() -> None:
    model, seen = decoder(), []
    model.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    table = train(model, ragged(1), CausalLM(), Recipe(steps=60, learning_rate=1e-2, warmup=5, autocast="bfloat16"))
    assert set(seen) == {torch.bfloat16} and model.dtype == torch.float32 and table["loss"].iloc[-1] < 0.05


def test_chance_is_that_of_the_seed_alone() -> None:
    def weights(seed: int, noise: int) -> torch.Tensor:
        torch.manual_seed(noise)
        model = decoder(DROPOUT)
        state = torch.get_rng_state()
        train(model, ragged(3), CausalLM(), Recipe(steps=2, learning_rate=1e-2, decay="none", seed=seed))
        assert torch.equal(state, torch.get_rng_state()) and model.training
        return model.blocks[0].mlp.W_in.weight

    assert torch.equal(weights(0, 1), weights(0, 2)) and not torch.equal(weights(0, 1), weights(1, 1))


def test_frozen_parameters_stay() -> None:
    model = decoder().eval()
    model.embedding.requires_grad_(False)
    before = model.embedding.weight.detach().clone()
    table = train(model, ragged(1), CausalLM(), Recipe(steps=2, learning_rate=1e-2, decay="none"))
    assert torch.equal(before, model.embedding.weight) and "gradient_norm/embedding" not in table and not model.training


def test_evaluation_weighs_tokens_and_not_batches() -> None:
    model, batches = decoder().eval(), ragged(4)
    recipe = Recipe(steps=1, learning_rate=1e-3)
    at_once = evaluate(model, [joined_rows(batches)], CausalLM(), recipe)
    assert evaluate(model, batches, CausalLM(), recipe) == pytest.approx(at_once, rel=1e-6)


def test_what_cannot_be_trained() -> None:
    recipe, batches = Recipe(steps=1, learning_rate=1e-3), ragged(1)
    with pytest.raises(ValueError, match="got list of length 0"):
        train(decoder(), [], CausalLM(), recipe)
    with pytest.raises(ValueError, match="got Tensor of length 2"):
        train(decoder(), batches[0][0], CausalLM(), recipe)
    with pytest.raises(ValueError, match="no parameter asks for gradients"):
        train(decoder().requires_grad_(False), batches, CausalLM(), recipe)
    with pytest.raises(ValueError, match="embedding.weight in torch.bfloat16"):
        train(decoder().bfloat16(), batches, CausalLM(), recipe)
    with pytest.raises(ValueError, match="got patience=2 and none"):
        train(decoder(), batches, CausalLM(), Recipe(steps=1, learning_rate=1e-3, patience=2))
    with pytest.raises(ValueError, match="got resume=True, folder=None"):
        train(decoder(), batches, CausalLM(), recipe, resume=True)
    single = (torch.tensor([[5]]),)
    with pytest.raises(ValueError, match="got none in 1 batches of step 1"):
        train(decoder(), [single], CausalLM(), recipe)
    with pytest.raises(ValueError, match="got none in 1 batches for validation"):
        train(decoder(), batches, CausalLM(), recipe, validation=[single])


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    model = decoder()
    with torch.no_grad():
        model.ln_final.gain[0] = torch.nan
    before = model.embedding.weight.detach().clone()
    with pytest.raises(FloatingPointError, match="got loss=nan, gradient_norm=nan at step 1; the weights are those of step 0"):
        train(model, ragged(1), CausalLM(), Recipe(steps=1, learning_rate=1e-3))
    assert torch.equal(before, model.embedding.weight)
