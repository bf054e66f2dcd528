"""Where do memory and compute go, and does cutting sequences, or attention to a window, save them?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from analyses._contract import table
from analyses._flops import forward_flops
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._passes import DEPENDS, GPT2, learning, measured, ratios, spread, timed, times_table
from analyses.studies._training import BASE, RECIPE
from analyses.studies._verdict import Prediction
from model import Span, Transformer, TransformerConfig
from model.training.loop import make_optimizer
from probes import Edit, intervene, record
from probes.saved_bytes import saved_bytes
from reports import Bars, Figure, Lines, Series, Table

PIECE = 128
"""tokens of a piece, and of a window"""
BLOCKS = 12
"""of the network whose blocks are computed again"""
BALANCE = f"tokens in a batch whose activations take as much as weights, gradients and optimizer, {BLOCKS} blocks"
LONGEST = 1024
LENGTHS = tuple(2**i for i in range(8, 16))
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
        Prediction(says="cutting 1,024 tokens saves a quarter of the activations, with fused attention", quantity="memory saved at 1,024", relation=">", threshold=0.25),
        Prediction(says="attention to a window, as a mask of a dense kernel, takes less time", quantity="time with a window", relation="<", threshold=0.9),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="ratios of times repeat", quantity="spread of the ratios of times", relation="<", threshold=0.25),
        Prediction(says="a block of GPT-2 small has 12·d² weights", quantity="weights of a block over 12·d²", relation="==", threshold=1.0, margin=0.01),
        Prediction(says="Adam in fp32 holds 16 bytes for every weight", quantity="bytes of a weight in training", relation="==", threshold=16.0, margin=0.1, unit="bytes"),
        Prediction(
            says="pieces take less time than the whole, so that attention is felt", quantity="time in pieces", relation="<", threshold=1.0
        ),
    )  # fmt: skip
    method: ClassVar[str] = (
        f"The same text is read whole or in pieces of {PIECE} tokens, side by side in a batch. Compute: matrix products of a forward pass of the blocks of GPT-2 small "
        f"by formula, all pairs counted. Memory: bytes that a block of width 64 with four heads keeps of {LONGEST:,} tokens for the backward pass, counted exactly, with fused attention; "
        f"beside it with the pattern written out, and with a window of {PIECE}. {BLOCKS} such blocks, fused, with each computed again in the backward pass (checkpointing): "
        "the inputs of all and the activations of one. What that takes: matrix products of forward and backward pass of one block, counted as torch runs them, the "
        "pattern written out. Bytes of a weight: itself, its gradient and what Adam keeps of it. Time: CPU "
        f"seconds of forward and backward pass of a block of width {BLOCK.d_model} over {LONGEST:,} tokens, one thread, with full attention, with a "
        f"window of {PIECE} as a mask of the fused kernel, and in pieces of {PIECE}; ratios within rounds."
    )
    scale: ClassVar[str] = "compute at 124 M parameters; memory of blocks of width 64, time of one of width 256, up to 1,024 tokens"
    limits: ClassVar[str] = (
        f"{DEPENDS} Full attention has a kernel that knows causality; a window is a mask of a dense one, and a kernel that skips what the mask hides could make "
        "it pay."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Kaplan et al. 2020, Scaling Laws for Neural Language Models, section 2.1", "Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost",
        "Dao et al. 2022, FlashAttention", "Beltagy et al. 2020, Longformer: The Long-Document Transformer",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {"smoke": {"repeats": 3}, "default": {"repeats": 15}, "full": {"repeats": 60}}

    repeats: int = 15
    """times that every pass is timed"""

    def measure(self) -> tuple[list[Effect], Tables]:
        times = _times(self.repeats, self.seed)
        frame = _memory(self.seed)
        memory = frame.set_index(["kind", "blocks", "pieces"])["bytes"]
        block = _of_a_block(memory)
        network = memory["fused", BLOCKS, 1]
        adam = _bytes_of_a_weight(self.seed)
        weights = sum(p.numel() for p in Transformer(_small(BLOCKS)).parameters())
        pairs = LONGEST * (LONGEST - PIECE) * BASE.n_heads * 4  # bytes of a number for all pairs and heads, whole minus in pieces
        written, fused = (memory[kind, 1, 1] - memory[kind, 1, LONGEST // PIECE] for kind in ("written", "fused"))
        effects = [
            Effect.exact("compute saved at 1,024", _saved(LONGEST)),
            Effect.exact("compute saved at 16,384", _saved(2**14)),
            Effect.exact("memory saved at 1,024", 1 - memory["fused", 1, LONGEST // PIECE] / memory["fused", 1, 1]),
            Effect.exact("memory saved at 1,024, pattern written out", 1 - memory["written", 1, LONGEST // PIECE] / memory["written", 1, 1]),
            Effect.exact("memory saved by a window", 1 - memory["window", 1, 1] / memory["fused", 1, 1]),
            Effect.exact("memory saved by computing again", 1 - memory["computed again", BLOCKS, 1] / network),
            Effect.exact("operations with blocks computed again, over without", _operations(self.seed)),
            Effect.exact("vectors of its width that a block keeps of a token", block / LONGEST / BASE.d_model / 4),
            Effect.exact("numbers that a block keeps of a head and pair, pattern written out", (written - fused) / pairs),
            Effect.exact("weights of a block over 12·d²", _weights_of_a_block()),
            Effect.exact("bytes of a weight in training", adam, "bytes"),
            Effect.exact(BALANCE, adam * weights * LONGEST / network, "tokens"),
            measured("time with a window", ratios(times, "window", "full")),
            measured("time in pieces", ratios(times, "pieces", "full")),
            measured("spread of the ratios of times", [spread(times)]),
        ]  # fmt: skip
        return effects, {"compute": _compute_table(), "memory": _memory_table(frame), "times": _times_table(times)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        short, long, memory, written, vectors, tokens, again, operations, window, pieces = (
            effects[name].estimate
            for name in (
                "compute saved at 1,024", "compute saved at 16,384", "memory saved at 1,024", "memory saved at 1,024, pattern written out",
                "vectors of its width that a block keeps of a token", BALANCE, "memory saved by computing again",
                "operations with blocks computed again, over without", "time with a window", "time in pieces",
            )
        )  # fmt: skip
        cut = ", however the text is cut" if abs(memory) < 0.01 else ""
        return (
            f"In the shape of GPT-2 small, cutting the text into pieces of {PIECE} tokens saves {short:.0%} of the compute at 1,024 tokens and {long:.0%} at 16,384. "
            f"In a block of width 64 with four heads it saves {memory:.0%} of the activations of 1,024 tokens with fused attention ({written:.0%} with the pattern written "
            f"out): fused, every token keeps {vectors:.0f} vectors of that width{cut}. In {BLOCKS} such blocks activations take more than weights, gradients and Adam's state from "
            f"{tokens:.0f} tokens in a batch on; computing each block again in the backward pass saves {again:.0%} of the activations and takes {operations:.2f} times the operations, "
            f"for a second forward pass. In a block of width {BLOCK.d_model} a window of {PIECE} that is only a mask takes {window:.2f} of the time of full attention, "
            f"pieces {pieces:.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        compute, memory = tables["compute"].frame, tables["memory"].frame
        whole = memory[memory.pieces == 1].set_index(["kind", "blocks"])["bytes"] / LONGEST / 1024
        labels = {
            ("fused", 1): "a block, fused attention",
            ("written", 1): "a block, pattern written out",
            ("window", 1): f"a block, window of {PIECE} as a mask",
            ("fused", BLOCKS): f"{BLOCKS} blocks, fused attention",
            ("computed again", BLOCKS): f"{BLOCKS} blocks, computed again",
        }
        return (
            Lines(
                name="compute", title=f"Cutting saves {_saved(LONGEST):.0%} of the compute at {LONGEST:,} tokens, {_saved(LENGTHS[-1]):.0%} at {LENGTHS[-1]:,}",
                caption=f"Share of the matrix products of the blocks of GPT-2 small, by formula. Saved: pieces of {PIECE} tokens in place of the whole text.",
                alt=f"At {LONGEST:,} tokens {_saved(LONGEST):.3f} saved, at {LENGTHS[-1]:,} {_saved(LENGTHS[-1]):.3f}.", x=compute.length.to_numpy(float), log_x=True,
                series={name: Series(y=compute[column].to_numpy()) for name, column in (("saved by cutting", "saved"), ("attention", "attention"), ("feed-forward networks", "mlp"))},
                x_label="tokens", y_label="share of compute", markers=True,
            ),
            Bars(
                name="memory", title="What a token keeps for the backward pass, by kernel and number of blocks",
                caption=f"KiB per token of {LONGEST:,} read at once, blocks of width 64 with 4 heads, embedding and logits among it, counted exactly.",
                alt=", ".join(f"{label} {whole[kind]:.2f} KiB" for kind, label in labels.items()), labels=list(labels.values()),
                values=whole[list(labels)].to_numpy(), unit="KiB per token",
            ),
        )  # fmt: skip


def _saved(n: int) -> float:
    """Share of the compute that is saved by reading n tokens in pieces."""
    pieces, whole = forward_flops(GPT2, PIECE), forward_flops(GPT2, n)
    return 1 - (n // PIECE) * (pieces.linear + pieces.attention) / (whole.linear + whole.attention)


def _small(n_layers: int = 1, span: Span = Span()) -> TransformerConfig:
    return dataclasses.replace(BASE, n_layers=n_layers, span=span, n_ctx=LONGEST)


def _made(config: TransformerConfig, seed: int) -> Transformer:
    return Transformer(config, generator=torch.Generator().manual_seed(seed))


def _memory(seed: int) -> pd.DataFrame:
    """What a block keeps of 1,024 tokens, read whole and in pieces, and what a network of blocks does that are computed again."""
    model, narrow = _made(_small(), seed), _made(_small(span=Span(kind="window", size=PIECE)), seed)
    deep, rows = _made(_small(BLOCKS), seed), []
    for pieces in (1, LONGEST // PIECE):
        tokens = torch.zeros(pieces, LONGEST // pieces, dtype=torch.long)
        with record(model, "blocks.0.attn.pattern", gradients=True):
            rows.append({"kind": "written", "blocks": 1, "pieces": pieces, "bytes": _kept(model, tokens)})
        for kind, one in (("fused", model), ("window", narrow), ("fused", deep)):
            rows.append({"kind": kind, "blocks": one.n_layers, "pieces": pieces, "bytes": _kept(one, tokens)})
        one = _of_a_block(pd.DataFrame(rows).set_index(["kind", "blocks", "pieces"])["bytes"], pieces)
        rows.append({"kind": "computed again", "blocks": BLOCKS, "pieces": pieces, "bytes": _kept(deep, tokens, _again) + one})
    return pd.DataFrame(rows)


def _kept(model: Transformer, tokens: torch.Tensor, run: Callable[[Transformer, torch.Tensor], torch.Tensor] = Transformer.__call__) -> int:
    return saved_bytes(lambda: run(model, tokens), without=[*model.parameters(), tokens])


def _of_a_block(memory: pd.Series, pieces: int = 1) -> int:
    """Bytes that a block keeps by itself, without embedding and logits."""
    return int(memory["fused", BLOCKS, pieces] - memory["fused", 1, pieces]) // (BLOCKS - 1)


def _again(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    """A pass whose blocks are computed again in the backward pass."""
    state = model.start(tokens)
    for i in range(model.n_layers):
        resid = checkpoint(lambda resid, i=i: model.step(dataclasses.replace(state, resid=resid), i).resid, state.resid, use_reentrant=False)
        state = dataclasses.replace(state, resid=resid)
    return model.finish(state)


def _operations(seed: int) -> float:
    """Matrix products of forward and backward pass with the block computed again, over those without."""
    model, tokens, counts = _made(_small(), seed), torch.zeros(1, LONGEST, dtype=torch.long), []
    for run in (_again, Transformer.__call__):
        with intervene(model, Edit("blocks.0.attn.pattern", lambda pattern: pattern)), FlopCounterMode(display=False) as counter:
            run(model, tokens).square().mean().backward()  # the fused kernel's products would not be counted
        counts.append(counter.get_total_flops())
    return counts[0] / counts[1]


def _weights_of_a_block() -> float:
    """Of GPT-2 small, biases and norms among them, over 12·d²."""
    with torch.device("meta"):
        block = Transformer(dataclasses.replace(GPT2, n_layers=1)).blocks[0]
    return sum(p.numel() for p in block.parameters()) / (12 * GPT2.d_model**2)


def _bytes_of_a_weight(seed: int) -> float:
    """What a weight takes behind a step of Adam: itself, its gradient, and what the optimizer keeps of it."""
    model = _made(_small(), seed)
    optimizer = make_optimizer(model, RECIPE)
    learning(model, torch.zeros(1, PIECE, dtype=torch.long))()
    optimizer.step()
    tensors = [*model.parameters(), *(p.grad for p in model.parameters()), *(x for state in optimizer.state.values() for x in state.values())]
    return sum(x.nbytes for x in tensors) / sum(p.numel() for p in model.parameters())


def _times(repeats: int, seed: int) -> pd.DataFrame:
    """Training passes over the same number of tokens: full, with a window, in pieces as long as the window."""
    full, narrow = (_made(dataclasses.replace(BLOCK, span=span), seed) for span in (Span(), Span(kind="window", size=PIECE)))
    tokens = torch.randint(BLOCK.d_vocab, (1, LONGEST), generator=torch.Generator().manual_seed(seed))
    passes = {"full": learning(full, tokens), "window": learning(narrow, tokens), "pieces": learning(full, tokens.view(-1, PIECE))}
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
        frame.sort_values(["blocks", "pieces", "kind"]).reset_index(drop=True),
        f"What blocks of width 64 with 4 heads keep of {LONGEST:,} tokens for the backward pass, with embedding and logits.",
        kind=("", "fused attention; pattern written out; a window as a mask; fused and computed again: the inputs of all blocks and the activations of one"),
        blocks=("", "one behind another"), pieces=("", "sequences that the text was cut into"), bytes=("bytes", "kept"),
    )  # fmt: skip


def _times_table(times: pd.DataFrame) -> Table:
    return times_table(times, f"Forward and backward pass of one block of width {BLOCK.d_model} over {LONGEST:,} tokens.")


STUDY = MemoryAndCompute
