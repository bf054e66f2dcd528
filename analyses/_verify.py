"""Does a saved run still hold? Run it again, from its folder or from the page alone, and compare every table with what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from tqdm.auto import tqdm

from analyses._anatomy import Model
from analyses._compare import Comparison, compare_tables, plain_value
from analyses._corpus import Corpus, CorpusError
from analyses._provenance import provenance
from analyses._runs import DType, Mistake, Request, load, mistakes
from probes import SiteError
from reports import (
    Provenance,
    SavedAnalysis,
    SavedRun,
    StoreError,
    read_saved,
    saved_analysis,
)


@dataclass(frozen=True)
class Verification:
    """Every table compared, what else differs (versions, hardware, weights, text, verdicts), and whether the run still holds."""

    compared: tuple[Comparison, ...]
    notes: tuple[str, ...]
    agrees: bool


def verify(path: Path, *, model: str | None = None) -> Verification:
    """Run again what a run's folder or its page tells of, and compare. `model` says where its weights are now.

    Raises Mistake for what holds no whole run, a run that is not complete, other weights than the run's under `model`, and
    whatever running it again refuses.
    """
    with mistakes(StoreError, OSError):
        saved = read_saved(path)
    if saved.state != "complete":
        raise Mistake(f"{path} is incomplete; run its command again first: {saved.provenance.get('command', 'unknown')}")
    request = _request(saved)
    loaded, corpus = _loaded(request, saved, model)
    now = provenance(loaded, corpus, seed=saved.provenance["seed"])
    notes, compared, agrees = list(_changed(saved.provenance, now)), [], True
    pairs = list(zip(request.built(), _in_order(request, saved), strict=True))
    for analysis, old in tqdm(pairs, desc="prosect verify", unit="analysis", disable=None):
        with mistakes(CorpusError, SiteError):
            new = saved_analysis(analysis.run(loaded, corpus, provenance_of=now))
        tables = list(_tables(old, new, through_csv=saved.carried))
        agrees &= all(one.outcome != "differs" for one in tables)
        compared += tables
        if (old.verdict.status, old.verdict.claim) != (new.verdict.status, new.verdict.claim):
            notes.append(f"verdict of {old.name}{', which rests on times' if analysis.timed else ''}: {old.verdict.status}, now {new.verdict.status} ({new.verdict.claim})")
            agrees &= analysis.timed  # a claim about times is as steady as they are
    return Verification(tuple(compared), tuple(notes), agrees)


def _request(saved: SavedRun) -> Request:
    """The request of a run, checked field by field: a page may say anything. Raises Mistake."""
    if "studies" in saved.parameters:
        raise Mistake(f"{saved.place} holds studies, which train their own models; run its command again into another folder and compare: prosect diff {saved.place} OTHER")
    with mistakes(TypeError):
        request = Request(**saved.parameters)
    texts = {name: getattr(request, name) for name in ("adapter", "text", "prompts")}
    sound = (
        isinstance(request.model, str) and isinstance(request.device, str) and request.dtype in get_args(DType)
        and all(value is None or isinstance(value, str) for value in texts.values())
        and isinstance(request.analyses, Mapping) and all(isinstance(one, Mapping) for one in request.analyses.values())
        and isinstance(saved.provenance.get("seed"), int)
        and all(isinstance(saved.provenance.get(part), Mapping) for part in ("versions", "model", "corpus"))
    )
    if not sound:
        raise Mistake(f"the parameters that {saved.place} tells of are not those of a run; it was changed")
    if {one.name for one in saved.analyses} != set(request.analyses):
        raise Mistake(f"{saved.place} has results of {', '.join(one.name for one in saved.analyses)}, but was asked for {', '.join(request.analyses)}")
    return request


def _in_order(request: Request, saved: SavedRun) -> list[SavedAnalysis]:
    found = {one.name: one for one in saved.analyses}
    return [found[name] for name in request.analyses]


def _loaded(request: Request, saved: SavedRun, model: str | None) -> tuple[Model, Corpus]:
    """Model and corpus of the run; where the model's path is another machine's, from the place that the user names."""
    told = saved.provenance.get("model", {})
    if model is None:
        path = Path(request.model).expanduser()
        if told.get("kind") in ("folder", "gguf") and not path.exists():
            raise Mistake(f"the model of this run was at {request.model}, which is not here; say where its weights are now: prosect verify {saved.place} --model PATH")
        return load(request)
    loaded, corpus = load(dataclasses.replace(request, model=model), called=request.model)
    if (digest := loaded.source.sha256(loaded)) != told.get("sha256"):
        raise Mistake(f"{model} holds other weights than the run's: SHA-256 {digest[:12]}…, but the run had {str(told.get('sha256'))[:12]}…")
    return loaded, corpus


def _changed(before: Mapping[str, Any], now: Provenance) -> Iterator[str]:
    current = {f.name: getattr(now, f.name) for f in dataclasses.fields(Provenance)}
    for part in ("versions", "model", "corpus"):
        for key in sorted({*before.get(part, {}), *current[part]}):
            was, becomes = before.get(part, {}).get(key), current[part].get(key)
            if plain_value(was) != plain_value(becomes):
                yield f"{part} {key}: {was}, now {becomes}"
    for key in ("git_commit", "dtype", "device", "threads", "platform"):
        if before.get(key) != current[key]:
            yield f"{key}: {before.get(key)}, now {current[key]}"


def _tables(old: SavedAnalysis, new: SavedAnalysis, *, through_csv: bool) -> Iterator[Comparison]:
    for name in sorted({*old.tables, *new.tables}):
        if name not in new.tables or name not in old.tables:
            yield Comparison(old.name, name, "differs", "only in the saved run" if name in old.tables else "only in the new run")
        else:
            yield compare_tables(old.name, name, old.tables[name], new.tables[name], through_csv=through_csv)
