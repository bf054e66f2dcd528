"""Residual stream: how large is it, what does every block add, and when does it hold the answer?

The stream after every block is measured token by token on running text: its norm, the norm of what attention and MLP add,
the cosine between successive states, the share of its largest coordinates, massive activations (Sun et al. 2024), the scale
of every norm layer, and the distribution over tokens that the final norm and the head read off it (logit lens, nostalgebraist
2020), or where there is no head how close its average is to the final one. Every statistic over positions is given for all of
them and without the sink positions: the first token of a text, and those whose norm exceeds ten times the median of their
text after any block. Padding never counts. Each stack of a model is measured on its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch

from analyses import _residual_claims as said
from analyses import _residual_figures as figures
from analyses import _residual_frames as frames
from analyses import _residual_inputs as read
from analyses import _residual_lens as lens
from analyses import _residual_lens_choices as choose
from analyses import _residual_tables as tables_of
from analyses._anatomy import Inputs, Model, Side
from analyses._contract import Analysis, Tables
from analyses._corpus import Corpus
from analyses._residual_attribution import contribution_frames
from analyses._residual_inputs import SHORTEST
from analyses._residual_measure import Stream, measure_stream
from reports import Figure, Table, Verdict


@dataclass(frozen=True, kw_only=True)
class ResidualStream(Analysis):
    """How large is the residual stream, what does every block add, and when does it hold the answer?"""

    name: ClassVar[str] = "residual-stream"
    title: ClassVar[str] = "Residual stream"
    question: ClassVar[str] = "How large is the residual stream, what does every block add, and when does it hold the answer?"
    method: ClassVar[str] = (
        "The stream x_l after l blocks, token by token, on chunks of the running text; two stacks read sources and targets, padding never counts. Additions: ‖attn_out‖/‖resid_pre‖, ‖mlp_out‖/‖resid_mid‖, each over the state that it is added to. Influence of a block: "
        "1 − cos(x_l, x_{l+1}) (Men et al. 2024, ShortGPT). Growth: least squares of mean ln ‖x_l‖ on l, for l ≥ 1, against a power law and √l (Heimersheim & Turner 2023). "
        "Massive activations: |x| > 100 and at least 1000 times the median magnitude over all tokens and coordinates of the text after that block (Sun et al. 2024). "
        "Largest coordinates: the share of a token's ‖x‖² in its 1, 3 and 10 largest. Logit lens: softmax(W_U · ln_final(x_l)), compared with the final distribution by KL(final ‖ lens) "
        "and by agreement of the top token; a masked-LM head is read at masked tokens; where no head reads a stack, its states are averaged over tokens and compared with the final average by their cosine. Direct logit attribution: what embedding, attention and feed-forward network of each layer write, through the final norm with its scale as it is, on the difference of two logits (Elhage et al. 2021; Wang et al. 2023). Sink positions: the first token, and those whose norm exceeds ten times the median of their text after any block. Bands: 5–95 % of tokens."
    )
    limits: ClassVar[str] = (
        "A large norm is not a large effect: every block reads the stream through a norm. A large divergence of the logit lens in early layers is mostly a matter of basis, not of "
        "missing knowledge: a tuned lens would tell them apart. Whether a massive activation matters is not shown here; only an intervention shows that. Nothing is prepended to a decoder's text. "
        "In a post-norm stack the norm of a state is what its norm layer makes it, and the lens reads states in the middle as if they were the last. A direct contribution leaves out what later layers make of it."
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

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        inputs = read.read(model, corpus, self.n_chunks, self.length)
        if inputs is None:
            return {"gates": tables_of.gates_table(pd.DataFrame(columns=tables_of.GATES))}
        with torch.no_grad():
            streams = [
                (side, measure_stream(model, side, inputs, batch_size=self.batch_size, sink_factor=self.sink_factor))
                for side in read.readable(model, inputs)
            ]
            return _stream_tables(model, streams) | self._lens_tables(model, corpus, inputs, streams)

    def judge(self, tables: Tables) -> Verdict:
        gates = tables["gates"].frame
        if gates.empty:
            return Verdict(
                status="inconclusive", claim=f"Nothing was measured: the text or the context holds fewer than {SHORTEST} tokens."
            )
        if gates.measured.isna().any():
            where = said.place(gates[gates.measured.isna()].iloc[0], tables)
            return Verdict(status="fail", claim=f"The residual stream holds values that are not numbers, first after {where}.")
        worst = gates.loc[gates.measured.idxmax()]
        evidence = (said.gate(worst, tables),)
        if worst.measured > worst.bound:
            return Verdict(
                status="fail",
                claim=f"The residual stream is not {'the sum of its parts' if worst.gate == 'additivity' else 'what defines it'}: {said.place(worst, tables)} is off by {worst.measured:.2g}, of which rounding explains {worst.bound:.0e}.",
                evidence=evidence,
            )
        massive = tables["massive"].frame
        return Verdict(
            status="pass" if massive.empty else "warn",
            claim=said.claim(tables),
            evidence=(*evidence, *said.evidence(tables)),
            why=""
            if massive.empty
            else "Statistics that include such a position describe one scalar, not the text; low-precision formats and ablation by zero change it most.",
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return () if tables["gates"].frame.empty or tables["gates"].frame.measured.isna().any() else figures.draw(tables)

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        inputs = read.read(model, corpus, self.n_chunks, self.length)
        return read.notes(model, corpus, inputs, asked=self.length, n_lens=self.n_lens_chunks, seed=self.seed)

    def _lens_tables(self, model: Model, corpus: Corpus, inputs: Inputs, streams: list[tuple[Side, Stream]]) -> dict[str, Table]:
        """The logit lens where a head reads a stack, and how near the pooled states are to the final ones where none does."""
        found: dict[str, Table] = {}
        headless = [(side, stream) for side, stream in streams if side.config.head == "none"]
        if headless:
            found["pooled"] = tables_of.pooled_table(_joined(headless, lambda side, stream: frames.pooled_frame(stream)))
        if not (headed := [(side, stream) for side, stream in streams if side.config.head != "none"]):
            return found
        few = tuple(None if part is None else part[: self.n_lens_chunks] for part in inputs)
        few, chosen = read.lens_inputs(model, corpus, few, length=self.length, seed=self.seed)
        shown = read.example(model, corpus, seed=self.seed)
        answers = _joined(headed, lambda side, stream: lens.lens_frame(model, few, chosen, stream.sinks[: self.n_lens_chunks]))
        example = _joined(headed, lambda side, stream: lens.lens_example_frame(model, shown))
        return (
            found
            | {"lens": tables_of.lens_table(answers), "lens_example": tables_of.lens_example_table(example)}
            | _answer_tables(model, corpus, shown, headed, self.seed)
        )


def _stream_tables(model: Model, streams: list[tuple[Side, Stream]]) -> dict[str, Table]:
    """Everything that is summed up from the states alone."""
    n_texts, n_states = len(streams[0][1].real), max(len(stream.norm) for _, stream in streams)
    states = _joined(streams, lambda side, stream: frames.states_frame(stream))
    growth = _joined(streams, lambda side, stream: frames.growth_frame(side, frames.states_frame(stream)))
    blocks = _joined(streams, lambda side, stream: frames.blocks_frame(stream))
    if not any(side.name == "decoder" for side, _ in streams):
        blocks = blocks.drop(columns=[name for name in blocks if name.startswith("cross_")])
    norms = _joined(streams, lambda side, stream: frames.norms_frame(model, side, stream))
    found = {
        "gates": tables_of.gates_table(_joined(streams, lambda side, stream: frames.gates_frame(side, stream, model.dtype))),
        "stacks": tables_of.stacks_table(_joined(streams, lambda side, stream: frames.stack_frame(side, stream))),
        "states": tables_of.states_table(states),
        "blocks": tables_of.blocks_table(blocks),
        "growth": tables_of.growth_table(growth),
        "massive": tables_of.massive_table(_joined(streams, lambda side, stream: frames.massive_frame(stream)), n_texts, n_states),
        "positions": tables_of.positions_table(_joined(streams, lambda side, stream: frames.positions_frame(stream)), n_texts),
    }
    return found | ({"norms": tables_of.norms_table(norms)} if "norm" in norms else {})


def _answer_tables(model: Model, corpus: Corpus, shown: Inputs, headed: list[tuple[Side, Stream]], seed: int) -> dict[str, Table]:
    """What every state names at the example, where the right answer stands, and who writes it."""
    choices, ranks = choose.lens_choices(model, shown, choose.targets_of(model, corpus, shown))
    for frame in (choices, ranks):
        frame.insert(0, "stack", frames.stack_name(headed[-1][0]))
    found = {"lens_choices": tables_of.lens_choices_table(choices)}
    found |= {"lens_targets": tables_of.lens_targets_table(ranks)} if len(ranks) else {}
    if (written := contribution_frames(model, corpus, seed=seed)) is not None:
        found |= {"contributions": tables_of.contributions_table(written[0]), "contributions_answer": tables_of.answer_table(written[1])}
    return found


def _joined(streams: list[tuple[Side, Stream]], frame_of: Callable[[Side, Stream], pd.DataFrame]) -> pd.DataFrame:
    """The frames of all stacks below one another, with the stack in the first column."""
    parts = [frame_of(side, stream) for side, stream in streams]
    for (side, _), part in zip(streams, parts, strict=True):
        part.insert(0, "stack", frames.stack_name(side))
    filled = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(filled, ignore_index=True)


ANALYSIS = ResidualStream
