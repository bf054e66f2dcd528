"""How does a model of the zoo come about? What it learns from, by which recipe, and how well it does: train, measure, write down."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from model.checkpoint import Model, load_folder, renamed_when_whole, save_model
from model.files import read_json
from model.source import Source
from model.training import Recipe, train
from model.training.objectives import Batch, Objective

CARD = "card.json"
N_TRIAL = 16
"""examples that a trial is measured on"""
DATA = Path(__file__).parent / "data"
STORED = torch.float16
"""the number format of the weights in the folder: half the size; what the card says is measured with the stored weights"""


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a model that prosect trains itself is trained and measured.

    `build(seed)` is the untrained model, with its tokenizers. `lessons(model, seed)` gives the batches and what is to be
    predicted. `measure(model, n)` says how well it does on n examples that it was not trained on (None: on all of them),
    name → number, the one that counts first. `data` are the files of `model/zoo/data/` that it learns from; `method` says
    in words what `recipe` does not.
    """

    recipe: Recipe
    build: Callable[[int], Model]
    lessons: Callable[[Model, int], tuple[Sequence[Batch], Objective]]
    measure: Callable[[Model, int | None], Mapping[str, float]]
    data: tuple[str, ...] = ()
    method: str


def run_course(course: Course, folder: Path, *, name: str, licence: str, seed: int = 0, steps: int | None = None) -> dict[str, Any]:
    """Train, write the model and its card into `folder`, and return the card.

    `steps` other than the recipe's are a trial, which is measured on a few examples. Weights depend on the recipe, the seed and
    the number of steps alone (and on torch and the machine in the last bits). Progress goes to stderr if that is a terminal.

    Raises ValueError for a folder that holds a model already, and as `Recipe` does.
    """
    if (folder / "config.json").exists():
        raise ValueError(f"{folder} holds a model already; choose another folder")
    recipe = dataclasses.replace(course.recipe, seed=seed, **_shortened(course.recipe, steps))
    began = time.perf_counter()
    model = course.build(seed)
    batches, objective = course.lessons(model, seed)
    with tqdm(total=recipe.steps * recipe.accumulate, desc=f"training {name}", disable=None) as bar:
        history = train(model, Counted(batches, bar), objective, recipe)
    seconds = round(time.perf_counter() - began)
    save_model(model.eval().to(STORED), folder)
    stored = load_folder(folder, "cpu", torch.float32, Source(name=name, kind="folder")).requires_grad_(False)
    card = {
        "name": name,
        "licence": licence,
        "quality": dict(course.measure(stored, None if steps is None else N_TRIAL)),
        "final_training_loss": float(history["loss"].tail(50).mean()),
        "n_parameters": sum(parameter.numel() for parameter in stored.parameters()),
        **_provenance(course, recipe),
        "seconds": seconds,
    }
    with renamed_when_whole(folder / CARD) as path:
        path.write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return card


def _provenance(course: Course, recipe: Recipe) -> dict[str, Any]:
    """From what, how, and by which means."""
    return {
        "method": course.method,
        "recipe": asdict(recipe),
        "data": {file: sha256(DATA / file) for file in course.data},
        "stored_as": str(STORED).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def read_card(folder: Path) -> dict[str, Any]:
    """What was written down when the model was trained. Raises ValueError if there is no card."""
    return read_json(folder / CARD)


def sha256(path: Path) -> str:
    """The digest of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Counted(Sequence[Batch]):
    """Batches that tell a progress bar when one of them is read."""

    def __init__(self, batches: Sequence[Batch], bar: tqdm) -> None:
        self.batches, self.bar = batches, bar

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, i: int) -> Batch:
        self.bar.update()
        return self.batches[i]


def _shortened(recipe: Recipe, steps: int | None) -> dict[str, int]:
    """The fields that change for a trial of fewer steps: the warm-up keeps its share."""
    if steps is None:
        return {}
    return {"steps": steps, "warmup": min(recipe.warmup * steps // recipe.steps, max(steps - 1, 0))}
