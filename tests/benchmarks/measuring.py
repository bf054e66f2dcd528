"""Who is faster, and do all find the same? Peers run in turn, A B C A B C …, each in a process of its own; what they find is compared first."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from model import load_model
from probes.observable import layer_of
from tests.benchmarks.peers import Kind, peers
from tests.benchmarks.problems import Cell

ROOT = Path(__file__).parents[2]
QUICK = os.environ.get("PROSECT_BENCHMARK") == "quick"
"""one run each on small inputs: to see whether everything works"""
KEPT = ROOT / "runs" / ("benchmarks-quick" if QUICK else "benchmarks")
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one peer took for one cell: seconds and MB of every run, scaled to all edits."""

    kind: Kind
    cell: str
    peer: str
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    peak: list[float] = field(default_factory=list)
    """the high-water mark of the process above what it held when it was ready"""
    share: float = 1.0
    """of the blocks, those that were timed"""
    off: float = 0.0
    """largest difference to what prosect found, relative to the largest value or 1"""
    missing: str = ""

    @property
    def seconds(self) -> float:
        return statistics.median(self.wall) if self.wall else math.nan


class Contestant:
    """A peer in its process."""

    def __init__(self, peer: str, kind: Kind, cell: Cell) -> None:
        spec = json.dumps({"peer": peer, "kind": kind, "cell": asdict(cell)})
        self.peer, self.errors = peer, (KEPT / f"{peer}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker", spec], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True,
        )  # fmt: skip

    def answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"{self.peer} ended with status {self.process.wait()}: {self.errors.read()[-1500:]}")
        return json.loads(line)

    def run(self) -> dict[str, Any]:
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


def contest(kind: Kind, cell: Cell, *, runs: int) -> list[Row]:
    """A row for each peer that can do it, kept for the report.

    Raises AssertionError where a peer finds something else than prosect, by more than 1e-4 of a logit.
    """
    KEPT.mkdir(parents=True, exist_ok=True)
    chosen = [name for name, peer in peers().items() if kind in peer.jobs and cell.model in peer.models]
    chosen.sort(key=lambda name: name != "prosect")
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
    with ExitStack() as doors:
        contestants = {}
        for name in chosen:
            contestants[name] = Contestant(name, kind, cell)
            doors.callback(contestants[name].close)
        ready = {name: one.answer() for name, one in contestants.items()}
        for _ in range(1 if QUICK else runs):
            for name, one in contestants.items():
                if "missing" not in ready[name]:
                    found[name].append(one.run())
    rows = [_row(kind, cell, name, ready[name], found[name], found["prosect"]) for name in chosen]
    (KEPT / f"{kind} {cell}.json").write_text(json.dumps({"where": where(), "rows": [asdict(row) for row in rows]}, indent=1))
    return rows


def _row(kind: Kind, cell: Cell, name: str, ready: dict[str, Any], runs: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> Row:
    title = peers()[name].name
    if "missing" in ready:
        return Row(kind=kind, cell=str(cell), peer=title, missing=ready["missing"])
    share = ready["share"]
    found, expected = torch.tensor(runs[0]["values"]), torch.tensor(ours[0]["values"])
    if share < 1:
        expected = expected.view(-1, cell.batch if kind == "ablation" else 1)[_timed(kind, cell)].flatten()
    assert found.shape == expected.shape, f"{title} gives {len(found)} numbers on {cell}, prosect {len(expected)}"
    off = float((found - expected).abs().max() / max(1.0, float(expected.abs().max())))
    assert off <= TOLERANCE, f"{title} is off by {off:.1e} of the largest value on {cell}"
    wall, cpu = ([run[key] / share for run in runs] for key in ("wall", "cpu"))
    return Row(kind=kind, cell=str(cell), peer=title, wall=wall, cpu=cpu, peak=[run["peak"] for run in runs], share=share, off=off)


def _timed(kind: Kind, cell: Cell) -> list[bool]:
    """Which of all edits the peers ran that stand for all."""
    model = load_model(cell.model)
    if kind == "patching":
        layers = [i for i in range(model.n_layers) for _ in range(cell.n_tokens)]
    else:
        layers = [layer_of(site) for site in model.sites() if site.endswith("attn.z") for _ in range(model.n_heads_at(site))]
    return [i % cell.every == cell.every // 2 for i in layers]


def keep(name: str, text: str) -> None:
    """Print lines about what was measured, and keep them for the document."""
    print(f"\n{text}")
    KEPT.mkdir(parents=True, exist_ok=True)
    (KEPT / f"{name}.txt").write_text(text + "\n")


def where() -> dict[str, str]:
    """On what all this was measured."""
    packages = sorted({"torch", *(peer.package for peer in peers().values() if peer.package)})
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {**versions, "threads": str(torch.get_num_threads()), "dtype": "float32", "device": "cpu"}


def shown(rows: Sequence[Row]) -> str:
    """The rows as a few lines of text."""
    base = rows[0].seconds
    lines = [f"\n{rows[0].kind} {rows[0].cell}"]
    for row in rows:
        if row.missing:
            lines.append(f"  {row.peer}: {row.missing}")
            continue
        lines.append(
            f"  {row.peer}: {row.seconds:.2f} s ({min(row.wall):.2f}–{max(row.wall):.2f}), {statistics.median(row.cpu):.2f} s CPU, "
            f"{max(row.peak):.0f} MB, {row.seconds / base:.2f} ×, {row.share:.2f} of the blocks, off by {row.off:.0e}"
        )
    return "\n".join(lines)
