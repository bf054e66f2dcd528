"""How do studies become a report? Each is saved when it is whole and not run twice; the page is the handbook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm.auto import tqdm

from analyses._runs import claim_folder, mistakes
from analyses.studies._contract import Budget, Study
from analyses.studies._provenance import study_provenance
from reports import Result, StoreError, load_result, render, save_result, save_run


def run_studies(
    chosen: Sequence[type[Study]], folder: Path, *, budget: Budget, seed: int, title: str, command: Sequence[str], overwrite: bool = False
) -> Iterator[Result]:
    """Every study's result as soon as it is there; the page is written in the end, or when the run is interrupted, of what is there then.

    Raises Mistake for a folder that holds another run, and for a budget that does not exist.
    """
    with mistakes(ValueError):
        ready = [study.at(budget, seed=seed) for study in chosen]
    made_by = study_provenance(seed=seed, command=command)
    run = {
        "title": title, "state": "incomplete", "analyses": [study.slug() for study in chosen],
        "parameters": {"studies": [study.name for study in chosen], "budget": budget, "seed": seed}, "provenance": made_by,
    }  # fmt: skip
    with mistakes(StoreError, OSError):
        claim_folder(folder, run, overwrite=overwrite)
    try:
        for study in tqdm(ready, desc=f"studies at {budget}", unit="study", disable=None):
            result = _saved(folder / study.slug())
            if result is None:
                result = study.run(provenance=made_by)
                with mistakes(StoreError, OSError):
                    save_result(result, folder / study.slug())
            yield result
        with mistakes(StoreError, OSError):
            save_run(folder, run | {"state": "complete"})
    finally:
        if _saved(folder / ready[0].slug()):
            with mistakes(StoreError, OSError):
                render(folder)


def _saved(folder: Path) -> Result | None:
    """A result that is there and whole."""
    try:
        return load_result(folder)
    except StoreError:
        return None


def said(result: Result) -> str:
    """The answer for a shell: question, popular answer, what was predicted and measured, verdict."""
    verdict = result.verdict
    lines = [result.title, f"  popular answer  {result.notes['popular answer']}"]
    for one in verdict.evidence:
        unit = "" if one.unit == "1" else f" {one.unit}"
        bound = f"{'=' if one.relation == '==' else one.relation} {one.threshold:g}{unit}" if one.relation else ""
        lines.append(f"  {'predicted' if one.outcome else 'required':14}  {one.source}: {one.name} {bound}")
        lines.append(f"  {'measured':14}  {one.measured:.4g}{unit}  {one.where}  {one.outcome}".rstrip())
    return "\n".join([*lines, f"  {verdict.status:14}  {verdict.claim}"])


