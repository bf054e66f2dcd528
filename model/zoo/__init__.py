"""Which models are known by name? One file a model; a file that exports MODEL is found by listing this folder.

Data that ships with prosect (prose, prompts, a pronouncing dictionary) lies in `data/` and is read through `data_path` and
`pronunciations`. Weights that prosect trained itself lie in `weights/`, each folder with a card that says by which recipe and
how well; `python -m model.zoo train NAME` trains one again.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from pathlib import Path

from model.zoo._contract import ZooModel, packaged_file
from model.zoo._pronunciations import pronunciations

__all__ = ["ZooModel", "data_path", "packaged_file", "pronunciations", "zoo"]


@cache
def zoo() -> dict[str, ZooModel]:
    """Every model that has a name, installed or not, in the order of the file names."""
    found = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):  # __main__ among them
            entry = import_module(f"{__name__}.{info.name}").MODEL
            found[entry.name] = entry
    return found


def data_path(name: str) -> Path:
    """A data file that ships with prosect. Raises FileNotFoundError that lists what there is."""
    folder = Path(__file__).parent / "data"
    path = folder / name
    if not path.is_file():
        raise FileNotFoundError(f"no data file {name!r} ships with prosect, only {', '.join(sorted(p.name for p in folder.iterdir()))}")
    return path
