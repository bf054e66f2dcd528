"""Attribution: which tokens of a prompt carry the model's preference for the right answer?

Integrated gradients and gradient × input (Captum, on embedding tensors) of the logit difference target − foil, token by token, beside an exact
check: occlusion, which takes out one token at a time. Integrated gradients says by its completeness gap, example by example, whether its numbers
add up; where they do not, they are not read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from analyses import _attribution_evidence as said
from analyses import _attribution_figures as figures
from analyses import _attribution_measure as measured
from analyses._anatomy import Model
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus
from probes.inputs import mask_at
from reports import Figure, Verdict

TOLERABLE = 0.05
"""a gap up to here is a warning, above it a failure; a convention of this analysis"""


@dataclass(frozen=True, kw_only=True)
class Attribution(Analysis):
    """Which tokens of a prompt carry the model's preference for the right answer?"""

    name: ClassVar[str] = "attribution"
    title: ClassVar[str] = "Token attribution"
    question: ClassVar[str] = "Which tokens of a prompt carry the model's preference for the right answer?"
    method: ClassVar[str] = (
        "f = logit of the target − logit of the foil after the last token, as a function of the token embeddings x; in an encoder-decoder, the mean log-probability of the target's tokens as a function of the source's embeddings. Integrated gradients (Sundararajan et al. 2017): (x − b) times the mean "
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

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        asked = measured.question(model, corpus, self.n_prompts)
        tokens, complete = measured.attributed(
            model, asked, baseline=self.baseline, keep_first=self.keep_first, n_steps=self.n_steps, max_steps=self.max_steps,
            tolerance=self.tolerance,
        )
        unit = "logits or nats per token"
        return {
            "tokens": table(
                tokens, "Attribution of every token.", example=("", "number of the prompt"),
                position=("", "position of the token, without padding"), token=("", "text of the token"),
                method=("", "how it was attributed"), attribution=(unit, "share of the metric"),
            ),
            "completeness": table(
                complete, "Do the attributions of a prompt add up to what the baseline takes away?", example=("", "number of the prompt"),
                prompt=("", "text"), target=("", "right answer"), foil=("", "wrong answer, if there is one"),
                metric=("", "logit_difference in logits, or target_log_probability in nats per token"), clean=(unit, "f(x)"),
                baseline=(unit, "f(b)"), difference=(unit, "f(x) − f(b)"), sum_integrated=(unit, "sum of integrated gradients"),
                sum_gradient=(unit, "sum of gradient × input"), sum_occlusion=(unit, "sum of occlusion"),
                gap=("1", "what integrated gradients misses, relative to the difference; missing where that is 0"),
                n_steps=("gradients", "gradients that were computed"),
            ),
            "agreement": table(
                measured.agreement(tokens), "Spearman's rank correlation with occlusion over the tokens of a prompt.",
                example=("", "number of the prompt"), method=("", "method compared with occlusion"), all_tokens=("1", "over all tokens"),
                without_first=("1", "without the first token"), n=("tokens", "tokens of the prompt"),
            ),
        }

    def judge(self, tables: Tables) -> Verdict:
        complete = tables["completeness"].frame
        if complete.empty:
            return Verdict(status="inconclusive", claim="Nothing was measured: there is no answer to ask about, neither a prompt with target and foil nor a target text.")
        gaps = complete["gap"]
        evidence = said.evidence(tables, self.tolerance)
        if gaps.isna().any():
            return Verdict(
                status="inconclusive",
                claim=f"In {int(gaps.isna().sum())} of {len(gaps)} prompts the baseline changes nothing, so there is nothing to attribute.",
                evidence=evidence,
            )
        bad = int((gaps > self.tolerance).sum())
        status = "pass" if not bad else "warn" if gaps.max() <= TOLERABLE else "fail"
        if not bad:
            sums = f"Integrated gradients adds up in all {len(gaps)} prompts (largest gap {gaps.max():.1g})"
        else:
            sums = f"Integrated gradients does not add up in {bad} of {len(gaps)} prompts (gap up to {gaps.max():.2g} of the effect, allowed {self.tolerance:g})"
        return Verdict(
            status=status,
            claim=f"{sums}; {said.top_claim(tables, self.tolerance)}.",
            evidence=evidence,
            why="Attributions that do not sum to the effect have lost a part of it: nobody can say which token it belongs to.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables, tolerance=self.tolerance, baseline=f"{self.baseline} embedding") if len(tables["completeness"].frame) else ()

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        asked = measured.question(model, corpus, self.n_prompts)
        kept = "the first token is left as it is" if self.keep_first else "the first token too"
        facts = {
            "prompts": f"{0 if asked is None else len(asked.said)} prompts with an answer (asked for: {self.n_prompts})",
            "baseline": f"{self.baseline} embedding, {kept}",
        }
        if asked is not None:
            mask = mask_at(asked.site, asked.inputs)
            facts["tokens"] = f"{asked.inputs[0].numel() if mask is None else int(mask.sum())}, without padding"
        return facts


ANALYSIS = Attribution
