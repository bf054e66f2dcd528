"""Do the four packages import only what they may, and cost no more than they must?"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_arrows() -> None:
    done = subprocess.run([Path(sys.executable).with_name("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("package", ["model", "probes", "reports"])
def test_what_is_public_is_explicit(package: str) -> None:
    module = import_module(package)
    assert list(module.__all__) == sorted(module.__all__)
    public = {name for name, value in vars(module).items() if not name.startswith("_") and not isinstance(value, type(sys)) and name != "annotations"}
    assert public == set(module.__all__)
    described = [value for name in module.__all__ if callable(value := getattr(module, name)) and not hasattr(value, "__origin__")]
    assert described and not [value for value in described if not value.__doc__]


def loaded_by(statement: str, folder: Path) -> set[str]:
    """The modules that a statement loads, from a folder with files that are called like our packages."""
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT), "PATH": ""})
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


HEAVY = {"matplotlib", "captum", "transformers", "transformer_lens", "sklearn", "scipy", "gguf", "tyro", "jinja2", "tokenizers", "IPython"}


def test_probes_work_beside_files_of_the_same_names(tmp_path: Path) -> None:
    for name in ("model.py", "reports.py", "analyses.py"):
        (tmp_path / name).write_text("raise RuntimeError('a foreign file was imported')")
    loaded = loaded_by("import probes", tmp_path)
    assert "pandas" in loaded and not loaded & (HEAVY | {"model", "reports", "analyses"})


def test_lazy_imports(tmp_path: Path) -> None:
    assert not loaded_by("import model", tmp_path) & ((HEAVY - {"tokenizers"}) | {"probes", "reports", "analyses"})
    assert not loaded_by("import reports", tmp_path) & {"torch", "matplotlib", "model", "probes", "analyses"}
