"""Where is the parallelism of a Transformer, where is it not, and does a single processor gain from it?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._passes import DEPENDS, learning, measured, ratios, rivals, spread, timed, times_table
from analyses.studies._recurrent import operations_per_token
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig, generate
from model.context import KeyValueCache
from probes.product_chain import product_chain, recurrence_in_the_open
from reports import Bars, Figure, Lines, Series, Table

N_READ, N_NEW = 128, 16
"""tokens of the passes that are timed; tokens that are generated"""
LENGTHS = (8, 16, 32, 64)
LONG, BATCH = 512, 2
"""of the comparison with an LSTM"""
SHORT = 32
"""tokens of the other one, where attention has next to nothing to do"""


@dataclass(frozen=True, kw_only=True)
class Parallelism(Study):
    number: ClassVar[int] = 17
    name: ClassVar[str] = "parallelism"
    timed: ClassVar[bool] = True
    """its verdict rests on times"""
    question: ClassVar[str] = "Where is the parallelism of a Transformer?"
    popular: ClassVar[str] = (
        "Self-attention handles all positions at once: the encoder is fully parallel, while the decoder generates one token after another; so a "
        "Transformer learns faster than a recurrent network."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the encoder's chain of products does not grow with the sequence", quantity="encoder's chain at 64 over 8", relation="==", threshold=1.0),
        Prediction(says="generation, token by token, takes a pass for every one", quantity="passes per generated token", relation="==", threshold=1.0),
        Prediction(says="reading all positions at once saves time", quantity="time one by one over at once", relation=">", threshold=1.1),
        Prediction(says="an update takes a Transformer less time than an LSTM of its size", quantity="LSTM's time over the Transformer's", relation=">", threshold=1.1),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="one pass and one token after another compute the same", quantity="difference of the logits", relation="<", threshold=1e-4
        ),
        Prediction(says="ratios of times repeat", quantity="spread of the ratios of times", relation="<", threshold=0.25),
    )
    method: ClassVar[str] = (
        "Chain: the longest run of matrix products of which each needs the one before, counted on autograd's graph of a forward pass; the LSTM's with its "
        f"recurrence in the open. A decoder reads {N_READ} given tokens in one pass, and one after another with a cache of keys and values. Passes: calls of "
        f"the embedding while {N_NEW} tokens are generated. LSTM and Transformer have as many weights (0.4 M); an update is a pass forward and "
        f"backward, from {BATCH} sequences of {LONG} tokens or from one of {SHORT}. Operations: those of the products of a pass forward, by formula. Times are CPU seconds of one thread, ratios within rounds."
    )
    scale: ClassVar[str] = f"0.4 M parameters, {N_READ} and {LONG} tokens, one CPU thread"
    limits: ClassVar[str] = (
        f"{DEPENDS} The chain is what bounds the time on any number of processors; how near a graphics card comes to it is not measured. An update is timed, not the way to a given loss (question 21). Guessing ahead takes fewer passes (question 29). An LSTM's layers "
        "could overlap, which would shorten its chain from L·n to L + n."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, sections 1 and 4, table 1", "Blelloch 1996, Programming Parallel Algorithms", "Hochreiter & Schmidhuber 1997, Long Short-Term Memory",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {"smoke": {"repeats": 2}, "default": {"repeats": 15}, "full": {"repeats": 80}}

    repeats: int = 15
    """times that every pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        times = _times(self.repeats, self.seed)
        chains, work = _chains(), _work()
        operations = work.set_index(["model", "length"])["operations"]
        at = chains.set_index(["model", "length"])["chain"]
        effects = [
            *(Effect.exact(f"{name}'s chain at 64 over 8", at[name, 64] / at[name, 8]) for name in ("encoder", "decoder", "LSTM")),
            Effect.exact("passes per generated token", _passes(self.seed) / N_NEW),
            Effect.exact("difference of the logits", _difference(self.seed)),
            measured("time one by one over at once", ratios(times, "one by one", "at once")),
            measured("LSTM's time over the Transformer's", ratios(times, "LSTM", "Transformer")),
            measured(f"LSTM's time over the Transformer's, one of {SHORT}", ratios(times, "LSTM, short", "Transformer, short")),
            *(Effect.exact(f"LSTM's operations over the Transformer's, {n} tokens", operations["LSTM", n] / operations["Transformer", n]) for n in (LONG, SHORT)),
            measured("spread of the ratios of times", [spread(times)]),
        ]
        tables = {
            "chains": _chains_table(chains), "work": _work_table(work),
            "times": times_table(times, f"Reading {N_READ} tokens; updates from {BATCH} sequences of {LONG} tokens, and from one of {SHORT} (short)."),
        }  # fmt: skip
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        encoder, decoder, lstm, passes, once, rival, short, work, little = (
            effects[name].estimate for name in (
                *(f"{model}'s chain at 64 over 8" for model in ("encoder", "decoder", "LSTM")), "passes per generated token", "time one by one over at once",
                "LSTM's time over the Transformer's", f"LSTM's time over the Transformer's, one of {SHORT}",
                *(f"LSTM's operations over the Transformer's, {n} tokens" for n in (LONG, SHORT)),
            )
        )  # fmt: skip
        return (
            f"From 8 to 64 tokens the chain of dependent products grows {lstm:.1f}-fold in an LSTM, {encoder:.1f}-fold in an encoder and {decoder:.1f}-fold in a decoder, "
            f"whose generation takes {passes:g} pass a token. One thread reads {N_READ} given tokens {once:.1f} times as fast at once as one by one. On it an update from "
            f"{BATCH} × {LONG} tokens takes an LSTM {rival:.2f} of the Transformer's time, with {work:.2f} of its operations; from 1 × {SHORT} tokens {short:.2f}, with {little:.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        chains, seconds = tables["chains"].frame, tables["times"].frame.groupby("arm").seconds.quantile([0.25, 0.5, 0.75]).unstack()
        names, arms = list(dict.fromkeys(chains.model)), ["at once", "one by one", "Transformer", "LSTM"]
        labels = [
            f"read {N_READ} tokens at once",
            f"read {N_READ} one by one",
            f"Transformer, update on {BATCH} × {LONG}",
            f"LSTM, update on {BATCH} × {LONG}",
        ]
        milli = seconds.loc[arms] * 1000
        return (
            Lines(
                name="chains", title="How many products wait for one another, by length",
                caption="Longest run of matrix products of which each needs the one before, two layers. Generation: chain of a pass times passes.",
                alt="; ".join(f"{name}: {', '.join(map(str, chains[chains.model == name].chain))}" for name in names), x=np.array(LENGTHS, dtype=float),
                series={name: Series(y=chains[chains.model == name].chain.to_numpy(float)) for name in names},
                x_label="tokens", y_label="products in a row", log_x=True, log_y=True, markers=True,
            ),
            Bars(
                name="times", title=f"{N_READ} tokens at once and one by one; an update of Transformer and LSTM", caption=f"CPU time, median of {self.repeats} rounds with the middle half.",
                alt=", ".join(f"{label} {value:.1f} ms" for label, value in zip(labels, milli[0.5], strict=True)), labels=labels, values=milli[0.5].to_numpy(),
                low=milli[0.25].to_numpy(), high=milli[0.75].to_numpy(), unit="ms",
            ),
        )  # fmt: skip


def _decoder(seed: int, **changes: Any) -> Transformer:
    config: TransformerConfig = dataclasses.replace(rivals()[0].config, **changes)
    return Transformer(config, generator=torch.Generator().manual_seed(seed)).eval()


def _chains() -> pd.DataFrame:
    """Of reading n tokens, and of generating n."""
    rows, lstm = [], rivals()[1]
    models = {"encoder": _decoder(0, causal=False), "decoder": _decoder(0), "LSTM": lstm}
    for name, model in models.items():
        for n in LENGTHS:
            with recurrence_in_the_open():
                rows.append({"model": name, "length": n, "chain": product_chain(model(torch.zeros(1, n, dtype=torch.long)))})
    reading = next(row["chain"] for row in rows if row["model"] == "decoder")
    rows += [{"model": "generation", "length": n, "chain": n * reading} for n in LENGTHS]
    return pd.DataFrame(rows)


def _work() -> pd.DataFrame:
    """What a pass forward of each rival takes, by the length of the sequence."""
    return pd.DataFrame(
        {
            "model": name, "length": n, "n_parameters": sum(p.numel() for p in model.parameters()), "operations": operations_per_token(model.config, n),
        }
        for name, model in zip(("Transformer", "LSTM"), rivals(), strict=True)
        for n in (SHORT, LONG)
    )  # fmt: skip


def _passes(seed: int) -> int:
    """How often the embedding is called while tokens are generated behind a prompt of four."""
    model, calls = _decoder(seed), []
    handle = model.embedding.register_forward_hook(lambda *_: calls.append(1))
    try:
        generate(model, torch.zeros(1, 4, dtype=torch.long), n_new=N_NEW, stop=None)
    finally:
        handle.remove()
    return len(calls)


@torch.no_grad()
def _one_by_one(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits of every position, each token read in a pass of its own."""
    cache = KeyValueCache()
    return torch.cat([model(tokens[:, i : i + 1], cache=cache) for i in range(tokens.shape[1])], dim=1)


@torch.no_grad()
def _at_once(model: Transformer, tokens: Tensor) -> Tensor:
    return model(tokens)


def _difference(seed: int) -> float:
    """Largest difference between the logits of both ways, over the largest logit."""
    model, tokens = _decoder(seed), _tokens(1, 64, seed)
    at_once = _at_once(model, tokens)
    return float((_one_by_one(model, tokens) - at_once).abs().max() / at_once.abs().max())


def _tokens(batch: int, n: int, seed: int) -> Tensor:
    return torch.randint(rivals()[0].config.d_vocab, (batch, n), generator=torch.Generator().manual_seed(seed))


def _times(repeats: int, seed: int) -> pd.DataFrame:
    """Reading given tokens in two ways, and learning with two models."""
    (transformer, lstm), read, learnt, short = rivals(), _tokens(1, N_READ, seed), _tokens(BATCH, LONG, seed), _tokens(1, SHORT, seed)
    passes: dict[str, Callable[[], object]] = {
        "at once": lambda: _at_once(transformer, read), "one by one": lambda: _one_by_one(transformer, read),
        "Transformer": learning(transformer, learnt), "LSTM": learning(lstm, learnt), "Transformer, short": learning(transformer, short),
        "LSTM, short": learning(lstm, short),
    }  # fmt: skip
    return timed(passes, repeats, seed)


def _chains_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Chains of dependent matrix products of two layers, as torch computes them.", model=("", "what reads, or generates"), length=("tokens", "read, or generated"),
        chain=("products", "in the longest run of which each needs the one before; of generation, that of a pass times passes"),
    )  # fmt: skip


def _work_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Size and work of the two that are timed.", model=("", "what learns"), length=("tokens", "of a sequence"), n_parameters=("parameters", "of the model"),
        operations=("FLOP", "of the matrix products of a pass forward, per token"),
    )  # fmt: skip


STUDY = Parallelism
