"""What did the benchmarks find? Writes docs/benchmarks.md and its figure from the rows that the last runs kept: python -m tests.benchmarks.report"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tests.benchmarks.measuring import KEPT, QUICK, ROOT, Row
from tests.benchmarks.peers import peers

DOCS = KEPT if QUICK else ROOT / "docs"
ASKED = {
    "ablation": (
        "Every head silenced",
        "The z of each head set to zero, on its own; one number per head and example. Seconds for all heads.",
    ),
    "patching": (
        "The residual stream patched at every layer and position",
        "`resid_pre` of one text put into the run of another, at each layer and position on its own. Seconds for all of them.",
    ),
    "forward": ("A forward pass", "Logits at every position."),
    "recording": ("Recording every residual stream", "`resid_post` of all blocks during a forward pass."),
}
ORDER = ("smollm2 16 × 1", "smollm2 48 × 4", "smollm2 64 × 8")
INTRODUCTION = """# Benchmarks

`make benchmark` measured this table and wrote it. Everybody works with the same parameters, prompts, number format and threads.
What they find was compared before the time was looked at: all agree with prosect to {off:.0e} of the largest value or of a logit.
Each way of doing it has a process of its own, and they run in turn (A B C A B C …). Times are medians ({runs} runs) with the
smallest and the largest; × is the ratio to prosect's median, below 1 where prosect loses. Memory is the high-water mark of the
process above what it held with the model loaded. Where a share of the blocks is given, the loop was timed on that share alone,
whose cost per edit is that of the others, and its time scaled (what it does once is then counted too often, by 3 % at most).

Measured with {where}.
"""


AIMS = {
    "smollm2 16 × 1": {"TransformerLens, loop": 8.0, "plain hooks, batched": 1.8},
    "smollm2 48 × 4": {"TransformerLens, loop": 4.0, "plain hooks, batched": 2.0},
    "smollm2 64 × 8": {"TransformerLens, loop": 2.5, "plain hooks, batched": 2.2},
}
"""how many times prosect's time the others should at least take"""
WHY = (
    "Where an aim is missed: with 1,728 tokens at once a block of SmolLM2 takes 25 µs per token on two cores, 20 µs of them in matrix products that run as fast "
    "as the machine multiplies; the sweep takes 27 µs. It computes half of all block steps, and nothing of the rest that could be left out is left."
)
NOTES = {"long text": "Statistics of attention on long text", "screening": "Screening, then settling"}


def rows_kept(folder: Path) -> tuple[list[Row], dict[str, str]]:
    """What the last runs kept, in the order of the questions and of size. Raises SystemExit where there is nothing."""
    files = sorted(folder.glob("*.json"), key=lambda path: (list(ASKED).index(path.stem.split()[0]), _place(path.stem.split(" ", 1)[1])))
    if not files:
        raise SystemExit("there are no measurements; run pytest -m benchmark tests/benchmarks first")
    kept = [json.loads(path.read_text()) for path in files]
    return [Row(**row) for one in kept for row in one["rows"]], kept[-1]["where"]


def _place(cell: str) -> tuple:
    model, tokens, _, batch = cell.split()
    return (cell not in ORDER, model, int(tokens) * int(batch))


def page(rows: Sequence[Row], where: dict[str, str]) -> str:
    """The document."""
    counts = sorted({len(row.wall) for row in rows if row.wall})
    runs = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [INTRODUCTION.format(off=max(row.off for row in rows), runs=runs, where=", ".join(f"{k} {v}" for k, v in where.items()))]
    parts += ["| way | how |", "|---|---|", *(f"| {peer.name} | {peer.how} |" for peer in peers().values()), ""]
    for kind, (title, about) in ASKED.items():
        if some := [row for row in rows if row.kind == kind]:
            parts += [f"## {title}", "", about, "", *_table(some), ""]
            if kind == "ablation":
                parts += [*_aims(some), "", WHY, "", "![Time of each way as a multiple of prosect's](benchmarks.svg)", ""]
    return "\n".join(parts)


def _aims(rows: Sequence[Row]) -> list[str]:
    """What was aimed at, and whether it was reached."""
    base = {row.cell: row.seconds for row in rows if row.peer == "prosect"}
    lines = ["| cell | beside | aimed at | measured | |", "|---|---|---|---|---|"]
    for row in rows:
        if (aim := AIMS.get(row.cell, {}).get(row.peer)) is not None and not row.missing:
            ratio = row.seconds / base[row.cell]
            lines.append(f"| {row.cell} | {row.peer} | {aim:g} × | {ratio:.2f} × | {'reached' if ratio >= aim else '**missed**'} |")
    return lines


def _notes(folder: Path) -> list[str]:
    """What was measured beside the contests, in sentences."""
    parts: list[str] = []
    for kind, title in NOTES.items():
        if texts := [path.read_text().strip() for path in sorted(folder.glob(f"{kind}*.txt"))]:
            parts += [f"## {title}", "", *(f"* {text}" for text in texts), ""]
    return parts


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| model, tokens × examples | way | seconds (min–max) | × | CPU seconds | memory, MB | blocks timed |",
        "|---|---|---|---|---|---|---|",
    ]
    base = {row.cell: row.seconds for row in rows if row.peer == "prosect"}
    for row in rows:
        if row.missing:
            lines.append(f"| {row.cell} | {row.peer} | not measured: {row.missing} | | | | |")
            continue
        blocks = "all" if row.share == 1 else f"{row.share:.0%}"
        spread = f"{_short(row.seconds)} ({_short(min(row.wall))}–{_short(max(row.wall))})"
        cpu = _short(statistics.median(row.cpu))
        lines.append(
            f"| {row.cell} | {row.peer} | {spread} | {row.seconds / base[row.cell]:.2f} | {cpu} | {max(row.peak):.0f} | {blocks} |"
        )
    return lines


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.3g}"


def drawn(rows: Sequence[Row]) -> Figure:
    """For each cell of the ablation a group of bars: each way's median as a multiple of prosect's."""
    rows = [row for row in rows if row.kind == "ablation" and row.wall]
    cells, names = list(dict.fromkeys(row.cell for row in rows)), list(dict.fromkeys(row.peer for row in rows))
    base = {row.cell: row.seconds for row in rows if row.peer == "prosect"}
    figure = Figure(figsize=(8, 0.32 * len(rows) + 1.2), layout="constrained")
    axes, height = figure.subplots(), 0.8 / len(names)
    for i, name in enumerate(names):
        mine = [row for row in rows if row.peer == name]
        ratios = [row.seconds / base[row.cell] for row in mine]
        at = [cells.index(row.cell) + (i - (len(names) - 1) / 2) * height for row in mine]
        axes.barh(at, ratios, height=height, label=name)
        for y, ratio, row in zip(at, ratios, mine, strict=True):
            axes.annotate(
                f"{ratio:.1f} ×, {_short(row.seconds)} s", (ratio, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7
            )
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(cells)), cells)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("time for all heads, as a multiple of prosect's")
    axes.legend(loc="lower right", fontsize=7, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def write(folder: Path = KEPT, docs: Path = DOCS) -> None:
    """The document and its figure."""
    rows, where = rows_kept(folder)
    (docs / "benchmarks.md").write_text("\n".join([page(rows, where), *_notes(folder)]))
    with matplotlib.rc_context({"svg.hashsalt": "prosect"}):  # the same rows give the same bytes
        FigureCanvasSVG(drawn(rows)).print_figure(docs / "benchmarks.svg", metadata={"Date": None})


if __name__ == "__main__":
    write()
