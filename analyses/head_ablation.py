"""Head ablation: how much does each attention head matter for the task and for the loss?

Every head's output z is replaced, at every position, in turn: by zeros, by its mean, by its value on another input. The change of the
logit difference (target − foil, after the last token) on the prompts, and of the loss on text, is exact: nothing is estimated. Zero ablation
leaves the distribution that the later layers know; mean and resample ablation stay nearer to it (Wang et al. 2023; Chan et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from analyses import _head_ablation_evidence as said
from analyses import _head_ablation_figures as figures
from analyses import _head_ablation_measure as measured
from analyses._anatomy import Model
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus, CorpusError, tokenize_prompts
from analyses._examples import Task, text_task
from analyses._head_ablation_measure import EFFECT_COLUMNS, TASK, Ablation
from model import EncoderDecoder
from reports import Figure, Verdict


@dataclass(frozen=True, kw_only=True)
class HeadAblation(Analysis):
    """How much does each attention head matter for the task and for the loss?"""

    name: ClassVar[str] = "head-ablation"
    title: ClassVar[str] = "Head ablation"
    question: ClassVar[str] = "How much does each attention head matter for the task and for the loss?"
    method: ClassVar[str] = (
        "Each head's output z is replaced at every position of the prompt or chunk, one head at a time, and the model is run on exactly from that block. zero: zeros. "
        "mean: its mean over the real tokens of all prompts (for the loss: of all chunks), one vector for every position. resample: on prompts, its value at the same position of "
        "the example's own corrupt prompt, which has as many tokens (prompts without such a one are left out); on text, its value at the same position of another chunk of equal length, "
        "paired by one random cycle. On text the effect is on the loss; in an encoder with a masked-LM head on the loss of masked tokens; in an encoder without a head it is 1 − cosine between the mean "
        "final states with and without the head; in an encoder-decoder on the loss of the target, given by the prompts file or written greedily by the model itself, for every head of both stacks and of cross-attention. Effect = ablated − clean, mean over examples. Interval: 95 % bootstrap percentile over examples, one head at a time. Family-wise p: sign-flip "
        "permutation of the largest statistic over all heads of one ablation and metric (Nichols & Holmes 2002)."
    )
    limits: ClassVar[str] = (
        "One head at a time: heads that back each other up look idle, and effects do not add up. Zero ablation, and less so mean ablation, feeds later layers values that they never see, so a "
        "part of its effect is damage. Resampling from the corrupt prompt removes only what differs between the two prompts. The shipped prompts come from eight templates, two prompts "
        "each: they are less independent than the intervals take them to be. With a handful of text chunks, intervals of the loss are rough, and percentile intervals of small samples are too short."
    )
    order: ClassVar[int] = 30

    n_prompts: int = 16
    """how many prompts with a target and a foil are used, the first of the file"""
    ablations: tuple[Ablation, ...] = ("zero", "mean", "resample")
    """what a head's output is replaced by when the logit difference is measured"""
    n_chunks: int = 4
    """how many chunks of the text the loss is measured on; 0 leaves the loss out"""
    length: int = 16
    """tokens per chunk; shortened to the context"""
    loss_ablations: tuple[Ablation, ...] = ("zero", "mean", "resample")
    """what a head's output is replaced by when the loss is measured: every position is unembedded for every head, so that each takes long"""

    def __post_init__(self) -> None:
        for field, least in (("n_prompts", 1), ("n_chunks", 0), ("length", 2)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")
        for field in ("ablations", "loss_ablations"):
            kinds = getattr(self, field)
            if unknown := [kind for kind in kinds if kind not in said.HEADLINE]:
                raise ValueError(f"{field} must be among zero, mean, resample, got {unknown[0]!r}")
            if len(set(kinds)) < len(kinds) or not kinds:
                raise ValueError(f"{field} must name each ablation once and at least one, got {list(kinds)}")

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        prompts, task = corpus.contrasts(self.n_prompts), self._text_task(model, corpus)
        found = [(TASK, *one) for one in measured.on_prompts(model, prompts, self.ablations)] if prompts else []
        if task is not None:
            found += [(task.metric.name, *one) for one in measured.on_text(model, task, self.loss_ablations, self.seed)]
        rows = [row for metric, kind, effects in found for row in measured.summary(kind, metric, effects, self.seed)]
        effects = pd.DataFrame(rows, columns=EFFECT_COLUMNS)
        if prompts:
            gates = measured.no_op(model, tokenize_prompts(model, prompts[:2]), measured.contrast(prompts[:2]))
        elif task is not None:
            gates = measured.no_op(model, task.inputs, task.metric_of(slice(2)))
        else:
            gates = pd.DataFrame(columns=["gate", "measured", "bound"]).astype({"measured": float, "bound": float})
        return tables_of(effects, gates, measured.prompts_frame(model, prompts))

    def _text_task(self, model: Model, corpus: Corpus) -> Task | None:
        """What is measured on text: nothing where the user wants none, or where the text does not fill one chunk."""
        if not self.n_chunks:
            return None
        n = self.n_prompts if isinstance(model, EncoderDecoder) else self.n_chunks
        try:
            task = text_task(model, corpus, n, self.length, seed=self.seed)
        except CorpusError:
            return None
        return task if task.metric.name != "loss" or task.length > 1 else None

    def judge(self, tables: Tables) -> Verdict:
        effects, gates = tables["effects"].frame, tables["gates"].frame
        if effects.empty:
            return Verdict(
                status="inconclusive", claim="Nothing was measured: there is neither a prompt with target and foil nor text for one chunk."
            )
        evidence = tuple(said.evidence(tables))
        for gate in gates.itertuples():
            if not gate.measured <= gate.bound:
                return Verdict(
                    status="fail",
                    claim=f"The measurement is not to be trusted: {gate.gate} changed the metric by {gate.measured:.2g}, allowed are {gate.bound:.2g}.",
                    evidence=evidence,
                )
        task = effects[effects["metric"] == TASK]
        if task.empty:
            return said.without_prompts(effects, evidence)
        mean_, error, n = said.task(tables)
        if not mean_ >= said.STANDARD_ERRORS * error:
            how = (
                f"its mean logit difference on {n} prompts is {mean_:.2f}, less than {said.STANDARD_ERRORS:.0f} standard errors of {error:.2f} above 0"
                if n > 1
                else "one prompt has no standard error"
            )
            claim = f"The model cannot be said to do the task: {how}; effects of heads on it mean little."
            return Verdict(status="inconclusive", claim=claim, evidence=evidence)
        status = "pass" if len(said.clear(task, said.headline(task))) else "inconclusive"
        return Verdict(status=status, claim=said.claim(effects, TASK), evidence=evidence, why=said.WHY)

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables)

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        prompts, task = corpus.contrasts(self.n_prompts), self._text_task(model, corpus)
        paired = sum(measured.pairs(model, p) for p in prompts)
        facts = {
            "prompts": f"{len(prompts)} prompts with target and foil, {paired} of them with a corrupt version of equal length (asked for: {self.n_prompts})"
        }
        if prompts:
            facts["tokens of the prompts"] = f"{int(tokenize_prompts(model, prompts)[1].sum())}, without padding"
            facts["first prompt"] = f"{prompts[0].prompt!r}: {prompts[0].target!r} against {prompts[0].foil!r}"
        if task is None:
            facts["text"] = "no chunk: nothing was measured on text"
        elif isinstance(model, EncoderDecoder):
            facts["text"] = f"{task.n_examples} sources with their targets, up to {task.length} target tokens (asked for: {self.n_prompts})"
        else:
            facts["text"] = f"{task.n_examples} chunks of {task.length} tokens, {task.meaning} (asked for: {self.n_chunks} of {self.length})"
        return facts


