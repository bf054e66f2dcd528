"""What does one activation restore? Sweeps of patches between prompts and their corrupt versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses._anatomy import Inputs, Model, kind_of
from analyses._corpus import Corpus, Prompt
from analyses._reading import whole
from analyses._sign_flip import family_wise_p
from model import EncoderDecoder
from probes import (
    Edit,
    Metric,
    logit_difference,
    loss,
    patch_sites,
    patching,
    record,
    sweep,
)
from probes.inputs import sequence_at
from probes.intervals import percentiles, resamples
from probes.sweep.patching import Direction
from reports import visible_token

LEAST_GAP = 0.1
"""a prompt is left out where the metric of its two versions differs by less than this share of the clean one"""
PARTS = ("resid_pre", "attn_out", "cross_attn_out", "mlp_out")
HEAD_COLUMNS = ["attention", "layer", "head", "share", "low", "high", "p_family", "effect", "n"]
MAP_COLUMNS = ["example", "stack", "part", "layer", "position", "token", "corrupt_token", "share"]
PROMPT_COLUMNS = ["example", "prompt", "corrupt", "target", "foil", "clean_metric", "corrupt_metric", "used"]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Prompts beside their corrupt versions, as inputs of the model, and a number that tells them apart."""

    prompts: tuple[Prompt, ...]
    clean: Inputs
    corrupt: Inputs
    metric: Metric

    def values(self, model: Model) -> tuple[np.ndarray, np.ndarray]:
        """The metric of each prompt, clean and corrupt."""
        readout = self.metric.on(model, self.clean)
        with torch.no_grad():
            own, other = (readout.of(model(*inputs)) for inputs in (self.clean, self.corrupt))
        return tuple(readout.measure(logits, own).double().cpu().numpy() for logits in (own, other))


def why_not(model: Model, corpus: Corpus) -> str:
    """Why there is nothing to patch, in a sentence; empty where there is."""
    if model.unembed is None or not (isinstance(model, EncoderDecoder) or model.config.causal):
        return "The model writes no next token, so there is no answer to restore."
    if not candidates(model, corpus):
        return "No prompt has an answer and a corrupt version with as many tokens, so there is nothing to patch."
    return ""


def candidates(model: Model, corpus: Corpus, n: int | None = None) -> tuple[Prompt, ...]:
    """The first prompts with an answer and a corrupt version of as many tokens; of an encoder-decoder, it is the source that is corrupt."""
    return tuple(p for p in _answered(model, corpus) if _equally_long(model, p))[:n]


def n_of_other_length(model: Model, corpus: Corpus) -> int:
    """How many prompts cannot be patched, as their corrupt version has another number of tokens."""
    return sum(not _equally_long(model, p) for p in _answered(model, corpus))


def _answered(model: Model, corpus: Corpus) -> list[Prompt]:
    two = isinstance(model, EncoderDecoder)
    return [p for p in corpus.prompts if p.target is not None and (two or p.foil is not None) and p.corrupt is not None]


def _equally_long(model: Model, prompt: Prompt) -> bool:
    clean, corrupt = (model.tokenizer.encode(text, template=isinstance(model, EncoderDecoder)) for text in (prompt.prompt, prompt.corrupt))
    return len(clean) == len(corrupt)


def pairs_of(model: Model, prompts: Sequence[Prompt]) -> Pairs:
    """These prompts as one batch: a decoder's end together, so that what follows the difference is short in all of them."""
    texts = [[p.prompt for p in prompts], [p.corrupt for p in prompts]]
    if isinstance(model, EncoderDecoder):
        targets = [p.target for p in prompts]
        clean, corrupt = (model.tokenize(some, target=targets) for some in texts)
        return Pairs(prompts=tuple(prompts), clean=clean, corrupt=corrupt, metric=loss())
    clean, corrupt = (model.tokenize(some, pad="left") for some in texts)
    metric = logit_difference([p.target for p in prompts], [p.foil for p in prompts])
    return Pairs(prompts=tuple(prompts), clean=clean, corrupt=corrupt, metric=metric)


def prompts_frame(model: Model, prompts: Sequence[Prompt]) -> pd.DataFrame:
    """The metric of both versions of each prompt, and whether they differ enough to be used."""
    if not prompts:
        return pd.DataFrame(columns=PROMPT_COLUMNS).astype({"clean_metric": float, "corrupt_metric": float, "used": bool})
    clean, corrupt = pairs_of(model, prompts).values(model)
    used = (np.abs(clean - corrupt) >= LEAST_GAP * np.abs(clean)) & (clean != corrupt)
    rows = [
        (i, p.prompt, p.corrupt, p.target, p.foil or "", *row)
        for i, (p, *row) in enumerate(zip(prompts, clean, corrupt, used, strict=True))
    ]
    return pd.DataFrame(rows, columns=PROMPT_COLUMNS)


