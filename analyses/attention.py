"""Attention patterns: what does every head look at, and how sharply?

Every pattern is computed on text, one block at a time through all stacks, and reduced to numbers per head: entropy, mass on the
first token, mean distance, mass on the previous token; where later tokens are seen also mass on the last and the next token; in
cross-attention how monotonically the source is followed. A causal language model is read once more on random tokens that repeat
with a fixed period: induction, duplicate-token and prefix-matching scores. Definitions and sources:
`probes.statistics.attention_scores`. Scores that an attention sink distorts are given twice: as they are, and with the sink taken
out and the rest renormalised. The sink is the first token; where later tokens are seen, the first and the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from analyses import _attention_evidence as said
from analyses import _attention_figures as figures
from analyses import _attention_inputs as inputs
from analyses import _attention_tables as tables_of
from analyses._anatomy import Model, attentions
from analyses._attention_inputs import SHORTEST
from analyses._attention_recording import Measured, on_random_tokens, on_text
from analyses._attention_scores import Thresholds, flagged, heads_of
from analyses._attention_thumbnails import maps_of
from analyses._contract import Analysis, Tables
from analyses._corpus import Corpus
from model import EncoderDecoder, Transformer
from probes.inputs import written
from reports import Figure, Verdict


@dataclass(frozen=True, kw_only=True)
class Attention(Analysis):
    """What does every head look at, and how sharply?"""

    name: ClassVar[str] = "attention"
    title: ClassVar[str] = "Attention patterns"
    question: ClassVar[str] = "What does every head look at, and how sharply?"
    method: ClassVar[str] = (
        "Patterns of all heads on text, block by block: chunks of the running text (in an encoder between the tokens of its template), or pairs of source and target. "
        "Entropy H_i = −Σ_j α_ij ln α_ij, normalised by ln(number of visible keys), over rows with at least two. Sink score α_1 = 1/T Σ_i A_i1 over the first T tokens, "
        "a sink where α_1 > ε (Gu et al. 2024). Distance Σ α_ij |i−j| / Σ α_ij (Vig & Belinkov 2019). Previous token: mean A_{i,i−1}; next token: mean A_{i,i+1}. "
        "A causal language model also reads random tokens repeated once; on their second half, with period P: induction, mean A_{i,i−P+1}; duplicate token, mean A_{i,i−P}; "
        "prefix matching, mean mass on tokens that followed an earlier occurrence, found by token identity (Olsson et al. 2022). Cross-attention: monotonicity, the "
        "correlation of target and source position with every pair weighted by α_ij; diagonal share, target tokens whose largest mass lies within one token of a constant "
        "pace through the source (both conventions of this analysis). “Without the first token” means α_ij / (1 − α_i0) over the other keys; where later tokens are "
        "seen, the last one is taken out as well ([SEP], Clark et al. 2019). Intervals: 95 % bootstrap over sequences."
    )
    limits: ClassVar[str] = (
        "Whether a head matters is not seen in what it looks at: ablation decides. Scores are means over positions and "
        "sequences, so that a head that works in rare places looks idle. Nothing is prepended to a decoder's text: the first token is the first word of a chunk, "
        "not a beginning-of-sequence token. Mass is not weighted by the size of the values. A target that the model wrote itself shows how it writes, "
        "not how it reads what others wrote."
    )
    order: ClassVar[int] = 10

    n_chunks: int = 8
    """how many chunks of the text, or pairs of source and target, are read"""
    length: int = 128
    """tokens per chunk; shortened to the context"""
    n_sequences: int = 8
    """how many sequences of repeated random tokens are read"""
    period: int = 32
    """random tokens before they repeat; shortened to half the context"""
    threshold: float = 0.4
    """mean mass above which a head is called a previous-token, next-token, induction or duplicate-token head (ARENA and TransformerLens demos)"""
    sink_threshold: float = 0.3
    """ε: mass above which the first token is a sink (Gu et al. 2024), and above which a head rests on the first or last token"""
    sink_length: int = 64
    """T: tokens over which the sink score is taken (Gu et al. 2024)"""
    monotone_threshold: float = 0.8
    """correlation of target and source position above which a head of cross-attention follows the source: a convention"""
    batch_size: int = 8
    """sequences per forward pass: bounds the memory"""

    def __post_init__(self) -> None:
        least_of = {"n_chunks": 1, "length": SHORTEST, "n_sequences": 1, "period": SHORTEST, "sink_length": 1, "batch_size": 1}
        for name, least in least_of.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("threshold", "sink_threshold", "monotone_threshold"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie between 0 and 1, got {getattr(self, name)}")

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        with torch.no_grad():
            read = inputs.text(model, corpus, n=self.n_chunks, length=self.length)
            sink_length = self.sink_length if read is None else min(self.sink_length, written(read)[0].shape[1])
            text = on_text(model, read, batch_size=self.batch_size, sink_length=sink_length, sink_threshold=self.sink_threshold)
            random, losses = self._on_random(model) if inputs.repeats(model) else (None, {})
            heads = self._heads(text, random)
            chosen = pd.concat([flagged(heads, kind) for kind in attentions(model)], ignore_index=True)
            example = inputs.example(model, corpus, read)
            maps = maps_of(model, example, heads)
        tables = {
            "attentions": tables_of.attentions_table(text),
            "heads": tables_of.heads_table(heads),
            "layers": tables_of.layers_table(text),
            "gates": tables_of.gates_table([*text, *([] if random is None else [random])], _dtype(model)),
            "flagged": tables_of.flagged_table(chosen),
            "patterns": maps,
            "tokens": tables_of.tokens_table(inputs.example_tokens(model, example)),
        }
        return tables if random is None else tables | {"repeats": tables_of.repeats_table(losses)}

    def judge(self, tables: Tables) -> Verdict:
        return said.verdict(tables, self._thresholds())

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return () if tables["gates"].frame["measured"].isna().any() else figures.draw(tables, self._thresholds())

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        sink = f"ε = {self.sink_threshold}"
        if isinstance(model, EncoderDecoder):
            return {"text": self._pairs_note(corpus), "sink score": f"T = at most {self.sink_length} tokens, {sink}"}
        plan, holds = self._sizes(model, corpus), f"the context holds {model.config.n_ctx}"
        added = "nothing prepended" if not plan.framed else f"{plan.framed} of them from the tokenizer's template"
        text = f"{plan.n_chunks} chunks of {plan.length} tokens, {added}" if plan.enough else f"none of {SHORTEST} tokens"
        if plan.length < self.length:
            text += f"; asked for {self.length}, but {holds} and the text has {len(corpus.tokens)}"
        if not inputs.repeats(model):
            return {"text": text, "sink": f"a head rests on a token with more than {sink} of its mass"}
        drawn = f"{self.n_sequences} sequences of 2 × {plan.period} tokens, special tokens excluded"
        random = drawn if plan.period >= SHORTEST else f"none with a period of {SHORTEST} tokens"
        if plan.period < self.period:
            random += f"; asked for a period of {self.period}, but {holds}, and {len(inputs.drawable(model))} tokens can be drawn"
        return {"text": text, "random tokens": random, "sink score": f"T = {min(self.sink_length, plan.length)} tokens, {sink}"}

    def _pairs_note(self, corpus: Corpus) -> str:
        whose = "the prompts" if corpus.prompts else "the lines of the text"
        given = bool(corpus.prompts) and all(prompt.target is not None for prompt in corpus.prompts[: self.n_chunks])
        return (
            f"the first {self.n_chunks} of {whose} as sources, with targets that {'are given' if given else 'the model writes, greedily'}"
        )

    def _sizes(self, model: Transformer, corpus: Corpus) -> inputs.Sizes:
        return inputs.sizes(model, corpus, n_chunks=self.n_chunks, length=self.length, period=self.period)

    def _thresholds(self) -> Thresholds:
        return Thresholds(mass=self.threshold, sink=self.sink_threshold, monotone=self.monotone_threshold)

    def _on_random(self, model: Transformer) -> tuple[Measured, dict[str, tuple[float, int]]]:
        ids = inputs.drawable(model)
        period = min(self.period, model.config.n_ctx // 2, len(ids))
        tokens = None if period < SHORTEST else inputs.repeated_tokens(ids, self.n_sequences, period, seed=self.seed).to(model.device)
        return on_random_tokens(model, tokens, batch_size=self.batch_size)

    def _heads(self, text: list[Measured], random: Measured | None) -> pd.DataFrame:
        scores = [one.scores | ({} if random is None else random.scores) for one in text]
        return pd.concat([heads_of(one.kind, own, seed=self.seed) for one, own in zip(text, scores, strict=True)], ignore_index=True)


def _dtype(model: Model) -> torch.dtype:
    return (model.decoder if isinstance(model, EncoderDecoder) else model).dtype


ANALYSIS = Attention
