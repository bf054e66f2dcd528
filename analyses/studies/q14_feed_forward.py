"""What does the feed-forward network do? Is a Transformer linear without it, does it store more, and is it most of the cost?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from analyses._contract import table
from analyses._flops import forward_flops
from analyses.studies import _tasks_pairs as pairs
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._training import LENGTH, bigram, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig
from reports import Bars, Figure, Lines, Series, Table

BOTH, ALONE, ONE = "attention and feed-forward", "attention alone, three times the blocks", "attention alone, as many blocks"
BARE = "attention alone, three times, no norms"
LINEAR = "a linear model"
ARMS: Mapping[str, Mapping[str, Any]] = {BOTH: {}, ALONE: {"d_mlp": 0}, BARE: {"d_mlp": 0, "norm": "none", "final_norm": False}, ONE: {"d_mlp": 0}}
REMEMBERED = {
    "with it": BOTH, "by attention alone": ALONE, "by attention alone without norms": BARE, "by one block of attention": ONE, "by a linear model": LINEAR,
}  # fmt: skip
LINEARITY = {"holds": "does no more than a linear model", "fails": "is more than a linear model", "open": "may be more than a linear model"}
"""what is said by the outcome of the first prediction"""
LENGTHS = tuple(2**i for i in range(3, 14))


@dataclass(frozen=True, kw_only=True)
class FeedForwardNetwork(Study):
    number: ClassVar[int] = 14
    name: ClassVar[str] = "feed-forward"
    question: ClassVar[str] = "What does the feed-forward network do?"
    popular: ClassVar[str] = "Two linear maps and a ReLU give the non-linearity; they cost many parameters and much compute."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="attention alone, without norms, does no more than a linear model", quantity="pairs remembered by attention alone without norms, over a linear model", relation="<", threshold=0.05),
        Prediction(says="at equal size language is learnt worse without it", quantity="loss without it, at equal size", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it holds most parameters of a block", quantity="share of the parameters", relation=">", threshold=0.5),
        Prediction(says="it is most of the compute at 32 tokens", quantity="share of the compute at 32 tokens", relation=">", threshold=0.5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the language model with it beats the bigram", quantity="with it minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
        Prediction(says="the pairs are learnt by somebody", quantity="pairs remembered with it", relation=">", threshold=0.5),
    )
    method: ClassVar[str] = (
        f"Memory: {pairs.N}² pairs of tokens with random answers, read again and again by one block of attention and feed-forward network, by three blocks "
        "of attention alone, which have as many parameters (4d² + 8d² = 3 · 4d²), with layer norms and without any, and by one block of attention alone; "
        "all make as many updates. Beside them logits linear in the two tokens (multinomial logistic regression). Language: two blocks with it, and six of attention alone, on prose. Shares: "
        "of the parameters of a block, and of the products of a forward pass without the unembedding, 16d² of 24d² + 4nd per token at n tokens. "
        "A softmax of products of the input is not linear, so that nothing in the equations says that attention alone should be; norms, which are not "
        "linear either, are left out where that is judged."
    )
    scale: ClassVar[str] = "13 thousand parameters in the blocks (memory), 0.1 M (language, windows of 32 characters)"
    limits: ClassVar[str] = (
        "One learning rate for all arms, and one number of updates: what is remembered in the end of a longer training is not measured. The activation is a GELU; "
        "what depth alone gives to the arm with more blocks, or takes from it, is not told apart."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.3", "Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories",
        "Allen-Zhu & Li 2024, Physics of Language Models: Part 3.3, Knowledge Capacity Scaling Laws",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "pair_steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 250, "pair_steps": 1000, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 300, "pair_steps": 1200, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights, of the order of the data, and of the answers"""
    steps: int = 250
    """updates of each language model"""
    pair_steps: int = 1000
    """updates of each model that remembers pairs, of 256 pairs each"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        memory = pd.DataFrame(each(_memory, [(arm, seed, self.pair_steps) for seed in seeds for arm in (*ARMS, LINEAR)]))
        language = pd.DataFrame(each(_language, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in (BOTH, ALONE)]))
        share, loss = memory.pivot(index="seed", columns="arm", values="share"), language.pivot(index="seed", columns="arm", values="loss")
        costs = pd.DataFrame(
            [{"n": n, "share": _share_of_compute(PAPER, n), "share_512": _share_of_compute(_published(), n)} for n in LENGTHS]
        )
        block = Transformer(PAPER).blocks[0]
        size = {name: sum(p.numel() for p in part.parameters()) for name, part in (("mlp", block.mlp), ("block", block))}
        bits = memory.pivot(index="seed", columns="arm", values="bits_per_parameter")
        effects = [
            Effect.over_seeds("pairs remembered by attention alone without norms, over a linear model", share[BARE] - share[LINEAR]),
            *(Effect.over_seeds(f"pairs remembered {name}", share[arm], within=(0, 1)) for name, arm in REMEMBERED.items()),
            Effect.over_seeds("pairs remembered with it, over attention alone", share[BOTH] - share[ALONE]),
            *(Effect.over_seeds(f"bits per parameter remembered {name}", bits[REMEMBERED[name]]) for name in ("with it", "by attention alone")),
            Effect.over_seeds("loss without it, at equal size", loss[ALONE] - loss[BOTH], "nats"),
            Effect.over_seeds("with it minus bigram", loss[BOTH] - bigram(n=self.n_held_out), "nats"),
            Effect.exact("share of the parameters", size["mlp"] / size["block"]),
            Effect.exact("share of the compute at 32 tokens", _share_of_compute(PAPER, LENGTH)),
            Effect.exact("tokens up to which it is half of the compute", float(_crossover(PAPER)), "tokens"),
            Effect.exact("compute of attention alone over with it, at 32 tokens", _products(_blocks(ALONE, PAPER), LENGTH) / _products(PAPER, LENGTH)),
        ]
        return effects, {"memory": _memory_table(memory), "language": _language_table(language), "costs": _costs_table(costs)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        with_, alone, bare, linear, bits, bits_alone, loss, products, parameters, compute, until = (
            effects[name].estimate
            for name in (
                *(f"pairs remembered {name}" for name in ("with it", "by attention alone", "by attention alone without norms", "by a linear model")),
                "bits per parameter remembered with it", "bits per parameter remembered by attention alone", "loss without it, at equal size",
                "compute of attention alone over with it, at 32 tokens", "share of the parameters", "share of the compute at 32 tokens",
                "tokens up to which it is half of the compute",
            )
        )  # fmt: skip
        outcome = self.predictions[0].outcome(effects[self.predictions[0].quantity])
        return (
            f"Attention alone {LINEARITY[outcome]}: without any norm it remembers {bare:.0%} of the pairs, where a linear model does {linear:.0%}. With norms, at equal size and "
            f"after as many updates, the network with a feed-forward part remembers {with_:.0%} and attention alone {alone:.0%} of them, {bits:.2f} and {bits_alone:.2f} bits "
            f"per parameter; with it language is learnt {abs(loss):.3f} nats {'better' if loss > 0 else 'worse'} than by attention alone, which takes {products:.2f} times the compute at "
            f"{LENGTH} tokens. It holds {parameters:.0%} of a block's parameters and {compute:.0%} of the compute at {LENGTH} tokens, and at least half up to {until:.0f} tokens."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        memory, costs = tables["memory"].frame, tables["costs"].frame
        share = memory.groupby("arm").share.agg(["mean", "min", "max"]).loc[[*ARMS, LINEAR]]
        return (
            Bars(
                name="memory", title="Pairs that are remembered, by what the network is made of",
                caption=f"Share of {pairs.N}² random pairs that is remembered, mean of {self.n_seeds} seeds with the smallest and largest. The first three have as many parameters in their "
                "blocks, but for norms.",
                alt=", ".join(f"{arm} {value:.2f}" for arm, value in share["mean"].items()), labels=list(share.index), values=share["mean"].to_numpy(),
                low=share["min"].to_numpy(), high=share["max"].to_numpy(), unit="share remembered",
            ),
            Lines(
                name="compute", title="Share of the compute that is the feed-forward network's, by length", caption="Share of the products of a forward pass, unembedding left out; exact.",
                alt="; ".join(f"{row.n} tokens: {row.share:.0%} at d = {PAPER.d_model}, {row.share_512:.0%} at d = 512" for row in costs.itertuples()),
                x=costs.n.to_numpy(float), series={f"d = {PAPER.d_model}": Series(y=costs.share.to_numpy()), "d = 512": Series(y=costs.share_512.to_numpy())},
                x_label="tokens", y_label="share of the compute", log_x=True, markers=True,
            ),
        )  # fmt: skip


def _blocks(arm: str, config: TransformerConfig) -> TransformerConfig:
    """The blocks of an arm: three of attention alone have the parameters of one with a feed-forward network."""
    return dataclasses.replace(config, n_layers=config.n_layers * (3 if arm in (ALONE, BARE) else 1), **ARMS[arm])


def _memory(arm: str, seed: int, steps: int) -> dict[str, Any]:
    """One model that is taught the pairs."""
    if arm == LINEAR:
        size = {
            "share": pairs.linear_share(seed, iterations=min(steps, 200)),
            "n_block_parameters": 0,
            "n_parameters": 2 * pairs.N**2,
            "flops": np.nan,
        }
        return {"arm": arm, "seed": seed, **size, "bits_per_parameter": np.nan}
    learnt, share = pairs.learn_pairs(_blocks(arm, pairs.CONFIG), seed=seed, steps=steps)
    n = sum(parameter.numel() for parameter in learnt.model.blocks.parameters())
    return {
        "arm": arm, "seed": seed, "share": share, "n_block_parameters": n, "n_parameters": learnt.n_parameters, "flops": learnt.flops,
        "bits_per_parameter": share * pairs.BITS / n,
    }  # fmt: skip


def _language(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One language model."""
    model = started_as_in_the_paper(_blocks(arm, PAPER), seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    return {"arm": arm, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops, "forward": _products(model.config, LENGTH)}


def _products(config: TransformerConfig, n: int) -> int:
    """Operations of the blocks in a forward pass of n tokens, attention's own products among them."""
    flops = forward_flops(config, n)
    return flops.total - flops.unembedding


def _share_of_compute(config: TransformerConfig, n: int) -> float:
    """What the feed-forward networks take of it."""
    return forward_flops(config, n).mlp / _products(config, n)


def _crossover(config: TransformerConfig) -> int:
    """The longest sequence at which they take at least half: 16d² ≥ 8d² + 4nd."""
    return max(n for n in range(1, 8 * config.d_model) if _share_of_compute(config, n) >= 0.5)


def _published() -> TransformerConfig:
    """The base model of the paper."""
    return dataclasses.replace(PAPER, n_layers=6, d_model=512, n_heads=8, n_kv_heads=8, d_head=64, d_mlp=2048)


def _memory_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model that was taught the pairs.", arm=("", "what it is made of"), seed=("", "of weights, order and answers"),
        share=("1", "share of the pairs that it remembers"), n_block_parameters=("parameters", "of the blocks"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token; not counted for the linear model"),
        bits_per_parameter=("bits", "share · all bits of the answers, over the parameters of the blocks"),
    )  # fmt: skip


def _language_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every language model.", arm=("", "what it is made of"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token; attention's own products are left out"),
        forward=("FLOP", f"of the blocks in a forward pass of {LENGTH} tokens, attention's own products among them"),
    )  # fmt: skip


def _costs_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What the feed-forward networks take of a forward pass.", n=("tokens", "length of the sequence"),
        share=("1", f"at d_model = {PAPER.d_model}"), share_512=("1", "at d_model = 512"),
    )  # fmt: skip


STUDY = FeedForwardNetwork
