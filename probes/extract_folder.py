"""What does a folder of activations hold, and does it belong to the model and the batches that would go on with it?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from probes.inputs import Inputs
from probes.observable import Observable


def name_of(model: Observable) -> str:
    return str(getattr(getattr(model, "source", None), "name", type(model).__name__))


def agree_on_parameters(folder: Path, wanted: dict[str, Any]) -> None:
    """Keep the parameters, or find the same. Raises ValueError for others."""
    place = folder / "parameters.json"
    if not place.exists():
        write(place, json.dumps(wanted, indent=1).encode())
        return
    there = read_parameters(folder)
    if different := next((name for name in sorted(wanted | there) if wanted.get(name) != there.get(name)), None):
        raise ValueError(
            f"{folder} holds activations with {different}={there.get(different)!r}, asked for were {wanted.get(different)!r}; choose another folder"
        )


def read_parameters(folder: Path) -> dict[str, Any]:
    """Raises ValueError for a file that `extract` did not write."""
    place = folder / "parameters.json"
    try:
        found = json.loads(place.read_text())
    except ValueError:
        found = None
    if not isinstance(found, dict) or not {"format", "sites"} <= set(found):
        raise ValueError(f"{place} is not one that extract wrote; choose another folder")
    return found


def digest_of(tensors: Inputs) -> str:
    """Of shapes, kinds and values, None included.

    >>> digest_of((torch.tensor([1, 2]), None)) == digest_of((torch.tensor([1, 2]),))
    False
    """
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(b"None" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}".encode())
        if tensor is not None and tensor.numel():
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of_weights(model: Observable) -> str:
    """Of what the model computes with; empty for one that is no module."""
    state = model.state_dict() if isinstance(model, torch.nn.Module) else {}
    tensors = {name: value for name, value in sorted(state.items()) if isinstance(value, Tensor)}
    return hashlib.blake2b((" ".join(tensors) + digest_of(tuple(tensors.values()))).encode(), digest_size=16).hexdigest() if tensors else ""


def place_of(folder: Path, shard: int) -> Path:
    return folder / f"values-{shard:06d}.safetensors"


def digest_there(folder: Path, shard: int) -> str | None:
    """The digest of the batch that made the values of a shard; None where they are missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place_of(folder, shard), "pt") as file:
            return (file.metadata() or {}).get("batch")
    except (OSError, SafetensorError):
        return None


def is_there(folder: Path, shard: int, index: pd.DataFrame, digest: str) -> bool:
    """Was this shard written, whole? Its index is written last. Raises ValueError for one of another batch, or of other labels."""
    place = folder / f"index-{shard:06d}.parquet"
    if not place.exists() or (of := digest_there(folder, shard)) is None:
        return False
    there = pd.read_parquet(place)
    if of != digest or len(there) != len(index):
        raise ValueError(
            f"{folder} holds another batch in shard {shard}: the same batches in the same order continue it, others need another folder"
        )
    if not _plain(there["label"]).equals(_plain(index["label"])):
        raise ValueError(f"{folder} holds other labels in shard {shard}; choose another folder")
    return True


def _plain(labels: pd.Series) -> pd.Series:
    """Whatever kind of column keeps them."""
    return labels.astype(object).where(labels.notna(), None)


def write_shard(folder: Path, shard: int, values: dict[str, Tensor], index: pd.DataFrame, digest: str) -> None:
    from safetensors.torch import save

    write(place_of(folder, shard), save({name: value.cpu().contiguous() for name, value in values.items()}, {"batch": digest}))
    write(folder / f"index-{shard:06d}.parquet", lambda beside: index.to_parquet(beside))


def write(place: Path, content: bytes | Callable[[Path], None]) -> None:
    """Beside the place, then renamed: whoever reads sees all of it or nothing."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        if isinstance(content, bytes):
            beside.write_bytes(content)
        else:
            content(beside)
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)
