"""Where did these weights come from? Enough to find them again, and a digest that says whether they are the same."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn


@dataclass(frozen=True, kw_only=True)
class Source:
    """The origin of a model.

    `name` is what the user asked for, `kind` how it came, `files` what was read, `package` the installed distribution
    that ships it, `licence` as its publisher states it, `steps` what was done to the weights since (an adapter merged,
    norms folded).
    """

    name: str
    kind: Literal["initialised", "package", "folder", "gguf", "hub", "wrapped"]
    files: tuple[Path, ...] = ()
    package: str = ""
    licence: str = ""
    steps: tuple[str, ...] = ()

    def then(self, step: str, files: tuple[Path, ...] = ()) -> Source:
        """The origin after one more step, which read these files too."""
        return replace(self, steps=(*self.steps, step), files=(*self.files, *files))

    def sha256(self, module: nn.Module) -> str:
        """The digest of the files, or of the parameters of `module` where there are no files."""
        return hash_files(self.files) if self.files else hash_parameters(module)


def hash_files(files: tuple[Path, ...]) -> str:
    """SHA-256 over the contents of the files, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while chunk := file.read(1 << 22):
                digest.update(chunk)
    return digest.hexdigest()


def hash_parameters(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of the parameters, in the order of their names."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
