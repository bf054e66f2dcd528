"""Residual stream: how large is it, what does every block add, and when does it hold the answer?

The stream after every block is measured token by token on running text: its norm, the norm of what attention and MLP add,
the cosine between successive states, the share of its largest coordinates, massive activations (Sun et al. 2024), the scale
of every norm layer, and the next-token distribution that the final norm and unembedding read off it (logit lens,
nostalgebraist 2020). Every statistic over positions is given for all of them and without the sink positions: the first token
of a text, and those whose norm exceeds ten times the median of their text after any block. Assumes a pre-norm decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from analyses import _residual_figures as figures
from analyses import _residual_measure as measured
from analyses import _residual_tables as tables_of
from analyses._contract import Analysis, Tables, table
from analyses._corpus import Corpus
from model import Transformer
from reports import Evidence, Figure, Verdict

SHORTEST = 4
"""tokens: in a shorter text a median over positions says nothing"""
PROMPT_TOKENS = 24
"""the logit lens of the example shows at most this many tokens"""


@dataclass(frozen=True, kw_only=True)
class ResidualStream(Analysis):
    """How large is the residual stream, what does every block add, and when does it hold the answer?"""

    name: ClassVar[str] = "residual-stream"
    title: ClassVar[str] = "Residual stream"
    question: ClassVar[str] = "How large is the residual stream, what does every block add, and when does it hold the answer?"
    method: ClassVar[str] = (
        "The stream x_l after l blocks, token by token, on chunks of the running text. Additions: ‖attn_out‖/‖resid_pre‖, ‖mlp_out‖/‖resid_mid‖. Influence of a block: "
        "1 − cos(x_l, x_{l+1}) (Men et al. 2024, ShortGPT). Growth: least squares of mean ln ‖x_l‖ on l, for l ≥ 1, against a power law and √l (Heimersheim & Turner 2023). "
        "Massive activations: |x| > 100 and at least 1000 times the median magnitude over all tokens and coordinates of the text after that block (Sun et al. 2024). "
        "Largest coordinates: the share of a token's ‖x‖² in its 1, 3 and 10 largest. Logit lens: softmax(W_U · ln_final(x_l)), compared with the final distribution by KL(final ‖ lens) "
        "and by agreement of the top token. Sink positions: the first token, and those whose norm exceeds ten times the median of their text after any block. Bands: 5–95 % of tokens."
    )
    limits: ClassVar[str] = (
        "A large norm is not a large effect: every block reads the stream through a norm. A large divergence of the logit lens in early layers is mostly a matter of basis, not of "
        "missing knowledge: a tuned lens would tell them apart. Whether a massive activation matters is not shown here; only an intervention shows that. Nothing is prepended to the text."
    )
    order: ClassVar[int] = 20

    n_chunks: int = 8
    """how many chunks of the text are read"""
    length: int = 128
    """tokens per chunk; shortened to the context"""
    n_lens_chunks: int = 2
    """how many of these chunks the logit lens reads: it unembeds every token after every block"""
    sink_factor: float = 10.0
    """norm over the median norm of its text above which a position counts as a sink position"""
    batch_size: int = 4
    """chunks per forward pass: bounds the memory"""

    def __post_init__(self) -> None:
        for name, least in (("n_chunks", 1), ("length", SHORTEST), ("n_lens_chunks", 1), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not self.sink_factor > 1:
            raise ValueError(f"sink_factor must be greater than 1, got {self.sink_factor}")

    def measure(self, model: Transformer, corpus: Corpus) -> Tables:
        n_chunks, length = self._size(model, corpus)
        if length < SHORTEST:
            return {"gates": tables_of.gates_table(pd.DataFrame(columns=["gate", "layer", "measured", "bound"]))}
        tokens = corpus.chunks(n_chunks, length).to(model.device)
        with torch.no_grad():
            stream = measured.measure_stream(model, tokens, batch_size=self.batch_size, sink_factor=self.sink_factor)
            chosen = slice(min(self.n_lens_chunks, n_chunks))
            lens = measured.lens_frame(model, tokens[chosen], stream.sinks[chosen])
            example = measured.lens_prompt_frame(model, _example(model, corpus))
        states = measured.states_frame(stream)
        return {
            "gates": tables_of.gates_table(_gates(stream, model.dtype)),
            "states": tables_of.states_table(states),
            "blocks": tables_of.blocks_table(measured.blocks_frame(stream)),
            "growth": tables_of.growth_table(measured.growth_frame(states)),
            "massive": tables_of.massive_table(measured.massive_frame(stream), n_chunks, len(stream.norm)),
            "lens": tables_of.lens_table(lens),
            "lens_example": tables_of.lens_example_table(example),
            "norms": tables_of.norms_table(measured.norms_frame(model, stream)),
            "positions": table(
                measured.positions_frame(stream),
                f"The norm by position, median over {n_chunks} texts.",
                state=tables_of.STATE,
                position=("", "position in the text"),
                norm=("1", "L2 norm, median over texts"),
                n_sinks=("texts", "texts in which this is a sink position"),
            ),
        }

    def judge(self, tables: Tables) -> Verdict:
        gates = tables["gates"].frame
        if gates.empty:
            return Verdict(
                status="inconclusive", claim=f"Nothing was measured: the text or the context holds fewer than {SHORTEST} tokens."
            )
        if gates.measured.isna().any():
            layer = int(gates[gates.measured.isna()].layer.iloc[0])
            return Verdict(status="fail", claim=f"The residual stream holds values that are not numbers, first after block {layer}.")
        worst = gates.loc[gates.measured.idxmax()]
        evidence = (
            Evidence(
                name="‖resid_post − (resid_pre + attn_out + mlp_out)‖ over the sum of their norms",
                measured=worst.measured,
                unit="1",
                threshold=worst.bound,
                relation="<=",
                where=f"block {worst.layer}",
                source="definition of a pre-norm block; the bound is rounding",
            ),
        )
        if worst.measured > worst.bound:
            return Verdict(
                status="fail",
                claim=f"The residual stream is not the sum of its parts: block {worst.layer} is off by {worst.measured:.2g}, of which rounding explains {worst.bound:.0e}.",
                evidence=evidence,
            )
        massive = tables["massive"].frame
        return Verdict(
            status="pass" if massive.empty else "warn",
            claim=f"{self._massive_claim(tables)} {self._course_claim(tables)}",
            evidence=(*evidence, *self._described(tables)),
            why=""
            if massive.empty
            else "Statistics that include such a position describe one scalar, not the text; low-precision formats and ablation by zero change it most.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return () if tables["gates"].frame.empty or tables["gates"].frame.measured.isna().any() else figures.draw(tables)

    def notes(self, model: Transformer, corpus: Corpus) -> Mapping[str, str]:
        n_chunks, length = self._size(model, corpus)
        if length < SHORTEST:
            return {"text": f"none: the text has {len(corpus.tokens)} tokens, the context holds {model.config.n_ctx}"}
        shorter = (
            f"; asked for {self.length}, but the context holds {model.config.n_ctx} and the text has {len(corpus.tokens)}"
            if length < self.length
            else ""
        )
        return {
            "text": f"{n_chunks} chunks of {length} tokens, nothing prepended{shorter}",
            "logit lens": f"the first {min(self.n_lens_chunks, n_chunks)} of these chunks",
            "example": "".join(measured.texts(model, _example(model, corpus)[0])),
        }

    def _size(self, model: Transformer, corpus: Corpus) -> tuple[int, int]:
        """How many chunks of how many tokens there are."""
        length = min(self.length, model.config.n_ctx, len(corpus.tokens))
        return min(self.n_chunks, len(corpus.tokens) // max(length, 1)), length

    def _massive_claim(self, tables: Tables) -> str:
        massive = tables["massive"].frame
        if massive.empty:
            return "No activation is massive."
        top = massive.iloc[0]
        more = f" (and {len(massive) - 1} more)" if len(massive) > 1 else ""
        blocks = f"after {int(top.first_state)} to {int(top.last_state)} of {int(tables['states'].frame.state.max())} blocks"
        return f"One scalar is massive: dimension {int(top.dimension)} at position {int(top.position)} is about {top.value_median:,.0f} {blocks}{more}."

    def _course_claim(self, tables: Tables) -> str:
        growth = _version(tables["growth"].frame).iloc[0]
        lens = _version(tables["lens"].frame)
        half = lens[lens.agreement >= 0.5].state.min()
        grows = f"the norm changes by {growth.rate - 1:+.0%} per block and " if np.isfinite(growth.rate) else ""
        return f"Away from the sink positions {grows}the logit lens names half of the answers after {int(half)} of {int(lens.state.max())} blocks."

    def _described(self, tables: Tables) -> list[Evidence]:
        """The numbers of the claim; none of them is held against a threshold but the definition of a massive activation."""
        massive, blocks, lens = tables["massive"].frame, tables["blocks"].frame, _version(tables["lens"].frame)
        sources = "Sun et al. 2024: |x| > 100 and at least 1000 × the median magnitude of its hidden state"
        found = [
            Evidence(
                name="massive activation over the median magnitude",
                measured=float(row.ratio),
                unit="1",
                threshold=1000.0,
                relation="<",
                source=sources,
                where=f"dimension {row.dimension}, position {row.position}, in {row.n_texts} texts",
            )
            for row in massive.head(3).itertuples(index=False)
        ]
        growth = tables["growth"].frame
        for row in growth[growth.positions != measured.SINKS].dropna(subset=["rate"]).itertuples(index=False):
            found += [
                Evidence(
                    name=f"growth of the norm per block, positions: {row.positions}",
                    measured=float(row.rate),
                    unit="1",
                    source="Heimersheim & Turner 2023 report 1.045 for GPT-2 XL",
                ),
                Evidence(name=f"R² of exponential growth, positions: {row.positions}", measured=float(row.r2_exponential), unit="1"),
                Evidence(name=f"R² of a power law, positions: {row.positions}", measured=float(row.r2_power), unit="1"),
            ]
        without = _version(blocks).dropna(subset=["influence"])
        for name, row in (
            (("most", without.loc[without.influence.idxmax()]), ("least", without.loc[without.influence.idxmin()])) if len(without) else ()
        ):
            found.append(
                Evidence(
                    name=f"{name} influential block, 1 − cos(x_l, x_l+1)",
                    measured=float(row.influence),
                    unit="1",
                    where=f"block {row.layer}",
                )
            )
        middle = lens[lens.state == lens.state.max() // 2].dropna(subset=["kl_mean"])
        return found + [
            Evidence(
                name="KL of the logit lens from the answer, half way",
                measured=float(row.kl_mean),
                unit="nats",
                where=f"after {row.state} blocks",
            )
            for row in middle.itertuples(index=False)
        ]


def _version(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows without sink positions; all of them where nothing else is left."""
    without = frame[frame.positions == measured.WITHOUT_SINKS]
    return without if without.drop(columns="positions").notna().all(axis=1).any() else frame[frame.positions == measured.ALL]


def _example(model: Transformer, corpus: Corpus) -> Int[Tensor, "1 pos"]:
    """The first prompt; where there is none, the beginning of the text."""
    most = min(PROMPT_TOKENS, model.config.n_ctx)
    if model.tokenizer is not None and corpus.prompts:
        return model.tokenize([corpus.prompts[0].prompt])[0][:, :most]
    return corpus.tokens[None, :most].to(model.device)


def _gates(stream: measured.Stream, dtype: torch.dtype) -> pd.DataFrame:
    """Two additions round by half a unit of the last place each."""
    worst = stream.rounding.reshape(len(stream.rounding), -1).max(-1)
    bound = max(1e-6, 4 * torch.finfo(dtype).eps)
    return pd.DataFrame({"gate": "additivity", "layer": np.arange(len(worst)), "measured": worst, "bound": bound})


ANALYSIS = ResidualStream
