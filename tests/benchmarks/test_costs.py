"""What do importing, loading, watching and sweeping cost? Run with `make benchmark`; prints a table, asserts the bounds that we promise."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from model import load_model, wrap
from model.zoo import data_path
from probes import ablate_heads, intervene, logit_difference, record, sweep, zero
from tests.model.test_trained_models import IOI, llama_of

pytestmark = pytest.mark.benchmark
ROOT = Path(__file__).parents[2]


def child(code: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(x) for x in done.stdout.split()]


IMPORT = """
import time, resource, sys
rss = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 2**20
import torch
before, start = rss(), time.perf_counter()
import {what}
print(time.perf_counter() - start, rss() - before)
"""


def test_import_probes() -> None:
    runs = [child(IMPORT.format(what="probes")) for _ in range(7)]
    seconds, megabytes = (statistics.median(column) for column in zip(*runs, strict=True))
    print(f"\nimport probes beyond import torch: {seconds:.2f} s, {megabytes:.0f} MB")
    assert seconds <= 0.6 and megabytes <= 100


LOAD = "import time; from model import load_model; start = time.perf_counter(); load_model('smollm2'); print(time.perf_counter() - start)"


def test_load_smollm2(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PROSECT_CACHE", str(tmp_path))
    first, *again = [child(LOAD)[0] for _ in range(4)]
    print(f"\nload smollm2: {first:.1f} s from GGUF, {statistics.median(again):.1f} s from the converted copy")
    assert first <= 10 and statistics.median(again) <= 3


def interleaved(runs: int, **cells: Callable[[], object]) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in cells}
    for cell in cells.values():
        cell()
    for _ in range(runs):
        for name, cell in cells.items():
            start = time.perf_counter()
            cell()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def paired(values: list[float], base: list[float]) -> float:
    """The median ratio of runs beside each other: what else the machine does disturbs both."""
    return statistics.median(value / other for value, other in zip(values, base, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 8])
def test_forward_and_recording(batch: int) -> None:
    model = load_model("smollm2")
    theirs = llama_of(model)
    theirs.set_attn_implementation("sdpa")
    text = model.tokenizer.encode(data_path("prose.txt").read_text()[:8000])
    tokens = torch.tensor(text[: batch * 128]).view(batch, 128)
    assert torch.allclose(model(tokens), theirs(tokens, use_cache=False).logits, atol=1e-3)

    def recorded() -> None:
        with record(model, "blocks.*.resid_post"):
            model(tokens)

    cells = dict(ours=lambda: model(tokens), theirs=lambda: theirs(tokens, use_cache=False), recorded=recorded)
    seconds = interleaved(41 if batch == 1 else 11, **cells)
    forward, watching = paired(seconds["ours"], seconds["theirs"]), paired(seconds["recorded"], seconds["ours"])
    print(f"\n{batch} × 128: forward {statistics.median(seconds['ours']):.3f} s, {forward:.3f} × Hugging Face SDPA;", end=" ")
    print(f"recording of all residual streams {watching:.3f} × forward")
    assert forward <= 1.05 and watching <= 1.05


@torch.no_grad()
def test_sweep_of_all_heads() -> None:
    model = load_model("smollm2")
    inputs = model.tokenize([IOI])
    edits, metric = ablate_heads(model, zero()), logit_difference(" Mary", " John")
    right, wrong = (model.tokenizer.encode(word)[0] for word in (" Mary", " John"))

    def loop() -> list[float]:
        values = []
        for edit in edits:
            with intervene(model, edit):
                logits = model(*inputs)[0, -1]
            values.append(float(logits[right] - logits[wrong]))
        return values

    swept, alone = sweep(model, inputs, edits, metric)["edited"].to_numpy(), loop()
    assert max(abs(swept - alone)) < 1e-4
    seconds = interleaved(3, sweep=lambda: sweep(model, inputs, edits, metric), loop=loop)
    fast, slow = (statistics.median(seconds[name]) for name in ("sweep", "loop"))
    print(f"\n270 heads, 14 tokens: sweep {fast:.2f} s, one forward each {slow:.2f} s, {slow / fast:.1f} ×")


def test_wrapping_takes_no_memory() -> None:
    theirs = llama_of(load_model("smollm2"))
    storages = {p.untyped_storage().data_ptr() for p in theirs.parameters()}
    ours = wrap(theirs)
    assert {p.untyped_storage().data_ptr() for p in ours.parameters()} <= storages
