"""Does training that was interrupted end where it would have ended, to the bit?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from model import Transformer
from model.training import CausalLM, MaskedLM, Recipe, train
from tests.model.training.samples import DROPOUT, decoder, encoder, ragged

RECIPE = Recipe(steps=10, learning_rate=1e-2, warmup=2, accumulate=2, checkpoint_every=5, evaluate_every=3)


def tensors(model: Transformer) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize("norm", ["layer", "batch"])
def test_ten_steps_are_five_and_five_more(norm: str, tmp_path: Path) -> None:
    straight, first, second = (decoder(DROPOUT, seed, norm=norm) for seed in (0, 0, 1))  # the last begins elsewhere
    batches, options = ragged(3), {"validation": ragged(1, seed=9)}
    whole = train(straight, batches, CausalLM(), RECIPE, **options)
    train(first, batches, CausalLM(), RECIPE, folder=tmp_path, until=5, **options)
    torch.rand(3)
    resumed = train(second, batches, CausalLM(), RECIPE, folder=tmp_path, resume=True, **options)
    assert all(torch.equal(tensor, tensors(second)[name]) for name, tensor in tensors(straight).items())
    pd.testing.assert_frame_equal(whole, resumed, check_exact=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "step-00000010.safetensors"]


def test_masks_are_drawn_as_they_would_have_been(tmp_path: Path) -> None:
    objective, models = MaskedLM(mask_id=4, d_vocab=23), (encoder(), encoder())
    train(models[0], ragged(3), objective, RECIPE)
    train(models[1], ragged(3), objective, RECIPE, folder=tmp_path, until=4)
    train(models[1], ragged(3), objective, RECIPE, folder=tmp_path, resume=True)
    assert all(torch.equal(tensor, tensors(models[1])[name]) for name, tensor in tensors(models[0]).items())


def test_a_run_that_is_over_stays_over(tmp_path: Path) -> None:
    model = decoder()
    table = train(model, ragged(2), CausalLM(), RECIPE, folder=tmp_path)
    again = train(decoder(seed=1), ragged(2), CausalLM(), RECIPE, folder=tmp_path, resume=True)
    pd.testing.assert_frame_equal(table, again, check_exact=True)


def test_an_interrupted_write_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(decoder(), ragged(2), CausalLM(), RECIPE, folder=tmp_path, until=5)
    index = (tmp_path / "checkpoint.json").read_bytes()

    def broken(*_: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space left"):
        patch.setattr("model.training.checkpoints.save_file", broken)
        train(decoder(), ragged(2), CausalLM(), RECIPE, folder=tmp_path, resume=True)
    assert (tmp_path / "checkpoint.json").read_bytes() == index
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "step-00000005.safetensors"]
    assert len(train(decoder(), ragged(2), CausalLM(), RECIPE, folder=tmp_path, resume=True)) == 10


def test_checkpoints_that_do_not_fit(tmp_path: Path) -> None:
    train(decoder(), ragged(2), CausalLM(), RECIPE, folder=tmp_path, until=5)

    def resumed(model: Transformer, recipe: Recipe = RECIPE) -> None:
        train(model, ragged(2), CausalLM(), recipe, folder=tmp_path, resume=True)

    with pytest.raises(ValueError, match="holds a checkpoint already"):
        train(decoder(), ragged(2), CausalLM(), RECIPE, folder=tmp_path)
    with pytest.raises(ValueError, match=r"written with recipe\.learning_rate=0\.01, got recipe\.learning_rate=0\.1"):
        resumed(decoder(), replace(RECIPE, learning_rate=0.1))
    with pytest.raises(ValueError, match=r"written with config\.activation='gelu_tanh', got config\.activation='relu'"):
        resumed(decoder(activation="relu"))
    index = json.loads((tmp_path / "checkpoint.json").read_text())
    (tmp_path / "checkpoint.json").write_text(json.dumps({**index, "n_processes": 2}))
    with pytest.raises(ValueError, match="written with n_processes=2, got n_processes=1"):
        resumed(decoder())
    (tmp_path / "checkpoint.json").write_text(json.dumps(index))
    (tmp_path / index["weights"]).write_bytes(b"damaged")
    with pytest.raises(ValueError, match="step-00000005.safetensors cannot be read as safetensors"):
        resumed(decoder())
