"""Which pages do the browser tests open? One with everything in it, one per hostile text, one as large as a real model's, and broken ones."""

from __future__ import annotations

import dataclasses
import html
import re
from functools import cache, partial
from importlib import import_module

import jinja2
import numpy as np
import pandas as pd
import pytest

from reports import STATUSES, AttentionMap, Column, Result, Table, Verdict, page
from tests.reports.samples import HOSTILE, WORDS, provenance, result

HOSTILE_TEXT = (*HOSTILE, "long" * 2000)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')


def attention(n_queries: int, n_keys: int, seed: int, *, causal: bool) -> np.ndarray:
    """A random pattern, Float[query, key]: rows sum to 1, and where it is causal nothing is right of the diagonal."""
    scores = np.random.default_rng(seed).normal(scale=2.0, size=(n_queries, n_keys))
    if causal:
        scores[np.triu_indices(n_queries, 1, n_keys)] = -np.inf
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def words(n: int, stem: str = "word") -> list[str]:
    return [f" {stem}{i}" for i in range(n)]


def decoder_map(n_layers: int = 3, n_heads: int = 4, n: int = 24) -> AttentionMap:
    patterns = {f"L{i}H{j}": attention(n, n, i * n_heads + j, causal=True) for i in range(n_layers) for j in range(n_heads)}
    return AttentionMap(
        name="patterns", **WORDS, patterns=patterns, queries=words(n), keys=words(n), notes={"L0H1": "rests on the first token"}
    )


def cross_map(n_layers: int = 2, n_heads: int = 2, n_target: int = 9, n_source: int = 14) -> AttentionMap:
    patterns = {
        f"L{i}H{j}": attention(n_target, n_source, 100 + i * n_heads + j, causal=False) for i in range(n_layers) for j in range(n_heads)
    }
    return AttentionMap(
        name="cross-patterns", **WORDS, patterns=patterns, queries=words(n_target, "target"), keys=words(n_source, "source")
    )


def long_table(rows: int = 300) -> Table:
    frame = pd.DataFrame({"layer": np.arange(rows), "effect": np.sin(np.arange(rows)), "token": [f"word{i}" for i in range(rows)]})
    meanings = {
        "layer": Column(unit="", meaning="number"),
        "effect": Column(unit="nats", meaning="effect"),
        "token": Column(unit="", meaning="text"),
    }
    return Table(frame=frame, columns=meanings, caption="A table longer than what is shown.")


def with_status(status: str) -> Result:
    return result(
        f"Analysis that is {status}",
        analysis=status.replace(" ", "-"),
        figures=(),
        verdict=Verdict(status=status, claim=f"It is {status}."),
    )


def everything() -> list[Result]:
    """Every kind of figure with every kind of gap, every status, decoders' and cross-attention, a long table."""
    explored = result("Attention", analysis="attention", figures=(decoder_map(), cross_map()), tables={"long": long_table()})
    return [result("Sample"), explored, *(with_status(status) for status in STATUSES)]


@cache
def whole_page() -> str:
    run = {"state": "complete", "parameters": {"seed": 7, "only": ("a", "b")}, "provenance": dataclasses.asdict(provenance())}
    return page(everything(), title="Everything", run=run)


def hostile_page(text: str) -> str:
    """The text in every place that takes text."""
    run = {
        "state": "incomplete",
        "analyses": ["head-ablation", text],
        "parameters": {text: text},
        "provenance": dataclasses.asdict(provenance(text)),
    }
    return page([result(text)], title=text, run=run)


def without_policy(whole: str) -> str:
    bare, cut = POLICY.subn("", whole)
    assert cut == 1
    return bare


def unescaped(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page as it would be if nobody had thought of escaping, its policy kept."""
    with monkeypatch.context() as patch:
        patch.setattr(import_module("reports.page"), "Environment", partial(_careless, jinja2.Environment))
        return hostile_page(text)


def _careless(environment: type[jinja2.Environment], **options: object) -> jinja2.Environment:
    return environment(**{**options, "autoescape": False})


def planted(whole: str, markup: str) -> str:
    """The page with markup that got in somewhere."""
    before, _, after = whole.partition('<main id="main"')
    return f'{before}{markup}<main id="main"{after}'


def framed(whole: str, sandbox: str = "allow-scripts") -> str:
    """The page as a notebook shows it."""
    return f'<!doctype html><title>notebook</title><iframe sandbox="{sandbox}" width="1000" height="800" srcdoc="{html.escape(whole)}"></iframe>'
