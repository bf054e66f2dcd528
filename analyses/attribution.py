"""Attribution: which tokens of a prompt carry the model's preference for the right answer?

Integrated gradients and gradient × input (Captum, on embedding tensors) of the logit difference target − foil, token by token, beside an exact
check: occlusion, which takes out one token at a time. Integrated gradients says by its completeness gap, example by example, whether its numbers
add up; where they do not, they are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch

from analyses import _attribution_figures as figures
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus, tokenize_prompts
from analyses._rank_correlation import rank_correlation
from model import Transformer
from probes import logit_difference
from probes.attribution import (
    SiteFunction,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    site_function,
)
from reports import Evidence, Figure, Verdict, visible_token

METHODS = ("integrated gradients", "gradient × input", "occlusion")
CHECKED, EXACT = METHODS[:2], METHODS[2]
TOLERABLE = 0.05
"""a gap up to here is a warning, above it a failure; a convention of this analysis"""
TOKEN_COLUMNS = ["example", "position", "token", "method", "attribution"]
COMPLETE_COLUMNS = [
    "example",
    "prompt",
    "target",
    "foil",
    "clean",
    "baseline",
    "difference",
    "sum_integrated",
    "sum_gradient",
    "sum_occlusion",
    "gap",
    "n_steps",
]


@dataclass(frozen=True, kw_only=True)
class Attribution(Analysis):
    """Which tokens of a prompt carry the model's preference for the right answer?"""

    name: ClassVar[str] = "attribution"
    title: ClassVar[str] = "Token attribution"
    question: ClassVar[str] = "Which tokens of a prompt carry the model's preference for the right answer?"
    method: ClassVar[str] = (
        "f = logit of the target − logit of the foil after the last token, as a function of the token embeddings x. Integrated gradients (Sundararajan et al. 2017): (x − b) times the mean "
        "gradient on the straight way from the baseline b to x, by Gauss–Legendre quadrature (Captum); where the sum misses f(x) − f(b) by more than the tolerance, those pieces of the way are "
        "halved that miss most. Gradient × input: (x − b) · ∂f/∂x at x. Both are summed over the coordinates of a position. Occlusion: f(x) − f(x with one position at the baseline), exact. "
        "Completeness gap: |Σ attribution − (f(x) − f(b))| / |f(x) − f(b)|. Agreement: Spearman's rank correlation with occlusion over the tokens of a prompt. The mean baseline is the mean embedding of "
        "the prompts' tokens; position embeddings stay as they are. Unless told otherwise the first token is left as it is: taking it away switches an attention sink off, and f becomes too steep to integrate."
    )
    limits: ClassVar[str] = (
        "Every attribution answers relative to its baseline: another baseline, other numbers. The way from the baseline to the prompt leads through inputs that no text has. The zero baseline is a "
        "singular point of models with RMS norm and no biases (all scales of an embedding look alike to the first block, but 0 does not). Occlusion misses tokens that stand in for each other, and where the baseline embedding itself does damage, every token looks needed: the sum of occlusion then is many times f(x) − f(b). A token's "
        "position is where its embedding enters, not where the model uses it. With a kept first token nothing is said about that token."
    )
    order: ClassVar[int] = 40

    n_prompts: int = 8
    """how many prompts with a target and a foil are used, the first of the file"""
    baseline: Literal["mean", "zero"] = "mean"
    """what a token is compared with: the mean embedding of the prompts' tokens, or the zero vector"""
    keep_first: bool = True
    """leave the first token as it is, in the baseline too; it then gets 0"""
    n_steps: int = 10
    """points of the quadrature on each piece of the way"""
    max_steps: int = 160
    """gradients per prompt after which no piece is halved any more"""
    tolerance: float = 1e-3
    """largest completeness gap, relative to f(x) − f(baseline)"""

    def __post_init__(self) -> None:
        for field, least in (("n_prompts", 1), ("n_steps", 1), ("max_steps", self.n_steps)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"{field} must be at least {least}{' (n_steps)' if field == 'max_steps' else ''}, got {getattr(self, field)}"
                )
        if self.baseline not in ("mean", "zero"):
            raise ValueError(f"baseline must be mean or zero, got {self.baseline!r}")
        if not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {self.tolerance}")

    def measure(self, model: Transformer, corpus: Corpus) -> Tables:
        tokens, complete = self._attributed(model, corpus)
        return {
            "tokens": table(
                tokens,
                "Attribution of every token.",
                example=("", "number of the prompt"),
                position=("", "position of the token, without padding"),
                token=("", "text of the token"),
                method=("", "how it was attributed"),
                attribution=("logits", "share of the logit difference"),
            ),
            "completeness": table(
                complete,
                "Do the attributions of a prompt add up to what the baseline takes away?",
                example=("", "number of the prompt"),
                prompt=("", "text"),
                target=("", "right next token"),
                foil=("", "wrong next token"),
                clean=("logits", "f(x)"),
                baseline=("logits", "f(b)"),
                difference=("logits", "f(x) − f(b)"),
                sum_integrated=("logits", "sum of integrated gradients"),
                sum_gradient=("logits", "sum of gradient × input"),
                sum_occlusion=("logits", "sum of occlusion"),
                gap=("1", "what integrated gradients misses, relative to the difference; missing where that is 0"),
                n_steps=("gradients", "gradients that were computed"),
            ),
            "agreement": table(
                _agreement(tokens),
                "Spearman's rank correlation with occlusion over the tokens of a prompt.",
                example=("", "number of the prompt"),
                method=("", "method compared with occlusion"),
                all_tokens=("1", "over all tokens"),
                without_first=("1", "without the first token"),
                n=("tokens", "tokens of the prompt"),
            ),
        }

    def _attributed(self, model: Transformer, corpus: Corpus) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A row per method and token, and a row per prompt."""
        prompts = corpus.contrasts(self.n_prompts)
        if not prompts:
            return pd.DataFrame(columns=TOKEN_COLUMNS).astype({"attribution": float}), pd.DataFrame(columns=COMPLETE_COLUMNS).astype(
                dict.fromkeys(COMPLETE_COLUMNS[4:11], float)
            )
        inputs = tokenize_prompts(model, prompts)
        f = site_function(model, inputs, logit_difference([p.target for p in prompts], [p.foil for p in prompts]))
        base = self._baseline(f)
        integrated = integrated_gradients(f, base, n_steps=self.n_steps, max_steps=self.max_steps, tolerance=self.tolerance)
        by_method = dict(zip(METHODS, (integrated.attribution, gradient_x_input(f, base), occlusion(f, base)), strict=True))
        with torch.no_grad():
            clean = f(f.value)
        rows = []
        for i in range(len(prompts)):
            real = inputs[1][i]
            words = model.tokenizer.to_str_tokens(inputs[0][i][real])
            for method, values in by_method.items():
                rows += [
                    {"example": i, "position": p, "token": w, "method": method, "attribution": v}
                    for p, (w, v) in enumerate(zip(words, values[i][real].double().tolist(), strict=True))
                ]
        columns = {
            "clean": clean,
            "baseline": clean - integrated.difference,
            "difference": integrated.difference,
            **{
                f"sum_{name}": by_method[method].sum(1)
                for name, method in zip(("integrated", "gradient", "occlusion"), METHODS, strict=True)
            },
            "gap": integrated.gap,
            "n_steps": integrated.n_steps,
        }
        per_prompt = pd.DataFrame(
            {
                "example": range(len(prompts)),
                "prompt": [p.prompt for p in prompts],
                "target": [p.target for p in prompts],
                "foil": [p.foil for p in prompts],
                **{name: values.tolist() for name, values in columns.items()},
            }
        )
        return pd.DataFrame(rows, columns=TOKEN_COLUMNS), per_prompt[COMPLETE_COLUMNS]

    def _baseline(self, f: SiteFunction) -> torch.Tensor:
        tokens, mask = f.inputs
        vector = f.value[mask].mean(0) if self.baseline == "mean" else torch.zeros_like(f.value[0, 0])
        base = vector.expand_as(f.value).clone()
        if self.keep_first:
            first = torch.arange(len(tokens), device=tokens.device), mask.int().argmax(1)
            base[first] = f.value[first]
        return base

    def judge(self, tables: Tables) -> Verdict:
        complete = tables["completeness"].frame
        if complete.empty:
            return Verdict(status="inconclusive", claim="Nothing was measured: there is no prompt with both a target and a foil.")
        gaps = complete["gap"]
        evidence = _evidence(tables, self.tolerance)
        if gaps.isna().any():
            return Verdict(
                status="inconclusive",
                claim=f"In {int(gaps.isna().sum())} of {len(gaps)} prompts the baseline changes nothing, so there is nothing to attribute.",
                evidence=evidence,
            )
        bad = int((gaps > self.tolerance).sum())
        status = "pass" if not bad else "warn" if gaps.max() <= TOLERABLE else "fail"
        if not bad:
            said = f"Integrated gradients adds up in all {len(gaps)} prompts (largest gap {gaps.max():.1g})"
        else:
            said = f"Integrated gradients does not add up in {bad} of {len(gaps)} prompts (gap up to {gaps.max():.2g} of the effect, allowed {self.tolerance:g})"
        return Verdict(
            status=status,
            claim=f"{said}; {_top_claim(tables, self.tolerance)}.",
            evidence=evidence,
            why="Attributions that do not sum to the effect have lost a part of it: nobody can say which token it belongs to.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables, tolerance=self.tolerance) if len(tables["completeness"].frame) else ()

    def notes(self, model: Transformer, corpus: Corpus) -> Mapping[str, str]:
        prompts = corpus.contrasts(self.n_prompts)
        kept = "the first token is left as it is" if self.keep_first else "the first token too"
        said = {
            "prompts": f"{len(prompts)} prompts with target and foil (asked for: {self.n_prompts})",
            "baseline": f"{self.baseline} embedding, {kept}",
        }
        if prompts:
            said["tokens"] = f"{int(tokenize_prompts(model, prompts)[1].sum())}, without padding"
        return said


def _agreement(tokens: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for example, part in tokens.groupby("example", sort=False):
        values = {method: one["attribution"].to_numpy(float) for method, one in part.groupby("method", sort=False)}
        rows += [
            {
                "example": example,
                "method": method,
                "all_tokens": rank_correlation(values[method], values[EXACT]),
                "without_first": rank_correlation(values[method][1:], values[EXACT][1:]),
                "n": len(values[EXACT]),
            }
            for method in CHECKED
        ]
    return pd.DataFrame(rows, columns=["example", "method", "all_tokens", "without_first", "n"]).astype(
        {"all_tokens": float, "without_first": float}
    )


def _strongest(tokens: pd.DataFrame, method: str) -> pd.DataFrame:
    """The token of each prompt with the largest |attribution|, and its share of the sum of |attribution|."""
    part = tokens[tokens["method"] == method].assign(size=lambda frame: frame["attribution"].abs())
    top = part.loc[part.groupby("example", sort=False)["size"].idxmax()].set_index("example")
    return top.assign(share=top["size"] / part.groupby("example", sort=False)["size"].sum())


def _top_claim(tables: Tables, tolerance: float) -> str:
    """Which token carries most, by integrated gradients where it adds up, by occlusion where it never does."""
    complete = tables["completeness"].frame.set_index("example")
    sound = complete.index[complete["gap"] <= tolerance]
    method = METHODS[0] if len(sound) else EXACT
    top = _strongest(tables["tokens"].frame, method)
    top = top.loc[sound] if len(sound) else top
    first = top.iloc[0]
    return f"by {method} “{visible_token(first['token'])}” (position {first['position']}) carries most in prompt {top.index[0]}, {first['attribution']:+.2f} logits"


def _evidence(tables: Tables, tolerance: float) -> tuple[Evidence, ...]:
    complete, agreement = tables["completeness"].frame, tables["agreement"].frame
    found = []
    if complete["gap"].notna().any():
        worst = complete.loc[complete["gap"].idxmax()]
        found.append(
            Evidence(
                name="largest completeness gap",
                measured=float(worst["gap"]),
                unit="1",
                threshold=tolerance,
                relation="<=",
                where=f"prompt {worst['example']}",
                source="Sundararajan et al. 2017, completeness; tolerance of this analysis",
            )
        )
        found.append(
            Evidence(
                name="prompts where integrated gradients adds up",
                measured=float((complete["gap"] <= tolerance).sum()),
                unit=f"of {len(complete)} prompts",
            )
        )
        share = (complete["sum_occlusion"] / complete["difference"]).abs().dropna()
        found.append(
            Evidence(
                name=f"|sum of occlusion| over |f(x) − f(baseline)|, median over {len(share)} prompts",
                measured=float(share.median()),
                unit="1",
            )
        )
    for method in CHECKED:
        for column, words in (("all_tokens", "all tokens"), ("without_first", "without the first token")):
            values = agreement.loc[agreement["method"] == method, column].dropna()
            if len(values):
                found.append(
                    Evidence(
                        name=f"rank correlation of {method} with occlusion, {words}, median over {len(values)} prompts",
                        measured=float(values.median()),
                        unit="1",
                    )
                )
    return tuple(found)


ANALYSIS = Attribution
