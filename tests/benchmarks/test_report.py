"""Does the table say what was measured, losses included, and is a peer that finds something else refused?"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.benchmarks.measuring import Row, _row
from tests.benchmarks.problems import Cell
from tests.benchmarks.report import rows_kept, write

CELL = Cell(model="smollm2", n_tokens=16, batch=1)
ROWS = [
    Row(kind="ablation", cell=str(CELL), peer="prosect", wall=[3.0, 2.0, 40.0], cpu=[3.5, 2.5, 4.5], peak=[10.0, 12.0, 11.0]),
    Row(kind="ablation", cell=str(CELL), peer="slow", wall=[9.0, 6.0, 7.5], cpu=[9.0, 9.0, 9.0], peak=[1.0, 1.0, 1.0], share=0.1, off=3e-6),
    Row(kind="ablation", cell=str(CELL), peer="fast", wall=[1.5, 1.2, 1.8], cpu=[1.0, 1.0, 1.0], peak=[5.0, 5.0, 5.0]),
    Row(kind="ablation", cell=str(CELL), peer="absent", missing="No module named 'absent'"),
]


def kept(folder: Path) -> Path:
    (folder / f"ablation {CELL}.json").write_text(
        json.dumps({"where": {"torch": "2.x", "threads": "1"}, "rows": [asdict(row) for row in ROWS]})
    )
    return folder


def test_table_has_medians_ranges_ratios_and_what_is_missing(tmp_path: Path) -> None:
    write(kept(tmp_path), tmp_path)
    text = (tmp_path / "benchmarks.md").read_text()
    assert "| smollm2 16 × 1 | prosect | 3 (2–40.0) | 1.00 | 3.5 | 12 | all |" in text
    assert "| smollm2 16 × 1 | slow | 7.5 (6–9) | 2.50 | 9 | 1 | 10% |" in text
    assert "| smollm2 16 × 1 | fast | 1.5 (1.2–1.8) | 0.50 | 1 | 5 | all |" in text
    assert "absent | not measured: No module named 'absent'" in text
    assert "all agree with prosect to 3e-06" in text and "torch 2.x, threads 1" in text


def test_same_rows_same_bytes(tmp_path: Path) -> None:
    pictures = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(kept(tmp_path), tmp_path / name)
        pictures.append((tmp_path / name / "benchmarks.svg").read_bytes())
    assert pictures[0] == pictures[1]


def test_nothing_measured(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there are no measurements"):
        rows_kept(tmp_path)


def run(values: list[float]) -> dict:
    return {"wall": 2.0, "cpu": 1.0, "peak": 3.0, "values": values}


def test_another_answer_is_refused() -> None:
    row = _row("ablation", CELL, "hooks_loop", {"share": 1.0}, [run([5.0, 1.0001])], [run([5.0, 1.0])])
    assert row.off == pytest.approx(2e-5, rel=0.1)
    with pytest.raises(AssertionError, match=r"plain hooks, loop is off by 2.0e-04 of the largest value on smollm2 16 × 1"):
        _row("ablation", CELL, "hooks_loop", {"share": 1.0}, [run([5.0, 1.001])], [run([5.0, 1.0])])
    with pytest.raises(AssertionError, match="gives 1 numbers on smollm2 16 × 1, prosect 2"):
        _row("ablation", CELL, "hooks_loop", {"share": 1.0}, [run([5.0])], [run([5.0, 1.0])])
