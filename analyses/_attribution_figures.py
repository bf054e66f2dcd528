"""How are token attributions shown? The text in colours, a row per method; what is missing from their sum; and agreement with the exact check."""

from __future__ import annotations

import numpy as np

from analyses._attribution_evidence import unit_of
from analyses._attribution_measure import CONTRAST, EXACT
from analyses._contract import Tables
from reports import Bars, Figure, Heatmap, TokenMap, visible_token

SHOWN = 3
QUOTED = 48
"""characters of a prompt in a title"""


def draw(tables: Tables, *, tolerance: float, baseline: str) -> tuple[Figure, ...]:
    """Texts, gaps, agreement."""
    complete = tables["completeness"].frame
    return (*(_text(tables, row, tolerance, baseline) for row in complete.head(SHOWN).itertuples()), *_gaps(tables, tolerance), *_agreement(tables))


def _text(tables: Tables, prompt: object, tolerance: float, baseline: str) -> TokenMap:
    tokens = tables["tokens"].frame
    here = tokens[tokens["example"] == prompt.example]
    rows = {method: (part["token"].tolist(), part["attribution"].to_numpy(float)) for method, part in here.groupby("method", sort=False)}
    strongest = {method: here.loc[here.loc[here["method"] == method, "attribution"].abs().idxmax()] for method in rows}
    words = "; ".join(f"{method}: {visible_token(top['token'])} {top['attribution']:+.2f}" for method, top in strongest.items())
    sound = "adds up" if prompt.gap <= tolerance else "does not add up here and is not to be read"
    exact, unit = strongest["occlusion"], unit_of(tables["completeness"].frame)
    if prompt.metric == CONTRAST:
        what, where = f"logit difference “{visible_token(prompt.target)}” − “{visible_token(prompt.foil)}”", ""
        reading = "Red speaks for the target, blue for the foil."
    else:
        what, where = f"mean log-probability of the target “{visible_token(prompt.target)}”", " of the source"
        reading = "Red speaks for the target, blue against it."
    return TokenMap(
        part="attribution",
        name=f"tokens-{prompt.example}",
        title=f"Prompt {prompt.example}, {_quoted(rows[EXACT][0])}: taking out “{visible_token(exact['token'])}” changes the {'preference' if prompt.metric == CONTRAST else 'answer'} most, by {-exact['attribution']:+.2f} {unit}",
        caption=f"Share of each token{where} in the {what}, {prompt.clean:+.2f} {unit} ({prompt.baseline:+.2f} at the baseline, {baseline}). {reading} "
        f"Integrated gradients {sound} (gap {prompt.gap:.2g}). n = {len(rows['occlusion'][0])} tokens; colours share one scale.",
        alt=f"Strongest token by {words} {unit}.",
        rows=rows,
        notes=_notes(tables, prompt),
        unit=unit,
    )


def _quoted(tokens: list[str]) -> str:
    """The beginning of a prompt, so that its number has a face."""
    text = "".join(tokens).strip()
    return f"“{text if len(text) <= QUOTED else text[:QUOTED].rstrip() + '…'}”"


def _notes(tables: Tables, prompt: object) -> dict[str, str]:
    """How far each method adds up, and how it agrees with the exact effect of taking a token out."""
    agreement = tables["agreement"].frame
    rho = agreement[agreement["example"] == prompt.example].set_index("method")["without_first"]
    sums = {"integrated gradients": prompt.sum_integrated, "gradient × input": prompt.sum_gradient, EXACT: prompt.sum_occlusion}
    found = {}
    for method, total in sums.items():
        gap = f", gap {prompt.gap:.2g}" if method == "integrated gradients" else ""
        agrees = "exact" if method == EXACT else f"ρ = {rho[method]:.2f} with occlusion" if np.isfinite(rho.get(method, np.nan)) else ""
        found[method] = "; ".join(part for part in (f"sum {total:+.2f} of {prompt.difference:+.2f}{gap}", agrees) if part).replace("-", "−")
    return found


def _gaps(tables: Tables, tolerance: float) -> tuple[Bars, ...]:
    complete = tables["completeness"].frame.dropna(subset="gap")
    if complete.empty:
        return ()
    floor = 1e-7
    values = np.log10(np.maximum(complete["gap"].to_numpy(float), floor) / tolerance)
    bad = int((complete["gap"] > tolerance).sum())
    return (
        Bars(
            part="attribution",
            name="completeness",
            title=f"Integrated gradients adds up in {len(complete) - bad} of {len(complete)} prompts",
            caption=f"Completeness gap |Σ attribution − (f(x) − f(b))| / |f(x) − f(b)| of each prompt, as powers of ten above (red) or below (blue) the allowed {tolerance:g}. n = {len(complete)} prompts, no error bars: the gap is computed, not sampled.",
            alt="; ".join(f"prompt {row.example}: gap {row.gap:.2g} after {row.n_steps} gradients" for row in complete.itertuples()),
            labels=[f"prompt {row.example}: gap {row.gap:.2g}" for row in complete.itertuples()],
            values=values,
            unit=f"powers of ten above {tolerance:g}",
            signed=True,
        ),
    )


def _agreement(tables: Tables) -> tuple[Heatmap, ...]:
    agreement = tables["agreement"].frame
    if agreement["all_tokens"].isna().all():
        return ()
    grid = agreement.pivot(index="method", columns="example", values="without_first")
    medians = {
        method: float(np.nanmedian(row)) if np.isfinite(row).any() else float("nan")
        for method, row in zip(grid.index, grid.to_numpy(float), strict=True)
    }
    words = ", ".join(f"{method} {value:.2f}" for method, value in medians.items())
    return (
        Heatmap(
            part="attribution",
            name="agreement",
            title=f"Rank correlation with the exact effect of taking a token out, median: {words}",
            caption="Spearman's rank correlation between each method and occlusion, over the tokens of a prompt without the first one. 1: the same order; 0: none. "
            f"n = {grid.shape[1]} prompts of {agreement['n'].min()} to {agreement['n'].max()} tokens; the table has the values with the first token.",
            alt=f"Median over prompts: {words}.",
            values=grid.to_numpy(float),
            rows=[str(method) for method in grid.index],
            columns=[str(example) for example in grid.columns],
            row_label="method",
            column_label="prompt",
            unit="ρ",
            signed=True,
            low=-1.0,
            high=1.0,
            text=np.array([[f"{v:.2f}" if np.isfinite(v) else "" for v in row] for row in grid.to_numpy(float)], dtype=object),
        ),
    )