def tables_of(effects: pd.DataFrame, gates: pd.DataFrame, prompts: pd.DataFrame) -> Tables:
    """The tables of the answer."""
    unit = "logits, nats per token, or 1"
    return {
        "effects": table(
            effects, "Effect of ablating each head, mean over examples.", attention=("", "self, or of which stack, or cross"),
            layer=("", "block of its stack"), head=("", "query head in its block"), ablation=("", "what replaced its output"),
            metric=("", "logit_difference in logits, loss and masked_loss in nats per token, representation_shift as 1 − cosine"),
            effect=(unit, "ablated − clean, mean over examples"), low=(unit, "lower end of the 95 % interval"),
            high=(unit, "upper end of the 95 % interval"), p_family=("1", "p corrected for all heads of this ablation and metric"),
            n=("examples", "prompts or pieces of text"), clean=(unit, "mean without ablation, of the same examples"),
        ),
        "prompts": table(
            prompts, "The task, without ablation.", example=("", "number of the prompt"), prompt=("", "text"),
            target=("", "right next token"), foil=("", "wrong next token"), clean=("logits", "logit difference on the prompt"),
            corrupt=("logits", "logit difference of the same tokens on its corrupt version, missing where there is none of equal length"),
        ),
        "gates": table(
            gates, "A head's output times 1 is no change: what the machinery itself adds.", gate=("", "identity"),
            measured=(unit, "largest |effect|"), bound=(unit, "largest allowed: 100 units of rounding of the largest output, or of 1"),
        ),
        "agreement": table(
            measured.agreement(effects), "Spearman's rank correlation between effects of the same heads.", metric=("", "metric"),
            first=("", "ablation"), second=("", "ablation it is compared with"), rank_correlation=("1", "over heads, signed effects"),
            n=("heads", "heads compared"),
        ),
    }


ANALYSIS = HeadAblation
