"""Attention patterns: what does every head look at, and how sharply?

Every pattern is computed on running text and on random tokens that repeat with a fixed period, one layer at a time, and
reduced to numbers per head: entropy, mass on the first token, mean distance, mass on the previous token, induction,
duplicate-token and prefix-matching scores. Definitions and sources: `probes.statistics.attention_scores`. Scores that an
attention sink distorts are given twice: as they are, and with the first token taken out and the rest renormalised.
Assumes a causal model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses import _attention_figures as figures
from analyses import _attention_tables as tables_of
from analyses._attention_scores import (
    RANDOM,
    TEXT,
    Measured,
    drawable,
    heads_of,
    nothing,
    on_random_tokens,
    on_text,
    patterns_of,
    repeated_tokens,
)
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus
from model import Transformer
from reports import Evidence, Figure, Verdict

SHORTEST = 4
"""tokens: a shorter text or period says nothing"""
EXAMPLE_TOKENS = 48
"""the patterns of flagged heads are kept for at most this many tokens"""
COLLAPSED, UNIFORM = 0.05, 0.95
"""normalised entropy below and above which a head is called so: conventions of this analysis, no published value exists"""
ROLES = {
    "previous_token": "previous token",
    "induction_without_first": "induction",
    "duplicate_token_without_first": "duplicate token",
    "sink_score": "sink",
    "entropy_normalised_without_first": "broadest",
    "distance_without_first": "farthest",
}
"""Score → what the head with the largest is shown as; the entropy is normalised, the distance in tokens, both without the first token."""
JUDGED = {
    "previous_token": "previous-token score",
    "previous_token_without_first": "previous-token score without the first token",
    "induction": "induction score",
    "induction_without_first": "induction score without the first token",
    "duplicate_token": "duplicate-token score",
}


@dataclass(frozen=True)
class _Plan:
    """The sizes that fit the model and the text."""

    length: int
    n_chunks: int
    period: int
    sink_length: int


@dataclass(frozen=True, kw_only=True)
class Attention(Analysis):
    """What does every head look at, and how sharply?"""

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Attention patterns"
    question: ClassVar[str] = "What does every head look at, and how sharply?"
    method: ClassVar[str] = (
        "Patterns of all heads on chunks of the running text and on random tokens repeated once, layer by layer. Entropy H_i = −Σ_j α_ij ln α_ij, "
        "normalised by ln(number of visible keys), over rows with at least two. Sink score α_1 = 1/T Σ_i A_i1 over the first T tokens, a sink where α_1 > ε "
        "(Gu et al. 2024). Distance Σ α_ij |i−j| / Σ α_ij (Vig & Belinkov 2019). Previous token: mean A_{i,i−1}. On the second half of repeated random tokens "
        "with period P: induction, mean A_{i,i−P+1}; duplicate token, mean A_{i,i−P}; prefix matching, mean mass on tokens that followed an earlier occurrence, "
        "found by token identity (Olsson et al. 2022). “Without the first token” means α_ij / (1 − α_i0) over the other keys. Intervals: 95 % bootstrap over sequences."
    )
    limits: ClassVar[str] = (
        "Attention is not importance: a head may look somewhere and write nothing that matters; ablation decides. Scores are means over positions and "
        "sequences, so that a head that works in rare places looks idle. Nothing is prepended to the text: the first token is the first word of a chunk, "
        "not a beginning-of-sequence token. Mass is not weighted by the size of the values."
    )
    order: ClassVar[int] = 10

    n_chunks: int = 8
    """how many chunks of the text are read"""
    length: int = 128
    """tokens per chunk; shortened to the context"""
    n_sequences: int = 8
    """how many sequences of repeated random tokens are read"""
    period: int = 32
    """random tokens before they repeat; shortened to half the context"""
    threshold: float = 0.4
    """mean mass above which a head is called a previous-token, induction or duplicate-token head (ARENA and TransformerLens demos)"""
    sink_threshold: float = 0.3
    """ε: mass above which the first token is a sink (Gu et al. 2024)"""
    sink_length: int = 64
    """T: tokens over which the sink score is taken (Gu et al. 2024)"""
    batch_size: int = 8
    """sequences per forward pass: bounds the memory"""

    def __post_init__(self) -> None:
        for name, least in (
            ("n_chunks", 1),
            ("length", SHORTEST),
            ("n_sequences", 1),
            ("period", SHORTEST),
            ("sink_length", 1),
            ("batch_size", 1),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("threshold", "sink_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    def measure(self, model: Transformer, corpus: Corpus) -> Tables:
        plan = self._plan(model, corpus)
        with torch.no_grad():
            text, random = self._on_text(model, corpus, plan), self._on_random(model, plan)
            heads = heads_of(text.scores | random.scores, n_kv_heads=model.config.n_kv_heads, seed=self.seed)
            flagged = _flagged(heads)
            example = _example(model, corpus)
            patterns = patterns_of(model, example, [(row.layer, row.index) for row in flagged.itertuples(index=False)])
        return {
            "heads": tables_of.heads_table(heads),
            "layers": tables_of.layers_table(text),
            "gates": tables_of.gates_table([text, random], model.dtype),
            "repeats": table(
                pd.DataFrame(
                    [{"half": half, "loss": loss, "n_tokens": n} for half, (loss, n) in random.losses.items()],
                    columns=["half", "loss", "n_tokens"],
                ),
                "Does the model use the repetition? Mean loss on repeated random tokens.",
                half=("", "first or second occurrence"),
                loss=("nats", "mean cross-entropy of the next token"),
                n_tokens=("tokens", "tokens predicted"),
            ),
            "flagged": table(
                flagged.rename(columns={"index": "head"}),
                "The heads whose patterns are kept.",
                label=("", "layer and head"),
                layer=("", "block"),
                head=("", "head in its layer"),
                why=("", "what it is the extreme of"),
            ),
            "patterns": tables_of.patterns_table(patterns),
            "tokens": table(
                pd.DataFrame({"position": range(example.shape[1]), "token": _texts(model, example)}),
                "The example, as the model saw it.",
                position=("", "position"),
                token=("", "text of the token"),
            ),
        }

    def judge(self, tables: Tables) -> Verdict:
        gates, heads = tables["gates"].frame, tables["heads"].frame
        if gates.empty:
            return Verdict(
                status="inconclusive", claim=f"Nothing was measured: neither the text nor half the context holds {SHORTEST} tokens."
            )
        evidence = [
            Evidence(
                name=g.gate,
                measured=g.measured,
                unit="1",
                threshold=g.bound,
                relation="<=",
                source="algebra: a row of a causal pattern is a probability; the bound is rounding",
            )
            for g in gates.itertuples(index=False)
        ]
        if gates.measured.isna().any():
            return Verdict(status="fail", claim="The attention patterns hold values that are not numbers.")
        broken = gates[gates.measured > gates.bound]
        if not broken.empty:
            gate = broken.iloc[0]
            return Verdict(
                status="fail",
                claim=f"The patterns are not probabilities over earlier tokens: {gate.gate} is {gate.measured:.2g}, of which rounding explains at most {gate.bound:.0e}.",
                evidence=tuple(evidence),
            )
        entropy = heads.entropy_normalised_without_first.dropna()
        if entropy.empty:
            return Verdict(
                status="inconclusive",
                claim="No head has a defined entropy on text: there is no text of "
                f"{SHORTEST} tokens, or nothing beside the first token is attended to.",
                evidence=tuple(evidence),
            )
        shares = {f"below {COLLAPSED}": float((entropy < COLLAPSED).mean()), f"above {UNIFORM}": float((entropy > UNIFORM).mean())}
        evidence += [
            Evidence(
                name=f"share of heads with normalised entropy {side}, without the first token",
                measured=share,
                unit="1",
                threshold=0.5,
                relation="<",
                source="convention of this analysis",
            )
            for side, share in shares.items()
        ]
        collapsed, uniform = (share >= 0.5 for share in shares.values())
        state = (
            "most heads look at a single token even without the first one"
            if collapsed
            else "most heads spread evenly over all tokens, as in an untrained model"
            if uniform
            else ""
        )
        return Verdict(
            status="warn" if state else "pass",
            claim=self._claim(heads, state),
            evidence=(*evidence, *self._described(tables)),
            why="An attention sink makes idle heads look sharp and hides induction: only the scores without the first token tell them apart.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        if tables["gates"].frame.measured.isna().any():
            return ()
        return figures.draw(tables, threshold=self.threshold, sink_threshold=self.sink_threshold)

    def notes(self, model: Transformer, corpus: Corpus) -> Mapping[str, str]:
        plan = self._plan(model, corpus)
        holds = f"the context holds {model.config.n_ctx}"
        text = (
            f"{plan.n_chunks} chunks of {plan.length} tokens, nothing prepended"
            if plan.length >= SHORTEST
            else f"none of {SHORTEST} tokens"
        )
        random = (
            f"{self.n_sequences} sequences of 2 × {plan.period} tokens, special tokens excluded"
            if plan.period >= SHORTEST
            else f"none with a period of {SHORTEST} tokens"
        )
        if plan.length < self.length:
            text += f"; asked for {self.length}, but {holds} and the text has {len(corpus.tokens)}"
        if plan.period < self.period:
            random += f"; asked for a period of {self.period}, but {holds}, and {len(drawable(model))} tokens can be drawn"
        return {"text": text, "random tokens": random, "sink score": f"T = {plan.sink_length} tokens, ε = {self.sink_threshold}"}

    def _plan(self, model: Transformer, corpus: Corpus) -> _Plan:
        length = min(self.length, model.config.n_ctx, len(corpus.tokens))
        period = min(self.period, model.config.n_ctx // 2, len(drawable(model)))
        return _Plan(length, min(self.n_chunks, len(corpus.tokens) // max(length, 1)), period, min(self.sink_length, length))

    def _on_text(self, model: Transformer, corpus: Corpus, plan: _Plan) -> Measured:
        if plan.length < SHORTEST:
            return nothing(list(TEXT), model)
        tokens = corpus.chunks(plan.n_chunks, plan.length).to(model.device)
        return on_text(model, tokens, batch_size=self.batch_size, sink_length=plan.sink_length, sink_threshold=self.sink_threshold)

    def _on_random(self, model: Transformer, plan: _Plan) -> Measured:
        if plan.period < SHORTEST:
            return nothing(list(RANDOM), model)
        tokens = repeated_tokens(drawable(model), self.n_sequences, plan.period, seed=self.seed).to(model.device)
        return on_random_tokens(model, tokens, batch_size=self.batch_size)

    def _described(self, tables: Tables) -> list[Evidence]:
        """What the claim counts: the best head of a kind, and how many pass its published threshold."""
        heads, found = tables["heads"].frame, []
        for column, what in JUDGED.items():
            if heads[column].notna().any():
                best = heads.loc[heads[column].idxmax()]
                found += [
                    Evidence(name=f"largest {what}", measured=float(best[column]), unit="1", where=figures.label_of(best)),
                    Evidence(
                        name=f"heads with a {what} above {self.threshold}",
                        measured=float((heads[column] > self.threshold).sum()),
                        unit="heads",
                        source="threshold of the ARENA and TransformerLens demos",
                    ),
                ]
        found.append(
            Evidence(
                name="Sink_1, share of heads with a sink at the first token",
                measured=float(heads.sink_share.mean()),
                unit="1",
                source=f"Gu et al. 2024, ε = {self.sink_threshold}",
            )
        )
        for column, what in (("entropy_normalised", "with the first token"), ("entropy_normalised_without_first", "without it")):
            found.append(Evidence(name=f"median normalised entropy of a head, {what}", measured=float(heads[column].median()), unit="1"))
        return found + [
            Evidence(name=f"loss on random tokens, {row.half} occurrence", measured=row.loss, unit="nats")
            for row in tables["repeats"].frame.itertuples(index=False)
        ]

    def _claim(self, heads: pd.DataFrame, state: str) -> str:
        parts = [state] if state else []
        if heads.previous_token.notna().any():
            count = {column: int((heads[column] > self.threshold).sum()) for column in JUDGED}
            previous, induction = (figures.best(heads, column) for column in ("previous_token", "induction_without_first"))
            kinds = f"{count['previous_token']} of {len(heads)} heads look at the previous token (best {previous}) and {count['induction_without_first']} are induction heads (best {induction})"
            parts.append(kinds)
        parts.append(f"{heads.sink_share.mean():.0%} sink into the first token")
        claim = "; ".join(parts)
        return claim[0].upper() + claim[1:] + "."  # counts and thresholds stand in the evidence


def _flagged(heads: pd.DataFrame) -> pd.DataFrame:
    """The most extreme head of each kind; a head that is extreme twice stands once, with both reasons."""
    reasons: dict[tuple[int, int], list[str]] = {}
    for column, why in ROLES.items():
        if heads[column].notna().any():
            row = heads.loc[heads[column].idxmax()]
            reasons.setdefault((int(row.layer), int(row["head"])), []).append(f"{why} {row[column]:.2f}")
    return pd.DataFrame(
        [{"label": f"L{layer}H{head}", "layer": layer, "index": head, "why": "; ".join(why)} for (layer, head), why in reasons.items()],
        columns=["label", "layer", "index", "why"],
    )


def _example(model: Transformer, corpus: Corpus) -> Int[Tensor, "1 pos"]:
    """The first prompt; where there is none, the beginning of the text."""
    device, most = model.device, min(EXAMPLE_TOKENS, model.config.n_ctx)
    if model.tokenizer is not None and corpus.prompts:
        return model.tokenize([corpus.prompts[0].prompt])[0][:, :most]
    return corpus.tokens[None, : min(24, most)].to(device) if len(corpus.tokens) else torch.zeros(1, 1, dtype=torch.long, device=device)


def _texts(model: Transformer, tokens: Int[Tensor, "1 pos"]) -> list[str]:
    return [str(int(i)) for i in tokens[0]] if model.tokenizer is None else model.tokenizer.to_str_tokens(tokens[0])


ANALYSIS = Attention
