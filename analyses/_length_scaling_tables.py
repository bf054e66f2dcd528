"""Which tables hold cost against length, and what do their columns mean?"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analyses._anatomy import Model
from analyses._contract import table
from analyses._length_scaling_measure import fits, operations, summary
from analyses._loss_by_context import (
    LossOf,
    bins_of,
    differences_by_context,
    loss_by_context,
)
from model import EncoderDecoder
from reports import Table

LENGTH = ("tokens", "sequence length; of source and of target where there are two stacks")


def model_table(model: Model, loss_of: LossOf) -> Table:
    """Which kind of model was measured, and what its loss is of."""
    two = isinstance(model, EncoderDecoder)
    config = model.config.decoder if two else model.config
    kind = "encoder-decoder" if two else "decoder" if config.causal else "encoder"
    return table(
        pd.DataFrame([{"kind": kind, "head": config.head, "loss_of": loss_of}]),
        "What was measured.",
        kind=("", "decoder, encoder, or both"),
        head=("", "lm predicts the next token, mlm masked ones, none nothing"),
        loss_of=("", "the running text, targets that were given, targets that the model wrote itself, or nothing"),
    )


def loss_tables(losses: np.ndarray, seed: int) -> dict[str, Table]:
    """The loss in bins of context length, and the longest contexts against the others."""
    bins = bins_of(losses.shape[1])
    return {
        "loss": table(
            loss_by_context(losses, bins, seed),
            "Loss by length of context.",
            first=("tokens", "shortest context of the bin"),
            last=("tokens", "longest context of the bin"),
            loss=("nats per token", "mean cross-entropy of the next token"),
            low=("nats per token", "lower end of the 95 % interval"),
            high=("nats per token", "upper end"),
            n=("chunks", "chunks of text, or targets that are as long"),
        ),
        "differences": table(
            differences_by_context(losses, bins, seed),
            "Loss of the longest contexts against others, paired by chunk.",
            against=("", "bin of context that is subtracted"),
            difference=("nats per token", "longest bin − that bin"),
            low=("nats per token", "lower end of the 95 % interval"),
            high=("nats per token", "upper end"),
            n=("chunks", "chunks of text, or targets that have both"),
        ),
    }


def operations_table(model: Model, lengths: list[int]) -> Table:
    """Operations by formula."""
    return table(
        operations(model, lengths),
        "Floating-point operations of one forward pass (a multiply-add is 2).",
        length=LENGTH,
        linear=("FLOP", "projections and MLP"),
        attention=("FLOP", "attention over all pairs"),
        attention_visible=("FLOP", "attention over the pairs that causality leaves"),
        unembedding=("FLOP", "one position only, 0 without a head"),
        total=("FLOP", "linear + attention + unembedding"),
        share=("1", "attention / total"),
        crossover=("tokens", "length where attention equals the linear part"),
        crossover_visible=("tokens", "the same over visible pairs"),
    )


def cost_tables(memory: pd.DataFrame, times: pd.DataFrame, seed: int) -> dict[str, Table]:
    """Measured time and memory, and their fits."""
    return {
        "time": table(
            summary(times),
            "Time of one forward pass.",
            measurement=True,
            length=LENGTH,
            seconds=("s", "median"),
            q25=("s", "first quartile"),
            q75=("s", "third quartile"),
            spread=("1", "interquartile range / median"),
            quality=("", "ok, noisy above 0.1, gross above 0.25"),
            slope=("1", "Δ ln time / Δ ln length from the length before"),
            n=("passes", "repeats"),
        ),
        "passes": table(
            times,
            "Every timed pass, in the order in which they ran.",
            measurement=True,
            length=LENGTH,
            seconds=("s", "time of one pass"),
            load=("processes", "load average of the machine at that time, missing where it has none"),
        ),
        "memory": table(
            memory,
            "Peak of live tensors in one forward pass.",
            measurement=True, length=LENGTH, bytes=("bytes", "beyond weights and input"),
        ),
        "fits": table(
            fits(times, memory, seed),
            "cost(n) = c + a·n + b·n² with no negative coefficient.",
            measurement=True,
            cost=("", "time in s or memory in bytes"),
            coefficient=("", "c, a, b, or the crossover a / b in tokens"),
            value=("s or bytes, per token, per token²; tokens", "best fit"),
            low=("as the value", "lower end of the 95 % interval, missing without repeats"),
            high=("as the value", "upper end; infinite where b may be 0"),
        ),
    }
