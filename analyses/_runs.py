"""How does a request become a folder of results? Load, run each analysis, save each when it is whole, render; start again where it stopped."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from analyses._anatomy import Model, sides
from analyses._baseline import against
from analyses._compare import plain_value
from analyses._contract import Analysis
from analyses._corpus import Corpus, load_corpus
from analyses._discovery import analyses, analysis_named
from analyses._provenance import provenance
from model import EncoderDecoder, Transformer, load_model
from model.zoo import zoo
from probes import SiteError
from reports import (
    Provenance,
    StoreError,
    load_result,
    load_run,
    read_saved,
    render,
    save_result,
    save_run,
)

DType = Literal["float32", "float64", "bfloat16", "float16"]
PREFERRED = ("smollm2", "glasslm", "induction")
"""What is taken where no model is named: the first whose weights are here. The last ships with prosect."""


class Mistake(Exception):
    """Something that the user can put right, said in one sentence."""


@contextmanager
def mistakes(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these errors of the block into a Mistake with the same sentence."""
    try:
        yield
    except kinds as error:
        text = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.strerror else str(error)
        raise Mistake(" ".join(text.split())) from error


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for: which analyses with which parameters, of which model, on which text and prompts."""

    model: str
    adapter: str | None = None
    device: str = "cpu"
    dtype: DType = "float32"
    text: str | None = None
    prompts: str | None = None
    analyses: Mapping[str, Mapping[str, Any]]

    def built(self) -> list[Analysis]:
        """The analyses with their parameters. Raises Mistake for one that does not exist or a parameter that it refuses."""
        with mistakes(ValueError, TypeError):
            return [analysis_named(name)(**_tuples(parameters)) for name, parameters in self.analyses.items()]


def _tuples(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in parameters.items()}


def default_model() -> str:
    """The model of a command that names none, said on stderr."""
    chosen = next(name for name in PREFERRED if zoo()[name].path() is not None)
    best = zoo()[PREFERRED[0]]
    why = "" if chosen == best.name else f", since {best.name} is not installed (get it with: {best.install})"
    sys.stderr.write(f"no --model given: taking {chosen}{why}\n")
    return chosen


def load(request: Request, *, called: str | None = None) -> tuple[Model, Corpus]:
    """The model and the corpus of a request. A model that was `called` otherwise keeps that name: the text that suits it goes by it.

    Raises Mistake.
    """
    with mistakes(ValueError, OSError, RuntimeError):  # torch answers an unknown device with RuntimeError
        model = load_model(request.model, device=request.device, dtype=getattr(torch, request.dtype), adapter=request.adapter)
    if not isinstance(model, Transformer | EncoderDecoder):
        raise Mistake(f"{request.model} is no Transformer ({type(model).__name__}), and the analyses are about those")
    if called is not None:
        model.source = dataclasses.replace(model.source, name=called)
    _warm_up(model)
    with mistakes(ValueError, OSError):
        return model, load_corpus(model, text=request.text and Path(request.text), prompts=request.prompts and Path(request.prompts))


@torch.no_grad()
def _warm_up(model: Model) -> None:
    """Spend the first parallel attention of the process on nothing: with two threads it now and then rounds otherwise than
    all later ones do (seen with torch 2.13 on MKL), and two runs of one command are to agree in every byte."""
    n_ctx = min(side.config.n_ctx for side in sides(model))
    tokens = torch.zeros(4, min(16, n_ctx), dtype=torch.long, device=model.device)
    model(*[tokens] * len(sides(model)))


def execute(
    request: Request, folder: Path, *, command: Sequence[str], title: str, overwrite: bool = False, baseline: Path | None = None
) -> Path:
    """Run what is not done yet, save each result when it is whole, and render the report, with what changed since `baseline`; its path.

    Raises Mistake for a folder that holds another run, a baseline that cannot be read, and whatever `load` and the analyses refuse.
    """
    with mistakes(StoreError, OSError):
        before = None if baseline is None else read_saved(baseline)
    chosen = request.built()
    model, corpus = load(request)
    made_by = provenance(model, corpus, seed=max((a.seed for a in chosen), default=0), command=command)
    run = {
        "title": title, "state": "incomplete", "analyses": [a.name for a in chosen],
        "parameters": dataclasses.asdict(request), "provenance": made_by,
        "known": {name: analysis.title for name, analysis in analyses().items()},
    }
    with mistakes(StoreError, OSError):
        claim_folder(folder, run, overwrite=overwrite)
        for analysis in tqdm(chosen, desc="prosect", unit="analysis", disable=None):
            if not _done(folder, analysis):
                save_result(_answer(analysis, model, corpus, made_by), folder / analysis.name)
        save_run(folder, run | {"state": "complete"})
        if before is not None:
            save_run(folder, run | {"state": "complete", "baseline": against(before, read_saved(folder))})
        return render(folder)


def _answer(analysis: Analysis, model: Model, corpus: Corpus, made_by: Provenance) -> Any:
    from analyses._corpus import CorpusError

    try:
        return analysis.run(model, corpus, provenance_of=dataclasses.replace(made_by, seed=analysis.seed))
    except (CorpusError, SiteError) as error:
        raise Mistake(f"{analysis.name}: {error}") from error


def _done(folder: Path, analysis: Analysis) -> bool:
    """Is there a whole result of this analysis?"""
    if not (folder / analysis.name / "result.json").is_file():
        return False
    try:
        load_result(folder / analysis.name)
    except StoreError:
        return False
    return True


def claim_folder(folder: Path, run: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the folder this run's. Raises Mistake if it holds another run, or something that is no run."""
    if folder.exists() and not folder.is_dir():
        raise Mistake(f"--out {folder} is a file; name a folder")
    if not (folder / "run.json").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise Mistake(f"--out {folder} exists and is not a run; name another folder")
    elif difference := _difference(load_run(folder), run):
        if not overwrite:
            raise Mistake(f"--out {folder} holds another run ({difference}); name another folder, or add --overwrite")
        for name in load_run(folder)["analyses"]:
            (folder / name / "result.json").unlink(missing_ok=True)
    save_run(folder, run)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """What the two runs differ in, one thing of it; empty if nothing that bears on the numbers."""
    pairs: list[tuple[str, Any, Any]] = [(key, old["parameters"].get(key), value) for key, value in new["parameters"].items()]
    before, now = old["provenance"], {f.name: getattr(new["provenance"], f.name) for f in dataclasses.fields(Provenance)}
    pairs += [(key, before.get(key), now[key]) for key in ("model", "corpus", "dtype", "device", "threads", "versions")]
    for key, was, becomes in pairs:
        if plain_value(was) != plain_value(becomes):
            if isinstance(was, Mapping) and isinstance(becomes, Mapping):
                inner = next(k for k in sorted({*was, *becomes}) if plain_value(was.get(k)) != plain_value(becomes.get(k)))
                return f"{key} {inner}: {was.get(inner)!r}, now {becomes.get(inner)!r}"
            return f"{key}: {was!r}, now {becomes!r}"
    return ""


def everything(seed: int, only: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """All analyses with their default parameters, or those named. Raises Mistake for a name that does not exist."""
    with mistakes(ValueError):
        names = [analysis_named(name).name for name in only]
    return {name: analysis(seed=seed).parameters() for name, analysis in analyses().items() if not names or name in names}
