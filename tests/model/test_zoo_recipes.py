"""Does every recipe of the zoo run, from the command line too, and does one seed give one model?"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import load_model
from model.zoo import zoo
from model.zoo.__main__ import main
from model.zoo._course import run_course

TRAINED = [name for name, entry in zoo().items() if entry.course is not None]


@pytest.mark.parametrize("name", TRAINED)
def test_a_trial_gives_a_model_that_loads_and_one_seed_one_model(name: str, tmp_path: Path) -> None:
    course = zoo()[name].course
    cards = {
        folder: run_course(course, tmp_path / folder, name=name, licence="none", seed=seed, steps=1)
        for folder, seed in (("first", 5), ("again", 5), ("other", 6))
    }
    weights = {folder: (tmp_path / folder / "model.safetensors").read_bytes() for folder in cards}
    assert weights["first"] == weights["again"] != weights["other"]
    card, model = cards["first"], load_model(tmp_path / "first")
    assert card == json.loads((tmp_path / "first" / "card.json").read_text()) | {"recipe": card["recipe"]}
    assert card["recipe"]["steps"] == 1 and card["recipe"]["seed"] == 5 and card["n_parameters"] == zoo()[name].card()["n_parameters"]
    assert model.config == load_model(name).config and model.tokenizer.roles() == load_model(name).tokenizer.roles()
    assert model.tokenizer.backend.get_vocab() == load_model(name).tokenizer.backend.get_vocab()
    assert list(card["quality"]) == list(zoo()[name].card()["quality"])


def test_the_command_line_trains_and_lists(tmp_path: Path, capsys) -> None:
    assert main(["train", "induction", "--out", str(tmp_path / "mine"), "--steps", "3", "--seed", "1"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'mine'}\n" and "induction: second half over first" in err
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "card.json",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert load_model(tmp_path / "mine")(torch.tensor([[1, 2]])).shape == (1, 2, 257)
    assert main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(zoo()) and len(lines) == len(zoo())
    assert any(line.startswith("g2p ") and "phoneme error rate 0.0" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["g2q"], "there is no recipe for 'g2q', only for chars, g2p, induction, lstm, mlm; did you mean g2p?"),
        (["smollm2"], "there is no recipe for 'smollm2', only for chars, g2p, induction, lstm, mlm"),
        (["induction", "--steps", "0"], "steps must be a whole number of at least 1, got steps=0"),
        (["induction", "--seed", "-1"], "seed must be a whole number of at least 0, got seed=-1"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main(["train", *words, "--out", str(tmp_path / "mine")]) == 2
    out, err = capsys.readouterr()
    assert err == f"model.zoo: {message}\n" and out == "" and not (tmp_path / "mine").exists()


def test_a_folder_with_a_model_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert main(["train", "induction", "--out", str(tmp_path), "--steps", "1"]) == 2
    assert f"{tmp_path} holds a model already; choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_the_recipe_is_what_is_run(tmp_path: Path) -> None:
    """A course whose learning rate is next to nothing gives back the untrained weights."""
    course = zoo()["induction"].course
    still = replace(course, recipe=replace(course.recipe, learning_rate=1e-12, weight_decay=0.0))
    run_course(still, tmp_path / "still", name="induction", licence="none", seed=3, steps=2)
    kept = load_model(tmp_path / "still").state_dict()
    for name, tensor in course.build(3).state_dict().items():
        assert torch.equal(kept[name], tensor.half().float()), name
