"""Which checkpoints can be loaded? One file a family; a file that exports ARCHITECTURE is found by listing this folder."""

from __future__ import annotations

import difflib
import pkgutil
from functools import cache
from importlib import import_module

from model.architectures._contract import Architecture

__all__ = ["Architecture", "architecture_for", "architectures"]


@cache
def architectures() -> dict[str, Architecture]:
    """Every family, by its Hugging Face `model_type`, in the order of the file names."""
    found = {}
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            architecture = import_module(f"{__name__}.{info.name}").ARCHITECTURE
            found[architecture.model_type] = architecture
    return found


def architecture_for(model_type: str) -> Architecture:
    """The family of a checkpoint. Raises ValueError that names the nearest families for one that is not known."""
    known = architectures()
    if model_type not in known:
        near = difflib.get_close_matches(str(model_type), known, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"unknown model family {model_type!r}: prosect loads {', '.join(known)}{hint}")
    return known[model_type]
