"""How does training go on where it stopped? A folder with weights, optimiser state and history, replaced as a whole.

    checkpoint.json              step, recipe, config, number of processes, history; names the file below
    step-00000500.safetensors    model/<parameter>, optimizer/<parameter>/<state>

The random state needs no tensor: the order of the batches, dropout and masking are drawn from the seed of the recipe and the
number of the step (`model.training.randomness`). checkpoint.json is replaced last; until then the folder is the old checkpoint.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.checkpoint import Model, read_json, renamed_when_whole
from model.training.distributed import n_processes
from model.training.recipe import Recipe

INDEX = "checkpoint.json"
Row = dict[str, float]


def holds_checkpoint(folder: Path) -> bool:
    """Is there a whole checkpoint in the folder?"""
    return (folder / INDEX).is_file()


def write_checkpoint(folder: Path, model: Model, optimizer: torch.optim.Optimizer, recipe: Recipe, rows: list[Row]) -> Path:
    """Replace the checkpoint of the folder by that after step len(rows). Nothing is lost if it is interrupted."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / f"step-{len(rows):08d}.safetensors"
    tensors = {**_weights(model), **_optimizer_state(model, optimizer)}
    with renamed_when_whole(weights) as path:
        save_file({name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, path)
    values = {
        "step": len(rows), "weights": weights.name, **_settings(model, recipe),
        "history": [{name: None if math.isnan(value) else value for name, value in row.items()} for row in rows],
    }
    with renamed_when_whole(folder / INDEX) as path:
        path.write_text(json.dumps(values, indent=1), encoding="utf-8")
    for old in folder.glob("step-*.safetensors"):
        if old != weights:
            old.unlink()
    return weights


def read_checkpoint(folder: Path, model: Model, optimizer: torch.optim.Optimizer, recipe: Recipe) -> list[Row]:
    """Put the weights and the optimiser in the state of the checkpoint, to the bit; returns the history, one row per step.

    Raises ValueError for a folder without a checkpoint, a file that cannot be read, a checkpoint of another recipe, config or
    number of processes, and one whose tensors are not those of the model.
    """
    values = read_json(folder / INDEX)
    for name, now in _settings(model, recipe).items():
        _check_same(folder, name, values.get(name), now)
    tensors = _read(folder / values["weights"], model)
    weights = _weights(model)
    kept = {name for name in tensors if name.startswith("model/")}
    if differing := sorted(kept ^ set(weights)):
        raise ValueError(f"the checkpoint in {folder} and the model do not hold the same tensors: only one has {differing[0]!r}")
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(tensors[name].view_as(tensor))
    for name, parameter in model.named_parameters():
        prefix = f"optimizer/{name}/"
        state = {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}
        if state:
            optimizer.state[parameter] = {key: t.cpu() if key == "step" else t for key, t in state.items()}
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in values["history"]]


def _settings(model: Model, recipe: Recipe) -> dict[str, Any]:
    """What must be the same for training to go on as if it had never stopped, as JSON gives it back."""
    return json.loads(json.dumps({"recipe": asdict(recipe), "config": model.config.to_dict(), "n_processes": n_processes()}))


def _check_same(folder: Path, name: str, then: Any, now: Any) -> None:
    if then == now:
        return
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in sorted(set(then) | set(now)):
            _check_same(folder, f"{name}.{key}", then.get(key), now.get(key))
    raise ValueError(f"the checkpoint in {folder} was written with {name}={then!r}, got {name}={now!r}; go on with the same, or start anew")


def _weights(model: Model) -> dict[str, Tensor]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {f"model/{name}": tensor for name, tensor in named}


def _optimizer_state(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"optimizer/{name}/{key}": value
        for name, parameter in model.named_parameters() if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def _read(path: Path, model: Model) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device=str(model.device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None
