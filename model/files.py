"""How are the files of a checkpoint found and read, without running anything that they say?"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PICKLES = (".bin", ".pt", ".pth")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError that names the file if it is not there or not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def weight_files(folder: Path, stems: tuple[str, ...] = ("model", "pytorch_model")) -> tuple[Path, ...]:
    """The weight files of a folder: model.safetensors, else pytorch_model.bin, each whole or as the shards that an index names,
    else the only .pt or .pth file.

    Raises ValueError that says what is there instead.
    """
    for name in (f"{stem}{ending}" for ending in (".safetensors", *PICKLES) for stem in stems):
        whole, index = folder / name, folder / f"{name}.index.json"
        if whole.is_file():
            return (whole,)
        if index.is_file():
            return _shards(index)
    others = sorted(path for path in folder.iterdir() if path.suffix in PICKLES[1:])
    if len(others) == 1:
        return tuple(others)
    found = f", only {', '.join(path.name for path in others)}: leave one of them" if others else ""
    raise ValueError(f"{folder} holds no {stems[0]}.safetensors and no {stems[-1]}.bin{found}")


def _shards(index: Path) -> tuple[Path, ...]:
    """Those that an index names, all of them in its own folder."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not named or not all(isinstance(name, str) and Path(name).name == name for name in named.values()):
        raise ValueError(f"{index} must hold a weight_map from tensors to files beside it")
    files = tuple(index.parent / name for name in sorted(set(named.values())))
    if missing := [path for path in files if not path.is_file()]:
        raise ValueError(f"{index.name} names {len(files)} files, of which {missing[0].name} is missing")
    return files


def read_tensors(files: tuple[Path, ...], device: str | torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of the files; floating ones in `dtype`. Raises ValueError that names a file which cannot be read."""
    tensors: dict[str, Tensor] = {}
    for path in files:
        found = _safetensors(path, device) if path.suffix == ".safetensors" else _pickled(path, device)
        tensors |= {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in found.items()}
    return tensors


def _safetensors(path: Path, device: str | torch.device) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from None


def _pickled(path: Path, device: str | torch.device) -> Mapping[str, Tensor]:
    """The tensors of a pickle, read by torch's reader that builds tensors and runs nothing else.

    Raises ValueError for a pickle that asks for anything else, and for one that is not a table of tensors.
    """
    try:
        values: Any = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+\w)", str(error))
        asked = f"{path} asks for {named[1]}" if named else f"{path} is not a pickle of tensors alone"
        raise ValueError(
            f"{asked}, and is not loaded because a pickle can run code; where you trust it, convert it to safetensors"
        ) from None
    except Exception as error:  # a damaged file fails in many ways
        reason = str(error).split(". ")[0] or type(error).__name__
        raise ValueError(f"{path} cannot be read as a pickle of tensors: {reason}") from None
    if not isinstance(values, Mapping) or not values:
        raise ValueError(f"{path} must hold a table from names to tensors, got {type(values).__name__}")
    if wrong := [name for name, value in values.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"{path} must hold a table from names to tensors, got {type(values[wrong[0]]).__name__} under {wrong[0]!r}")
    return values
