"""How is a GGUF file dequantised only once? The result is kept as safetensors, under the digest of the file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import torch

from model.checkpoint import load_folder, save_model
from model.gguf import read_gguf
from model.source import Source, hash_files
from model.transformer import Transformer

LAYOUT = 2
"""counts what a converted copy has been made of: 2 keeps the chat template"""


def cache_folder() -> Path:
    """Where converted models are kept: $PROSECT_CACHE, else prosect/ in the user's cache folder."""
    if "PROSECT_CACHE" in os.environ:
        return Path(os.environ["PROSECT_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "prosect"


def read_gguf_cached(path: Path, device: str | torch.device, dtype: torch.dtype) -> Transformer:
    """The model in a .gguf file, from its converted copy where there is one; converts and keeps it otherwise."""
    folder = cache_folder() / f"gguf-{LAYOUT}-{hash_files((path,))[:32]}"
    kept = Source(name=path.name, kind="gguf", files=(path,))
    if (folder / "config.json").is_file():
        try:
            return load_folder(folder, device, dtype, kept)
        except ValueError as damage:
            warnings.warn(f"the converted copy of {path.name} is damaged and is made again: {damage}", stacklevel=2)
    model = read_gguf(path, device="cpu", dtype=torch.float32)
    try:
        save_model(model, folder)
    except OSError as error:
        warnings.warn(f"the converted copy of {path.name} could not be kept in {folder}: {error}", stacklevel=2)
    return model.to(device, dtype)
