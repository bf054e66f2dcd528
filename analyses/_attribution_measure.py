"""What is attributed to which token, how far does it add up, and does it agree with the exact check?"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from analyses._anatomy import Inputs, Model
from analyses._corpus import Corpus, CorpusError, tokenize_prompts
from analyses._examples import examples
from analyses._rank_correlation import rank_correlation
from model import EncoderDecoder, Transformer
from probes import Metric, logit_difference, loss
from probes.attribution import (
    SiteFunction,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    site_function,
)
from probes.inputs import mask_at, written
from probes.metrics import Readout

METHODS = ("integrated gradients", "gradient × input", "occlusion")
CHECKED, EXACT = METHODS[:2], METHODS[2]
CONTRAST, TARGET = "logit_difference", "target_log_probability"
TOKEN_COLUMNS = ["example", "position", "token", "method", "attribution"]
SAID = ["example", "prompt", "target", "foil", "metric"]
NUMBERS = ["clean", "baseline", "difference", "sum_integrated", "sum_gradient", "sum_occlusion", "gap"]


@dataclass(frozen=True)
class Question:
    """What is attributed: a number of every example, to the tokens that enter at a site."""

    inputs: Inputs
    metric: Metric
    site: str
    said: tuple[tuple[str, str, str | None], ...]
    """prompt, target and foil of each example; no foil where the target is a text of its own"""

    def words(self, model: Model, example: int) -> list[str]:
        """The tokens of an example at the site, without padding."""
        tokens, mask = self.inputs[0][example], mask_at(self.site, self.inputs)
        return model.tokenizer.to_str_tokens(tokens if mask is None else tokens[mask[example]])


def question(model: Model, corpus: Corpus, n: int) -> Question | None:
    """The preference for the target over the foil in a decoder; the mean log-probability of the target in an encoder-decoder,
    given by the prompts file or written by the model itself, as a function of the source. None where there is nothing to ask."""
    if isinstance(model, EncoderDecoder):
        try:
            inputs = examples(model, corpus, n, 1)
        except CorpusError:
            return None
        if model.unembed is None or inputs[1].shape[1] < 2:
            return None
        writer, (targets, mask) = model.target_tokenizer or model.tokenizer, written(inputs)
        texts = [writer.decode(t[m], special=False) for t, m in zip(targets, mask, strict=True)]
        sources = [model.tokenizer.decode(s[m], special=False) for s, m in zip(inputs[0], inputs[2], strict=True)]
        said = tuple((source, text, None) for source, text in zip(sources, texts, strict=True))
        return Question(inputs, target_log_probability(), "encoder.embed", said)
    prompts = corpus.contrasts(n)
    if not prompts or not model.config.causal:
        return None
    metric = logit_difference([p.target for p in prompts], [p.foil for p in prompts])
    return Question(tokenize_prompts(model, prompts), metric, "embed", tuple((p.prompt, p.target, p.foil) for p in prompts))


def target_log_probability() -> Metric:
    """Mean log-probability of the target's tokens, each given those before it: the loss with the other sign. Unit: nats per token."""

    def on(model: Transformer | EncoderDecoder, inputs: tuple[torch.Tensor, ...]) -> Readout:
        readout = loss().on(model, inputs)
        return Readout(readout.positions, lambda logits, clean: -readout.measure(logits, clean))

    return Metric(TARGET, "nats per token", on)


def baseline_of(f: SiteFunction, kind: str, *, keep_first: bool) -> torch.Tensor:
    """What every token is compared with: the mean embedding of all real tokens, or zeros; the first real token as it is if asked for."""
    mask = mask_at(f.site, f.inputs)
    mask = torch.ones(f.value.shape[:2], dtype=torch.bool, device=f.value.device) if mask is None else mask
    vector = f.value[mask].mean(0) if kind == "mean" else torch.zeros_like(f.value[0, 0])
    base = vector.expand_as(f.value).clone()
    if keep_first:
        first = torch.arange(len(mask), device=mask.device), mask.int().argmax(1)
        base[first] = f.value[first]
    return base


def attributed(
    model: Model, asked: Question | None, *, baseline: str, keep_first: bool, n_steps: int, max_steps: int, tolerance: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per method and token, and a row per example."""
    if asked is None:
        tokens = pd.DataFrame(columns=TOKEN_COLUMNS).astype({"attribution": float})
        return tokens, pd.DataFrame(columns=[*SAID, *NUMBERS, "n_steps"]).astype(dict.fromkeys(NUMBERS, float))
    f = site_function(model, asked.inputs, asked.metric, asked.site)
    base = baseline_of(f, baseline, keep_first=keep_first)
    integrated = integrated_gradients(f, base, n_steps=n_steps, max_steps=max_steps, tolerance=tolerance)
    by_method = dict(zip(METHODS, (integrated.attribution, gradient_x_input(f, base), occlusion(f, base)), strict=True))
    with torch.no_grad():
        clean = f(f.value)
    sums = {f"sum_{name}": by_method[method].sum(1) for name, method in zip(("integrated", "gradient", "occlusion"), METHODS, strict=True)}
    numbers = {"clean": clean, "baseline": clean - integrated.difference, "difference": integrated.difference, **sums, "gap": integrated.gap}
    said = pd.DataFrame([(i, *words, asked.metric.name) for i, words in enumerate(asked.said)], columns=SAID)
    complete = said.assign(**{name: values.tolist() for name, values in numbers.items()}, n_steps=integrated.n_steps.tolist())
    return _token_rows(model, asked, by_method), complete


def _token_rows(model: Model, asked: Question, by_method: dict[str, torch.Tensor]) -> pd.DataFrame:
    mask, rows = mask_at(asked.site, asked.inputs), []
    for i in range(len(asked.said)):
        words = asked.words(model, i)
        for method, values in by_method.items():
            real = values[i] if mask is None else values[i][mask[i]]
            rows += [(i, p, word, method, v) for p, (word, v) in enumerate(zip(words, real.double().tolist(), strict=True))]
    return pd.DataFrame(rows, columns=TOKEN_COLUMNS)


def agreement(tokens: pd.DataFrame) -> pd.DataFrame:
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
