"""Where do memory and compute go, and does cutting sequences, or attention to a window, save them?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch.utils.checkpoint import checkpoint

from analyses._contract import table
from analyses._flops import forward_flops
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._passes import DEPENDS, GPT2, learning, measured, ratios, spread, timed, times_table
from analyses.studies._training import BASE
from analyses.studies._verdict import Prediction
from model import Span, Transformer, TransformerConfig
from probes import record
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

PIECE, WINDOW = 128, 64
LONGEST = 1024
LENGTHS = tuple(2**i for i in range(8, 16))
ADAM = 16
"""bytes of a parameter in training: itself, its gradient, two moments, 4 each"""
BLOCK = TransformerConfig(family="study", n_layers=1, d_model=256, n_heads=4, d_head=64, d_mlp=1024, d_vocab=BASE.d_vocab, n_ctx=LONGEST)
"""the block that is timed"""


@dataclass(frozen=True, kw_only=True)
class MemoryAndCompute(Study):
    number: ClassVar[int] = 31
    name: ClassVar[str] = "memory-and-compute"
    timed: ClassVar[bool] = True
    """its verdict rests on times"""
    question: ClassVar[str] = "Where do memory and compute go?"
    popular: ClassVar[str] = "Long sequences cost much memory and compute, because of attention; shorten them, or use sparse attention."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="cutting 1,024 tokens into pieces saves a quarter of the compute", quantity="compute saved at 1,024", relation=">", threshold=0.25),
        Prediction(says="cutting 16,384 tokens does", quantity="compute saved at 16,384", relation=">", threshold=0.25),
        Prediction(says="cutting 1,024 tokens saves a quarter of the activations", quantity="memory saved at 1,024", relation=">", threshold=0.25),
        Prediction(says="attention to a window takes less time", quantity="time with a window", relation="<", threshold=0.9),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the times repeat", quantity="spread of the times", relation="<", threshold=0.25),
        Prediction(
            says="pieces take less time than the whole, so that attention is felt", quantity="time in pieces", relation="<", threshold=1.0
        ),
    )
    method: ClassVar[str] = (
        f"The same text is read whole or in pieces of {PIECE} tokens, side by side in a batch. Compute: matrix products of a forward pass of GPT-2 small "
        "by formula, all pairs counted. Memory: bytes that a block of width 64 keeps for the backward pass, counted exactly, with fused attention; "
        "beside it with the pattern written out, with the block computed again in the backward pass (checkpointing), and with a window. Time: CPU "
        f"seconds of forward and backward pass of a block of width {BLOCK.d_model} over {LONGEST:,} tokens, one thread, with full attention, with a "
        f"window of {WINDOW} as a mask of the fused kernel, and in pieces of {WINDOW}; ratios within rounds."
    )
    scale: ClassVar[str] = "compute at 124 M parameters; memory of a block of width 64, time of one of width 256, up to 1,024 tokens"
    limits: ClassVar[str] = (
        f"{DEPENDS} A kernel that skips what the mask hides would make the window pay; torch's dense one on a CPU does not."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1", "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost",
        "Dao et al. 2022, FlashAttention", "Beltagy et al. 2020, Longformer: The Long-Document Transformer",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {"smoke": {"repeats": 3}, "default": {"repeats": 15}, "full": {"repeats": 60}}

    repeats: int = 15
    """times that every pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        times = each(_times, [(self.repeats, self.seed)])[0]
        memory = _memory(self.seed).set_index(["kind", "pieces"])["bytes"]
        per_token = memory["fused", 1] / LONGEST
        effects = [
            Effect.exact("compute saved at 1,024", _saved(LONGEST)),
            Effect.exact("compute saved at 16,384", _saved(2**14)),
            Effect.exact("memory saved at 1,024", 1 - memory["fused", LONGEST // PIECE] / memory["fused", 1]),
            Effect.exact("memory saved at 1,024, pattern written out", 1 - memory["written", LONGEST // PIECE] / memory["written", 1]),
            Effect.exact("memory saved by a window", 1 - memory["window", 1] / memory["fused", 1]),
            Effect.exact("memory saved by computing again", 1 - memory["checkpointed", 1] / memory["fused", 1]),
            Effect.exact(
                "tokens in a batch whose activations take as much as weights and optimizer", ADAM * _weights() / per_token, "tokens"
            ),
            measured("time with a window", ratios(times, "window", "full")),
            measured("time in pieces", ratios(times, "pieces", "full")),
            measured("spread of the times", [spread(times)]),
        ]
        tables = {"compute": _compute_table(), "memory": _memory_table(memory.reset_index()), "times": _times_table(times)}
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        short, long, memory, written, again, window, pieces = (
            effects[name].estimate
            for name in (
                "compute saved at 1,024", "compute saved at 16,384", "memory saved at 1,024", "memory saved at 1,024, pattern written out",
                "memory saved by computing again", "time with a window", "time in pieces",
            )
        )  # fmt: skip
        return (
            f"Cutting the text saves {short:.0%} of the compute at 1,024 tokens and {long:.0%} at 16,384. It saves {memory:.0%} of the activations with fused "
            f"attention ({written:.0%} with the pattern written out), where what counts is tokens in the batch; computing blocks again saves {again:.0%}. A "
            f"window that is only a mask takes {window:.2f} of the time of full attention, pieces {pieces:.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        compute, memory = tables["compute"].frame, tables["memory"].frame
        whole = memory[memory.pieces == 1].set_index("kind")["bytes"] / LONGEST / 1024
        labels = {
            "fused": "fused attention",
            "written": "pattern written out",
            "window": f"window of {WINDOW}",
            "checkpointed": "computed again",
        }
        return (
            Lines(
                name="compute", title=f"Cutting saves {_saved(LONGEST):.0%} of the compute at {LONGEST:,} tokens, {_saved(LENGTHS[-1]):.0%} at {LENGTHS[-1]:,}",
                caption=f"Share of the matrix products of GPT-2 small, by formula. Saved: pieces of {PIECE} tokens in place of the whole text.",
                alt=f"At {LONGEST:,} tokens {_saved(LONGEST):.3f} saved, at {LENGTHS[-1]:,} {_saved(LENGTHS[-1]):.3f}.", x=compute.length.to_numpy(float), log_x=True,
                series={name: Series(y=compute[column].to_numpy()) for name, column in (("saved by cutting", "saved"), ("attention", "attention"), ("feed-forward networks", "mlp"))},
                x_label="tokens", y_label="share of compute", markers=True,
            ),
            Bars(
                name="memory", title="What a token keeps for the backward pass, by kernel and length",
                caption=f"KiB per token of {LONGEST:,} read at once, one block of width 64 with embedding and logits, counted exactly.",
                alt=", ".join(f"{labels[kind]} {whole[kind]:.2f} KiB" for kind in labels), labels=list(labels.values()), values=whole[list(labels)].to_numpy(), unit="KiB per token",
            ),
        )  # fmt: skip


def _saved(n: int) -> float:
    """Share of the compute that is saved by reading n tokens in pieces."""
    pieces, whole = forward_flops(GPT2, PIECE), forward_flops(GPT2, n)
    return 1 - (n // PIECE) * (pieces.linear + pieces.attention) / (whole.linear + whole.attention)


def _weights() -> int:
    return sum(p.numel() for p in Transformer(_small()).blocks.parameters())


def _small() -> TransformerConfig:
    return dataclasses.replace(BASE, n_layers=1, n_ctx=LONGEST)


def _memory(seed: int) -> pd.DataFrame:
    """What a block keeps of 1,024 tokens, read whole and in pieces."""
    model = Transformer(_small(), generator=torch.Generator().manual_seed(seed))
    narrow = Transformer(
        dataclasses.replace(_small(), span=Span(kind="window", size=WINDOW)), generator=torch.Generator().manual_seed(seed)
    )
    rows = []
    for pieces in (1, LONGEST // PIECE):
        tokens = torch.zeros(pieces, LONGEST // pieces, dtype=torch.long)
        there = [*model.parameters(), *narrow.parameters(), tokens]
        rows.append({"kind": "fused", "pieces": pieces, "bytes": saved_bytes(lambda tokens=tokens: model(tokens), without=there)})
        with record(model, "blocks.0.attn.pattern", gradients=True):
            rows.append({"kind": "written", "pieces": pieces, "bytes": saved_bytes(lambda tokens=tokens: model(tokens), without=there)})
        rows.append({"kind": "window", "pieces": pieces, "bytes": saved_bytes(lambda tokens=tokens: narrow(tokens), without=there)})
        again = saved_bytes(lambda tokens=tokens: _again(model, tokens), without=there)
        held = tokens.numel() * model.config.d_model * 4  # the block's input, which the checkpoint itself holds
        rows.append({"kind": "checkpointed", "pieces": pieces, "bytes": again + held})
    return pd.DataFrame(rows)


def _again(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """A pass whose block is computed again in the backward pass."""
    state = model.start(tokens)
    resid = checkpoint(lambda resid: model.step(dataclasses.replace(state, resid=resid), 0).resid, state.resid, use_reentrant=False)
    return model.finish(dataclasses.replace(state, resid=resid))


def _times(repeats: int, seed: int) -> pd.DataFrame:
    """Training passes over the same number of tokens: full, with a window, in pieces as long as the window."""
    full, narrow = (Transformer(dataclasses.replace(BLOCK, span=span)) for span in (Span(), Span(kind="window", size=WINDOW)))
    tokens = torch.randint(BLOCK.d_vocab, (1, LONGEST), generator=torch.Generator().manual_seed(seed))
    passes = {"full": learning(full, tokens), "window": learning(narrow, tokens), "pieces": learning(full, tokens.view(-1, WINDOW))}
    return timed(passes, repeats, seed)


def _compute_table() -> Table:
    rows = []
    for n in LENGTHS:
        flops = forward_flops(GPT2, n)
        blocks = flops.linear + flops.attention
        rows.append(
            {
                "length": n,
                "attention": flops.attention / blocks,
                "mlp": flops.mlp / blocks,
                "projections": flops.projections / blocks,
                "saved": _saved(n),
            }
        )
    return table(
        pd.DataFrame(rows), "Matrix products of a forward pass of GPT-2 small's blocks, by formula.", length=("tokens", "read"),
        attention=("1", "share of q kᵀ and pattern · v, all pairs"), mlp=("1", "share of the feed-forward networks"),
        projections=("1", "share of W_Q, W_K, W_V and W_O"), saved=("1", f"share that is saved by reading pieces of {PIECE} tokens"),
    )  # fmt: skip


def _memory_table(frame: pd.DataFrame) -> Table:
    return table(
        frame.sort_values(["pieces", "kind"]).reset_index(drop=True),
        f"What one block of width 64 with 4 heads keeps of {LONGEST:,} tokens for its backward pass, with embedding and logits.",
        kind=("", "fused attention; pattern written out; a window as a mask; the block computed again in the backward pass"),
        pieces=("", "sequences that the text was cut into"), bytes=("bytes", "kept"),
    )  # fmt: skip


def _times_table(times: pd.DataFrame) -> Table:
    return times_table(times, f"Forward and backward pass of one block of width {BLOCK.d_model} over {LONGEST:,} tokens.")


STUDY = MemoryAndCompute
