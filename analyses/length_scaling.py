"""Length scaling: does more context lower the loss, and what does it cost?

Loss by position on running text; operations by formula; time and peak memory measured at growing lengths, with a fit that separates what grows
with n from what grows with n². The verdict rests on loss and operations, which come out the same every time; time and memory are shown beside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from analyses import _length_scaling_evidence as said
from analyses import _length_scaling_figures as figures
from analyses import _length_scaling_tables as tables_of
from analyses._anatomy import Model
from analyses._contract import Analysis, Tables
from analyses._corpus import Corpus
from analyses._length_scaling_measure import Bench, context_of, costs, lengths_of
from analyses._loss_by_context import losses_by_context, what_is_read
from model import EncoderDecoder
from reports import Figure, Verdict


@dataclass(frozen=True, kw_only=True)
class LengthScaling(Analysis):
    """Does more context lower the loss, and what does it cost?"""

    name: ClassVar[str] = "length-scaling"
    title: ClassVar[str] = "Length scaling"
    question: ClassVar[str] = "Does more context lower the loss, and what does it cost?"
    method: ClassVar[str] = (
        "Loss: cross-entropy of every next token on chunks of the text, averaged in bins of context length: the first token alone, 2 to 7, then doubling; 95 % bootstrap over chunks, differences between bins paired by chunk. An encoder-decoder's loss is that of its targets, by tokens of the target already read, as far as half of the targets reach; an encoder, which sees all positions at once, has none. Time and memory: "
        "one forward pass of one sequence without gradients that unembeds the last position only; source and target have the same length where there are two stacks. Time is CPU time of one thread, which other work on the machine hardly touches (on CUDA, wall time around a synchronisation), after one untimed pass of each length, "
        "in random order; the median, and a flag where the interquartile range exceeds 10 % (noisy) or 25 % (gross) of it (torch.utils.benchmark). Fit: c + a·n + b·n² with no negative coefficient, least squares of the relative "
        "error; 95 % bootstrap over repeats. Memory: most bytes of live tensors at once beyond weights and input, counted operation by operation; on CUDA the allocator's peak. Operations: a multiply-add counts 2, matrix "
        "products only, attention over all n² pairs as torch's FlopCounterMode counts it, and over the pairs that causality leaves, n(n+1)/2 in a decoder's self-attention."
    )
    limits: ClassVar[str] = (
        "Loss by position compares different tokens of the same chunks: that late tokens are easier would look like use of context. Time holds for this machine; with more than one thread, CPU time also counts threads that wait for each other, which a busy machine multiplies. Memory on a CPU does not see what a "
        "kernel uses inside, nor the allocator's waste. A fit of three coefficients to a few lengths says nothing about lengths outside them. A flat loss means that context does no harm, not that it is used. "
        "What a model wrote itself, greedily, it finds likely: the loss of such targets does not say how well it does. Windows of attention are not taken off the operations."
    )
    order: ClassVar[int] = 60
    timed: ClassVar[bool] = True

    n_chunks: int = 12
    """how many chunks of the text the loss is measured on"""
    length: int = 512
    """tokens per chunk; shortened to the context, and to the text where it does not fill two chunks"""
    shortest: int = 32
    """first length that is timed; each next one is twice as long"""
    longest: int = 1024
    """no timed length is longer; shortened to the context"""
    repeats: int = 5
    """timed passes of each length"""
    threads: int = 1
    """threads of a timed pass on a CPU"""

    def __post_init__(self) -> None:
        for field, least in (("n_chunks", 1), ("length", 2), ("shortest", 1), ("longest", self.shortest), ("repeats", 4), ("threads", 1)):
            if getattr(self, field) < least:
                raise ValueError(
                    f"{field} must be at least {least}{' (shortest)' if field == 'longest' else ''}, got {getattr(self, field)}"
                )

    def measure(self, model: Model, corpus: Corpus) -> Tables:
        lengths = lengths_of(model, self.shortest, self.longest)
        read = what_is_read(model, corpus, self.n_chunks, self.length)
        with torch.no_grad():
            losses = losses_by_context(model, read)
            memory, times = costs(model, corpus, lengths, Bench(repeats=self.repeats, threads=self.threads, seed=self.seed))
        return {
            "model": tables_of.model_table(model, read.loss_of),
            **tables_of.loss_tables(losses, self.seed),
            "operations": tables_of.operations_table(model, lengths),
            **tables_of.cost_tables(memory, times, self.seed),
        }

    def judge(self, tables: Tables) -> Verdict:
        return said.verdict(tables)

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        return figures.draw(tables)

    def notes(self, model: Model, corpus: Corpus) -> Mapping[str, str]:
        lengths, device = lengths_of(model, self.shortest, self.longest), model.device
        clock = f"wall time on {device}" if device.type == "cuda" else f"CPU time of {self.threads} thread{'s' * (self.threads > 1)}"
        both = " of source and of target each" if isinstance(model, EncoderDecoder) else ""
        return {
            "text": self._text(model, corpus),
            "lengths": f"{', '.join(map(str, lengths))} tokens{both} (asked for: up to {self.longest})"
            if lengths
            else f"none: the context of {context_of(model)} tokens is shorter than {self.shortest}",
            "time": f"{clock}, {self.repeats} passes of each length",
        }

    def _text(self, model: Model, corpus: Corpus) -> str:
        read = what_is_read(model, corpus, self.n_chunks, self.length)
        if read.loss_of == "nothing":
            return f"no loss is measured: {said.NO_LOSS['none' if isinstance(model, EncoderDecoder) else model.config.head]}"
        if not read.inputs:
            return "no chunk: the text is too short"
        if read.loss_of == "text":
            return f"{len(read.inputs)} chunks of {read.lengths[0]} tokens (asked for: {self.n_chunks} of {self.length})"
        source = "given" if read.loss_of == "given targets" else "written by the model itself"
        return f"{len(read.inputs)} targets of {min(read.lengths)} to {max(read.lengths)} tokens, {source}"


ANALYSIS = LengthScaling
