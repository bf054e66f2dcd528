"""What would somebody need to run this again? Versions, weights, data, seed, device, threads, and the command line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shlex
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from analyses._anatomy import Model, attention_path
from analyses._corpus import Corpus
from reports import Provenance

PACKAGES = ("prosect", "torch", "numpy", "pandas", "matplotlib", "captum", "tokenizers", "safetensors", "gguf", "jinja2")


def provenance(model: Model, corpus: Corpus, *, seed: int, command: Sequence[str] = ("python",)) -> Provenance:
    """Everything needed to run it again, as it is now."""
    config, source = model.config, model.source
    commit, dirty = source_state()
    return Provenance(
        command=shlex.join(command), versions=versions(), git_commit=commit, git_dirty=dirty,
        model={
            "name": source.name, "kind": source.kind, "package": source.package, "licence": source.licence,
            "steps": "; ".join(source.steps), "sha256": source.sha256(model), "attention_path": attention_path(model), **config.to_dict(),
        },
        corpus={
            "digest": corpus.digest, "text": corpus.text_source, "text_tokens": len(corpus.tokens),
            "prompts": corpus.prompts_source, "n_prompts": len(corpus.prompts),
        },
        seed=seed, dtype=str(model.dtype).removeprefix("torch."), device=str(model.device), threads=torch.get_num_threads(),
        platform=f"{platform.system()} {platform.machine()}",
    )


def versions() -> dict[str, str]:
    """Python's, that of prosect's own source files, and those of the packages that compute and draw."""
    found = {"python": platform.python_version(), "prosect code": _code()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


@cache
def _code() -> str:
    """Digest of prosect's own source files: two runs with the same one computed the same way."""
    root = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for package in ("analyses", "model", "probes", "reports"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def source_state() -> tuple[str | None, bool | None]:
    """The commit of the source tree that runs, and whether it differs from it; None outside a checkout."""
    here = Path(__file__).resolve().parent.parent
    if not (here / ".git").exists():
        return None, None

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return ask("rev-parse", "HEAD"), bool(ask("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None
