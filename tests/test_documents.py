"""Does the code in the documents run, and is adding an analysis one file?"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

ROOT = Path(__file__).parents[1]


def blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, -1))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SmallGPT(nn.Module):
    """Somebody's own model: none of our names."""

    def __init__(self, vocabulary: int = 49152, width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.wte, self.h = nn.Embedding(vocabulary, width), nn.ModuleList(Layer(width, heads) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.wte(tokens)
        for layer in self.h:
            x = layer(x)
        return x @ self.wte.weight.T


def test_readme_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"gpt": SmallGPT()}
    found = blocks("README.md")
    assert len(found) == 8
    for block in found:
        exec(compile(block, "README.md", "exec"), names)
    assert names["activations"]["blocks.1.attn.z"].shape == (1, 14, 4, 4)
    assert len(names["table"]) == len(names["heads"]) == 270 and set(names["tables"]) == {"norms", "attention"}


def test_adding_an_analysis_is_one_file(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "analyses", tmp_path / "analyses", ignore=shutil.ignore_patterns("__pycache__"))
    (block,) = blocks("CONTRIBUTING.md")
    (tmp_path / "analyses" / "parameter_norms.py").write_text(block)
    environment = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin"}

    def prosect(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "analyses", *words], cwd=tmp_path, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "parameter-norms    How large are the weights of each block?" in prosect("list")
    assert "--warn-ratio" in prosect("run", "parameter-norms", "--help")
    path = Path(prosect("run", "parameter-norms", "--model", "glasslm", "--out", "runs/norms").splitlines()[-1])
    assert "Blocks differ" in (tmp_path / path).read_text()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "model/zoo/data/README.md"])
def test_links_lead_somewhere(name: str) -> None:
    folder = (ROOT / name).parent
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text()):
        assert (folder / target).exists(), target