def heads(model: Model, pairs: Pairs, direction: Direction, seed: int) -> pd.DataFrame:
    """A row per head: what its output restores, patched at every position, as mean effect over mean gap of the prompts.

    A mean of each prompt's own share would hang on the few prompts whose gap is small.
    """
    places = _differing(model, pairs)

    def grid(values: Mapping[str, Tensor]) -> list[Edit]:
        return [replace(edit, positions=places) for edit in patch_sites(model, values, "z")]

    table = whole(patching(model, pairs.clean, pairs.corrupt, pairs.metric, "z", direction=direction, least_gap=0.0, grid=grid, progress=True))
    one = table[["edit", "site", "layer", "head"]].drop_duplicates()
    effects = table["effect"].to_numpy(float).reshape(len(one), -1)  # heads prompts
    gaps = (table["clean"] - table["corrupt"]).to_numpy(float)[: effects.shape[1]] * (1 if direction == "denoise" else -1)
    low, high = _interval(effects, gaps, seed)
    p = family_wise_p(effects, seed=seed)
    rows = [
        (kind_of(head.site), head.layer, head.head, e.mean() / gaps.mean(), lo, hi, q, e.mean(), len(e))
        for head, e, lo, hi, q in zip(one.itertuples(), effects, low, high, p, strict=True)
    ]
    return pd.DataFrame(rows, columns=HEAD_COLUMNS).astype({"layer": int, "head": int})


def _interval(effects: Float[np.ndarray, "heads prompts"], gaps: Float[np.ndarray, "prompts"], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The 95 % bootstrap interval of mean effect over mean gap: both are resampled together."""
    n = len(gaps)
    if n < 2:
        return np.full(len(effects), np.nan), np.full(len(effects), np.nan)
    drawn = resamples(n, seed=seed).T  # prompts resamples
    with np.errstate(divide="ignore", invalid="ignore"):
        return percentiles((effects @ drawn) / (gaps @ drawn), 0.95)


def _differing(model: Model, pairs: Pairs) -> tuple[int, ...] | None:
    """The positions from the first on at which the two versions of any prompt differ; None for all. What a decoder computes before
    does not depend on what comes behind, and is the same in both."""
    if isinstance(model, EncoderDecoder):
        return None
    differ = (pairs.clean[0] != pairs.corrupt[0]).any(0).nonzero().flatten()
    return tuple(range(int(differ[0]), pairs.clean[0].shape[1])) if len(differ) else None


def maps(model: Model, prompts: Mapping[int, Prompt], direction: Direction, n_positions: int) -> pd.DataFrame:
    """What each layer's stream, attention and feed-forward network restore at each position, of one prompt after another."""
    frames = [_map(model, number, prompt, direction, n_positions) for number, prompt in prompts.items()]
    frames = [frame for frame in frames if len(frame)]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=MAP_COLUMNS).astype({"share": float})


def _map(model: Model, number: int, prompt: Prompt, direction: Direction, n_positions: int) -> pd.DataFrame:
    pairs = pairs_of(model, [prompt])
    words = [word for word in PARTS if any(name.rpartition(".")[2] == word for name in model.sites())]

    def grid(values: Mapping[str, Tensor]) -> list[Edit]:
        return [edit for name in values for edit in patch_sites(model, values, name, positions=_shown(model, name, pairs, n_positions))]

    table = whole(patching(model, pairs.clean, pairs.corrupt, pairs.metric, words, direction=direction, least_gap=0.0, grid=grid, progress=True))
    rows = []
    for row in table.itertuples():
        stack = row.site.partition(".")[0] if isinstance(model, EncoderDecoder) else ""
        tokens = [int(sequence_at(row.site, inputs)[0][0, row.position]) for inputs in (pairs.clean, pairs.corrupt)]
        rows.append(
            (number, stack, row.site.rpartition(".")[2], row.layer, row.position, *(_text(model, stack, t) for t in tokens), row.share)
        )
    return pd.DataFrame(rows, columns=MAP_COLUMNS).astype({"layer": int, "position": int})


def _shown(model: Model, site: str, pairs: Pairs, n_positions: int) -> list[int]:
    """The positions of a map: from the first difference on in a decoder, those that differ and the last ones first."""
    clean, corrupt = (sequence_at(site, inputs)[0][0] for inputs in (pairs.clean, pairs.corrupt))
    differ = (clean != corrupt).nonzero().flatten().tolist()
    first = differ[0] if differ and not isinstance(model, EncoderDecoder) else 0
    wanted = list(dict.fromkeys([*differ, *reversed(range(first, len(clean)))]))
    return sorted(wanted[:n_positions])


def _text(model: Model, stack: str, token: int) -> str:
    tokenizer = (getattr(model, "target_tokenizer", None) or model.tokenizer) if stack == "decoder" else model.tokenizer
    return visible_token(tokenizer.to_str_tokens([token])[0])


def gates(model: Model, pairs: Pairs) -> pd.DataFrame:
    """Two identities on at most two prompts: clean into clean is no change, and all that enters block 0 is everything."""
    clean, corrupt = (tuple(x if x is None else x[:2] for x in inputs) for inputs in (pairs.clean, pairs.corrupt))
    metric = pairs_of(model, pairs.prompts[:2]).metric
    with torch.no_grad(), record(model, "*attn.z") as values:
        largest = max(float(model(*clean).abs().max()), 1.0)
    layers = {0, model.n_layers // 2, model.n_layers - 1}
    edits = [edit for edit in patch_sites(model, values, "z", heads=None) if model.step_of(edit.site) in layers]
    own = float(whole(sweep(model, clean, edits, metric))["effect"].abs().max())
    first = "encoder.blocks.0.resid_pre" if isinstance(model, EncoderDecoder) else "blocks.0.resid_pre"
    entered = whole(patching(model, clean, corrupt, metric, first, least_gap=0.0))
    rest = float((entered["edited"] - entered["clean"]).abs().max())
    bound = 100 * torch.finfo(model.dtype).eps * largest
    return pd.DataFrame(
        [("clean values into the clean run", own, bound), ("all that enters block 0", rest, bound)], columns=["gate", "measured", "bound"]
    )
