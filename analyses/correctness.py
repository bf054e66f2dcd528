"""Correctness gates: is what is computed the model, and does watching or changing it add nothing of its own?

Every analysis rests on identities that hold whatever the model has learned: its logits are those of the checkpoint's own
implementation; an example does not depend on its batch or its padding; rows of attention patterns are distributions; the residual
stream is the sum of what is written to it; a decoder does not see what comes later; an edit that changes nothing changes nothing.
Each is tried on a few examples of different lengths, its error held against what rounding explains. A gate that does not apply,
or cannot be tried here, is not checked, and says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._anatomy import Model, attention_path, sides
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus
from analyses._correctness_examples import Examples, chosen
from analyses._correctness_gates import bound_of, gates
from analyses._correctness_reference import own_implementation
from reports import Bars, Evidence, Figure, Table, Verdict, format_number

KEPT, BROKEN, UNCHECKED = "kept", "broken", "not checked"
COLUMNS = ["gate", "status", "measured", "bound", "where", "compared", "why"]


@dataclass(frozen=True, kw_only=True)
class Correctness(Analysis):
    """Is what is computed the model, and does watching or changing it add nothing of its own?"""

    name: ClassVar[str] = "correctness"
    title: ClassVar[str] = "Correctness gates"
    question: ClassVar[str] = "Is what is computed the model, and does watching or changing it add nothing of its own?"
    method: ClassVar[str] = (
        "Examples of different lengths, of the text where it holds enough of them, else random tokens. Errors of logits (without a head: of final states) are the largest difference over the largest logit. "
        "Own implementation: every example alone through the family's class of transformers, read from the same files in the same number format, with explicit attention. "
        "Batch against single: a batch padded on the right against every example alone. Padding: the batch padded on the left against the right, at real tokens. Row sums: |Σ_j α_ij − 1| of every head at real queries. "
        "Additivity: ‖resid_post of the last block − (embeddings + Σ attn_out + Σ mlp_out)‖ over the sum of their norms, per token; where a norm stands behind every sum, each state against the norm of its sum. "
        "Causality: all tokens behind a position are exchanged, at four positions; the logits up to it must stay. No-op edit: values at each kind of site times 1, which also takes attention off its fused path. "
        "Bounds by number format, of the largest logit: 1e−12 in fp64, 1e−5 in fp32, 0.02 in fp16, 0.1 in bf16; of row sums 1e−5 or four units of the last place."
    )
    limits: ClassVar[str] = (
        "A few short examples: what happens only in long texts, on another device or in another number format is not seen. A gate that holds says that the machinery is sound, "
        "not that the model is good. Errors below the bound are rounding and differ from machine to machine."
    )
    order: ClassVar[int] = 5

    n_examples: int = 3
    """how many examples go through the gates, each shorter than the one before"""
    length: int = 24
    """tokens of the longest example; shortened to the context"""
    largest: int = 1_000_000_000
    """parameters of the largest model that is loaded a second time, by its own implementation; 0 leaves that gate out"""

    def __post_init__(self) -> None:
        for field, least in (("n_examples", 1), ("length", 2), ("largest", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, got {getattr(self, field)}")

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        rows = []
        with torch.no_grad():
            examples = self._examples(model, corpus)
            for gate in gates(own_implementation(model, self.largest)):
                found, bound = gate.measure(model, examples), bound_of(gate.name, _dtype(model))
                status = UNCHECKED if np.isnan(found.measured) else KEPT if found.measured <= bound else BROKEN
                rows.append((gate.name, status, found.measured, bound, found.where, found.compared, gate.why))
        return {"gates": gates_table(pd.DataFrame(rows, columns=COLUMNS))}

    def judge(self, tables: Tables) -> Verdict:
        frame = tables["gates"].frame
        tried, broken, open_ = (frame[frame["status"].isin(kinds)] for kinds in ((KEPT, BROKEN), (BROKEN,), (UNCHECKED,)))
        if tried.empty:
            return Verdict(status="inconclusive", claim="No gate was checked.")
        evidence = tuple(_evidence(row) for row in tried.itertuples())
        if len(broken):
            worst = broken.loc[(broken["measured"] / broken["bound"]).idxmax()]
            return Verdict(
                status="fail",
                evidence=evidence,
                why=worst["why"],
                claim=f"{len(broken)} of {len(tried)} gates {'is' if len(broken) == 1 else 'are'} broken: {worst['gate']} is off by {worst['measured']:.2g}, rounding explains {worst['bound']:.0e}.",
            )
        rest = "" if open_.empty else f"; not checked: {', '.join(open_['gate'])}"
        return Verdict(
            status="pass",
            evidence=evidence,
            why=""
            if open_.empty
            else f"Not checked: {'; '.join(f'{g}, {c}' for g, c in zip(open_['gate'], open_['compared'], strict=True))}.",
            claim=f"{len(tried)} of {len(frame)} gates were checked and hold: no error is larger than rounding explains{rest}.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["gates"].frame
        tried = frame[frame["status"] != UNCHECKED]
        return () if tried.empty else (_shares(tried),)

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        examples = self._examples(model, corpus)
        return {
            "examples": f"{len(examples.single)} of {examples.kind}, of {', '.join(examples.lengths)} tokens",
            "attention path": f"{attention_path(model)}; the no-op edit holds what is fused against what is explicit",
        }

    def _examples(self, model: Model, corpus: Corpus) -> Examples:
        return chosen(model, corpus, self.n_examples, min(self.length, *(side.config.n_ctx for side in sides(model))), seed=self.seed)


def gates_table(frame: pd.DataFrame) -> Table:
    """The gates with what their columns mean."""
    return table(
        frame,
        "What must hold whatever the model has learned; errors that rounding explains differ between machines.",
        measurement=True,
        gate=("", "identity"),
        status=("", "kept, broken or not checked"),
        measured=("1", "largest error; of logits over the largest logit"),
        bound=("1", "largest error that rounding explains"),
        where=("", "where the error is largest"),
        compared=("", "what was compared, or why the gate was not checked"),
        why=("", "why it matters"),
    )


def _evidence(row: object) -> Evidence:
    return Evidence(
        name=row.gate,
        measured=row.measured,
        unit="1",
        threshold=row.bound,
        relation="<=",
        where=row.where,
        source="rounding in this number format",
    )


def _shares(tried: pd.DataFrame) -> Bars:
    shares = 100 * (tried["measured"] / tried["bound"]).to_numpy(float)
    largest = tried["gate"].iloc[int(shares.argmax())]
    broken = int((tried["status"] == BROKEN).sum())
    return Bars(
        name="shares-of-bounds",
        title=f"{broken} of {len(tried)} gates are broken"
        if broken
        else f"All {len(tried)} gates that were checked stay below their bounds",
        caption=f"Largest error of each gate as a share of its bound; above 100 % it is broken. n = {len(tried)} gates.",
        alt=f"Largest share {format_number(float(shares.max()))} %, {largest}; median {format_number(float(np.median(shares)))} %.",
        labels=tried["gate"].tolist(),
        values=shares,
        unit="% of the bound",
    )


def _dtype(model: Model) -> torch.dtype:
    return sides(model)[-1].stack.dtype


ANALYSIS = Correctness
