"""Head ablation: how much does each attention head matter for the task and for the loss?

Every head's output z is replaced, at every position, in turn: by zeros, by its mean, by its value on another input. The change of the
logit difference (target − foil, after the last token) on the prompts, and of the loss on text, is exact: nothing is estimated. Zero ablation
leaves the distribution that the later layers know; mean and resample ablation stay nearer to it (Wang et al. 2023; Chan et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import pandas as pd
import torch

from analyses import _head_ablation_evidence as said
from analyses import _head_ablation_figures as figures
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus, CorpusError, Prompt, tokenize_prompts
from analyses._head_ablation_evidence import HEADLINE, LOSS, TASK
from analyses._intervals import bootstrap_mean
from analyses._rank_correlation import rank_correlation
from analyses._sign_flip import family_wise_p
from model import Transformer
from probes import (
    Metric,
    ablate_heads,
    logit_difference,
    loss,
    mean,
    patch,
    record,
    resample,
    scale,
    sweep,
    zero,
)
from probes.metrics import last_position, read
from reports import Figure, Verdict

Ablation = Literal["zero", "mean", "resample"]
EFFECT_COLUMNS = ["layer", "head", "ablation", "metric", "effect", "low", "high", "p_family", "n", "clean"]
Effects = tuple[Ablation, str, pd.DataFrame]


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
        "paired by one random cycle. Effect = ablated − clean, mean over examples. Interval: 95 % bootstrap percentile over examples, one head at a time. Family-wise p: sign-flip "
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
            if unknown := [kind for kind in kinds if kind not in HEADLINE]:
                raise ValueError(f"{field} must be among zero, mean, resample, got {unknown[0]!r}")
            if len(set(kinds)) < len(kinds) or not kinds:
                raise ValueError(f"{field} must name each ablation once and at least one, got {list(kinds)}")

    def measure(self, model: Transformer, corpus: Corpus) -> Tables:
        prompts, chunks = corpus.contrasts(self.n_prompts), self._chunks(model, corpus)
        found: list[Effects] = []
        if prompts:
            found += self._on_prompts(model, prompts)
        if chunks is not None:
            found += self._on_text(model, chunks)
        effects = pd.DataFrame([row for one in found for row in self._summary(*one)], columns=EFFECT_COLUMNS)
        return {
            "effects": table(
                effects,
                "Effect of ablating each head, mean over examples.",
                layer=("", "block"),
                head=("", "query head in its block"),
                ablation=("", "what replaced its output"),
                metric=("", "logit_difference in logits, loss in nats per token"),
                effect=("logits or nats per token", "ablated − clean, mean over examples"),
                low=("logits or nats per token", "lower end of the 95 % interval"),
                high=("logits or nats per token", "upper end of the 95 % interval"),
                p_family=("1", "p corrected for all heads of this ablation and metric"),
                n=("examples", "prompts or chunks"),
                clean=("logits or nats per token", "mean without ablation, of the same examples"),
            ),
            "prompts": _prompts_table(model, prompts),
            "gates": table(
                _no_op(model, prompts, chunks),
                "A head's output times 1 is no change: what the machinery itself adds.",
                gate=("", "identity"),
                measured=("logits or nats per token", "largest |effect|"),
                bound=("logits or nats per token", "largest allowed: 100 units of rounding of the largest logit"),
            ),
            "agreement": table(
                _agreement(effects),
                "Spearman's rank correlation between effects of the same heads.",
                metric=("", "metric"),
                first=("", "ablation"),
                second=("", "ablation it is compared with"),
                rank_correlation=("1", "over heads, signed effects"),
                n=("heads", "heads compared"),
            ),
        }

    def _chunks(self, model: Transformer, corpus: Corpus) -> torch.Tensor | None:
        try:
            return corpus.chunks(self.n_chunks, min(self.length, model.config.n_ctx)) if self.n_chunks and model.config.n_ctx > 1 else None
        except CorpusError:
            return None

    def _on_prompts(self, model: Transformer, prompts: Sequence[Prompt]) -> list[Effects]:
        """Rows of sweeps on the prompts: resample on those that have a corrupt version of equal length, the others on all."""
        inputs = tokenize_prompts(model, prompts)
        paired = [p for p in prompts if _pairs(model, p)]
        found = []
        for kind in self.ablations:
            if kind != "resample":
                change = zero() if kind == "zero" else mean(inputs)
                found.append((kind, TASK, sweep(model, inputs, ablate_heads(model, change), _contrast(prompts), progress=True)))
            elif paired:
                with torch.no_grad(), record(model, "blocks.*.attn.z") as corrupt:
                    model(*tokenize_prompts(model, paired, corrupt=True))
                found.append(
                    (
                        kind,
                        TASK,
                        sweep(
                            model, tokenize_prompts(model, paired), ablate_heads(model, patch(corrupt)), _contrast(paired), progress=True
                        ),
                    )
                )
        return found

    def _on_text(self, model: Transformer, chunks: torch.Tensor) -> list[Effects]:
        """Rows of sweeps on the chunks; one chunk has no other to resample from."""
        generator = torch.Generator().manual_seed(self.seed)
        changes = {"zero": lambda: zero(), "mean": lambda: mean(chunks), "resample": lambda: resample(chunks, generator)}
        kinds = [kind for kind in self.loss_ablations if kind != "resample" or len(chunks) > 1]
        return [(kind, LOSS, sweep(model, (chunks,), ablate_heads(model, changes[kind]()), loss(), progress=True)) for kind in kinds]

    def _summary(self, ablation: Ablation, metric: str, rows: pd.DataFrame) -> list[dict]:
        """A row per head: mean over examples, its interval, and p."""
        heads = rows[["layer", "head"]].drop_duplicates().astype(int).to_dict("records")
        values = rows["effect"].to_numpy(float).reshape(len(heads), -1)  # heads examples: the sweep gives them in this order
        low, high = bootstrap_mean(values, seed=self.seed)
        p = family_wise_p(values, seed=self.seed)
        clean = float(rows["clean"].to_numpy(float)[: values.shape[1]].mean())
        return [
            {
                **head,
                "ablation": ablation,
                "metric": metric,
                "effect": float(v.mean()),
                "low": float(lo),
                "high": float(hi),
                "p_family": float(q),
                "n": len(v),
                "clean": clean,
            }
            for head, v, lo, hi, q in zip(heads, values, low, high, p, strict=True)
        ]

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
            return Verdict(
                status="inconclusive",
                claim=f"There is no prompt with target and foil, so no task; {said.claim(effects, LOSS)}",
                evidence=evidence,
            )
        mean_, error, n = said.task(tables)
        if not mean_ >= said.STANDARD_ERRORS * error:
            how = (
                f"its mean logit difference on {n} prompts is {mean_:.2f}, less than {said.STANDARD_ERRORS:.0f} standard errors of {error:.2f} above 0"
                if n > 1
                else "one prompt has no standard error"
            )
            return Verdict(
                status="inconclusive",
                claim=f"The model cannot be said to do the task: {how}; effects of heads on it mean little.",
                evidence=evidence,
            )
        status = "pass" if len(said.clear(task, said.headline(task))) else "inconclusive"
        return Verdict(
            status=status,
            claim=said.claim(effects, TASK),
            evidence=evidence,
            why="Ablation is the exact check of every cheaper score: a head that looks busy and changes nothing does not matter here.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables)

    def notes(self, model: Transformer, corpus: Corpus) -> Mapping[str, str]:
        prompts, chunks = corpus.contrasts(self.n_prompts), self._chunks(model, corpus)
        paired = sum(_pairs(model, p) for p in prompts)
        said = {
            "prompts": f"{len(prompts)} prompts with target and foil, {paired} of them with a corrupt version of equal length (asked for: {self.n_prompts})"
        }
        if prompts:
            said["tokens of the prompts"] = f"{int(tokenize_prompts(model, prompts)[1].sum())}, without padding"
            said["first prompt"] = f"{prompts[0].prompt!r}: {prompts[0].target!r} against {prompts[0].foil!r}"
        said["text"] = (
            "no chunk: the loss was not measured"
            if chunks is None
            else f"{len(chunks)} chunks of {chunks.shape[1]} tokens for the loss (asked for: {self.n_chunks} of {self.length})"
        )
        return said


def _contrast(prompts: Sequence[Prompt]) -> Metric:
    return logit_difference([p.target for p in prompts], [p.foil for p in prompts])


def _pairs(model: Transformer, prompt: Prompt) -> bool:
    """Is there a corrupt version, with as many tokens?"""
    return prompt.corrupt is not None and len(model.tokenizer.encode(prompt.corrupt)) == len(model.tokenizer.encode(prompt.prompt))


def _prompts_table(model: Transformer, prompts: Sequence[Prompt]) -> object:
    rows = []
    if prompts:
        clean = _contrast(prompts)(model, tokenize_prompts(model, prompts)).tolist()
        paired = [p for p in prompts if _pairs(model, p)]
        corrupt = dict(
            zip(
                map(id, paired),
                _contrast(paired)(model, tokenize_prompts(model, paired, corrupt=True)).tolist() if paired else [],
                strict=True,
            )
        )
        rows = [
            {"example": i, "prompt": p.prompt, "target": p.target, "foil": p.foil, "clean": c, "corrupt": corrupt.get(id(p), float("nan"))}
            for i, (p, c) in enumerate(zip(prompts, clean, strict=True))
        ]
    frame = pd.DataFrame(rows, columns=["example", "prompt", "target", "foil", "clean", "corrupt"]).astype(
        {"clean": float, "corrupt": float}
    )
    return table(
        frame,
        "The task, without ablation.",
        example=("", "number of the prompt"),
        prompt=("", "text"),
        target=("", "right next token"),
        foil=("", "wrong next token"),
        clean=("logits", "logit difference on the prompt"),
        corrupt=("logits", "logit difference of the same tokens on its corrupt version, missing where there is none of equal length"),
    )


def _no_op(model: Transformer, prompts: Sequence[Prompt], chunks: torch.Tensor | None) -> pd.DataFrame:
    """The sweep with scale(1) on every head of the first, middle and last block, on two examples: it must change nothing but rounding."""
    rows = []
    if prompts or chunks is not None:
        inputs, metric = (tokenize_prompts(model, prompts[:2]), _contrast(prompts[:2])) if prompts else ((chunks[:2],), loss())
        with torch.no_grad():
            largest = float(read(model(*inputs), last_position(inputs)).abs().max())
        effect = (
            sweep(model, inputs, ablate_heads(model, scale(1.0), layers=sorted({0, model.n_layers // 2, model.n_layers - 1})), metric)[
                "effect"
            ]
            .abs()
            .max()
        )
        rows.append(
            {"gate": "a head's output times 1", "measured": float(effect), "bound": 100 * torch.finfo(model.dtype).eps * largest}
        )
    return pd.DataFrame(rows, columns=["gate", "measured", "bound"]).astype({"measured": float, "bound": float})


def _agreement(effects: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for metric, part in effects.groupby("metric", sort=False):
        kinds = list(dict.fromkeys(part["ablation"]))
        values = {kind: part[part["ablation"] == kind]["effect"].to_numpy() for kind in kinds}
        rows += [
            {"metric": metric, "first": a, "second": b, "rank_correlation": rank_correlation(values[a], values[b]), "n": len(values[a])}
            for i, a in enumerate(kinds)
            for b in kinds[i + 1 :]
        ]
    return pd.DataFrame(rows, columns=["metric", "first", "second", "rank_correlation", "n"]).astype({"rank_correlation": float})


ANALYSIS = HeadAblation
