"""What does silencing each head change? Sweeps on prompts and on text, and what is made of their rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd
import torch

from analyses._anatomy import Inputs, Model, kind_of
from analyses._corpus import Prompt, tokenize_prompts
from analyses._examples import Task
from analyses._rank_correlation import rank_correlation
from analyses._reading import whole
from analyses._sign_flip import family_wise_p
from probes import (
    Metric,
    ablate_heads,
    logit_difference,
    mean,
    patch,
    record,
    resample,
    scale,
    sweep,
    zero,
)
from probes.inputs import mask_at
from probes.intervals import bootstrap_mean

Ablation = Literal["zero", "mean", "resample"]
TASK = "logit_difference"
SHIFT = "representation_shift"
Effects = tuple[Ablation, pd.DataFrame]
"""an ablation and the rows of its sweep"""
EFFECT_COLUMNS = ["attention", "layer", "head", "ablation", "metric", "effect", "low", "high", "p_family", "n", "clean"]


def on_prompts(model: Model, prompts: Sequence[Prompt], ablations: Sequence[Ablation]) -> list[Effects]:
    """Rows of sweeps on the prompts: resample on those that have a corrupt version of equal length, the others on all."""
    inputs = tokenize_prompts(model, prompts)
    paired = [p for p in prompts if pairs(model, p)]
    found = []
    for kind in ablations:
        if kind != "resample":
            change = zero() if kind == "zero" else mean(inputs)
            found.append((kind, whole(sweep(model, inputs, ablate_heads(model, change), contrast(prompts), progress=True))))
        elif paired:
            with torch.no_grad(), record(model, "*attn.z") as corrupt:
                model(*tokenize_prompts(model, paired, corrupt=True))
            edits = ablate_heads(model, patch(corrupt))
            found.append((kind, whole(sweep(model, tokenize_prompts(model, paired), edits, contrast(paired), progress=True))))
    return found


def on_text(model: Model, task: Task, ablations: Sequence[Ablation], seed: int) -> list[Effects]:
    """Rows of sweeps on text. One example has no other to resample from, nor have examples of different lengths."""
    reference, generator = task.inputs, torch.Generator().manual_seed(seed)
    changes = {"zero": lambda: zero(), "mean": lambda: mean(reference), "resample": lambda: resample(reference, generator)}
    able = len(reference[0]) > 1 and one_length(reference)
    kinds = [kind for kind in ablations if kind != "resample" or able]
    return [(kind, whole(sweep(model, task.inputs, ablate_heads(model, changes[kind]()), task.metric, progress=True))) for kind in kinds]


def one_length(inputs: Inputs) -> bool:
    """Are all examples equally long, so that they can be exchanged position by position?"""
    masks = (mask_at("encoder.", inputs), mask_at("", inputs))
    return all(mask is None or bool(mask.all()) for mask in masks)


def summary(ablation: Ablation, metric: str, rows: pd.DataFrame, seed: int) -> list[dict]:
    """A row per head: mean over examples, its interval, and p (none for a shift, which is never negative)."""
    heads = rows[["site", "layer", "head"]].drop_duplicates().astype({"layer": int, "head": int}).to_dict("records")
    values = rows["effect"].to_numpy(float).reshape(len(heads), -1)  # heads examples: the sweep gives them in this order
    low, high = bootstrap_mean(values, seed=seed)
    p = family_wise_p(values, seed=seed) if metric != SHIFT else [float("nan")] * len(heads)
    clean = float(rows["clean"].to_numpy(float)[: values.shape[1]].mean())
    return [
        {
            "attention": kind_of(head["site"]), "layer": head["layer"], "head": head["head"], "ablation": ablation, "metric": metric,
            "effect": float(v.mean()), "low": float(lo), "high": float(hi), "p_family": float(q), "n": len(v), "clean": clean,
        }
        for head, v, lo, hi, q in zip(heads, values, low, high, p, strict=True)
    ]


def prompts_frame(model: Model, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """The task without ablation, and on the corrupt prompts of equal length."""
    columns = ["example", "prompt", "target", "foil", "clean", "corrupt"]
    if not prompts:
        return pd.DataFrame(columns=columns).astype({"clean": float, "corrupt": float})
    clean = contrast(prompts)(model, tokenize_prompts(model, prompts)).tolist()
    paired = [i for i, p in enumerate(prompts) if pairs(model, p)]
    corrupt = dict.fromkeys(range(len(prompts)), float("nan"))
    if paired:
        chosen = [prompts[i] for i in paired]
        corrupt |= dict(zip(paired, contrast(chosen)(model, tokenize_prompts(model, chosen, corrupt=True)).tolist(), strict=True))
    rows = [(i, p.prompt, p.target, p.foil, c, corrupt[i]) for i, (p, c) in enumerate(zip(prompts, clean, strict=True))]
    return pd.DataFrame(rows, columns=columns)


def no_op(model: Model, inputs: Inputs, metric: Metric) -> pd.DataFrame:
    """The sweep with scale(1) on every head of the first, middle and last block, on two examples: it must change nothing but rounding."""
    two = tuple(x if x is None else x[:2] for x in inputs)
    with torch.no_grad():
        largest = float(model(*two).abs().max())
    layers = sorted({0, model.n_layers // 2, model.n_layers - 1})
    edits = [edit for edit in ablate_heads(model, scale(1.0)) if model.step_of(edit.site) in layers]
    effect = whole(sweep(model, two, edits, metric))["effect"].abs().max()
    row = {"gate": "a head's output times 1", "measured": float(effect), "bound": 100 * torch.finfo(model.dtype).eps * max(largest, 1.0)}
    return pd.DataFrame([row])


def agreement(effects: pd.DataFrame) -> pd.DataFrame:
    """Do two ablations put the heads in the same order?"""
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


def contrast(prompts: Sequence[Prompt]) -> Metric:
    """The logit difference of these prompts."""
    return logit_difference([p.target for p in prompts], [p.foil for p in prompts])


def pairs(model: Model, prompt: Prompt) -> bool:
    """Is there a corrupt version, with as many tokens?"""
    return prompt.corrupt is not None and len(model.tokenizer.encode(prompt.corrupt)) == len(model.tokenizer.encode(prompt.prompt))
