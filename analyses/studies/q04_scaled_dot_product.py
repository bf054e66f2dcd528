"""Why are scores scaled before the softmax? Is it that gradients would vanish, or that attention would become too sharp?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from torch import nn

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._training import BASE, bigram, character_model, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model.training import CausalLM, token_loss
from probes import record
from probes.statistics import View, row_entropy
from reports import Bars, Figure, Lines, Series, Table

STDS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""standard deviations of the scores at which the softmax is differentiated"""


@dataclass(frozen=True, kw_only=True)
class ScaledDotProduct(Study):
    number: ClassVar[int] = 4
    name: ClassVar[str] = "scaled-dot-product"
    question: ClassVar[str] = "Why are scores scaled before the softmax?"
    popular: ClassVar[str] = (
        "Scores grow with d_k and saturate the softmax, so that gradients vanish; dividing by √d_k keeps training stable."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="without scaling the gradient of W_Q vanishes", quantity="gradient ratio", relation="<", threshold=1.0),
        Prediction(says="without scaling the model learns worse", quantity="loss without scaling", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="without scaling attention is sharper from the start", quantity="entropy lost at the start", relation=">", threshold=0.1),
    )
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the scaled model beats the bigram", quantity="scaled minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Character models that differ in the scale of their scores alone (1/√d_k or 1) start from the same weights (Glorot's uniform "
        "distribution for W_Q and W_K, for which the variance of a score is about d_k) and read the same windows. Gradient ratio: ‖∂L/∂W_Q‖ "
        "of all layers together, unscaled over scaled, before the first step. Entropy: mean row entropy over ln(visible keys). Beside them the "
        "Frobenius norm of the softmax's Jacobian, diag(p) − ppᵀ, for 64 normal scores of growing spread."
    )
    scale: ClassVar[str] = "0.12 M parameters, d_k = 64, windows of 32 characters"
    limits: ClassVar[str] = "One small model; deep models meet the same sharpness later and elsewhere (entropy collapse, Zhai et al. 2023)."
    sources: ClassVar[tuple[str, ...]] = ("Vaswani et al. 2017, section 3.2.1", "Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy Collapse")
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 6, "n_held_out": 8},
        "default": {"n_seeds": 5, "steps": 250, "n_held_out": 128},
        "full": {"n_seeds": 8, "steps": 600, "n_held_out": 600},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; both arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        rows = each(_arm, [(scaled, seed, self.steps, self.n_held_out) for seed in self._seeds() for scaled in (True, False)])
        arms = pd.DataFrame(rows)
        with_, without = (arms[arms.scaled == scaled].reset_index(drop=True) for scaled in (True, False))
        effects = [
            Effect.over_seeds("gradient ratio", without.gradient / with_.gradient),
            Effect.over_seeds("loss without scaling", without.loss - with_.loss, "nats"),
            Effect.over_seeds("entropy lost at the start", with_.entropy - without.entropy),
            Effect.over_seeds("scaled minus bigram", with_.loss - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {"arms": _arms_table(arms), "jacobian": _jacobian_table(self.seed)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        ratio, loss, entropy = (effects[name] for name in ("gradient ratio", "loss without scaling", "entropy lost at the start"))
        return (
            f"Without 1/√d_k the gradient of W_Q at the start is {ratio.estimate:.2g} times that with it: it does not vanish. The rows lose "
            f"{entropy.estimate:.2f} of their entropy (1 is that of even rows), and the model ends {loss.estimate:+.2f} nats per character behind."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        jacobian, arms = tables["jacobian"].frame, tables["arms"].frame
        peak = jacobian.loc[jacobian.norm.idxmax()]
        means = arms.groupby("scaled").loss
        return (
            Lines(
                name="jacobian", title=f"The softmax reacts most where scores spread by about {peak.spread:g}",
                caption="Frobenius norm of diag(p) − ppᵀ for 64 normal scores, mean of 200 draws.", alt=f"Largest, {peak.norm:.2f}, at {peak.spread:g}.",
                x=jacobian.spread.to_numpy(), series={"64 keys": Series(y=jacobian.norm.to_numpy())}, x_label="standard deviation of the scores",
                y_label="norm of the Jacobian", markers=True,
            ),
            Bars(
                name="loss", title="Held-out loss with and without 1/√d_k", caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest.",
                alt=", ".join(f"{'scaled' if scaled else 'unscaled'} {value:.3f}" for scaled, value in means.mean().items()),
                labels=["scaled" if scaled else "unscaled" for scaled in means.mean().index], values=means.mean().to_numpy(), low=means.min().to_numpy(),
                high=means.max().to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip

    def _seeds(self) -> range:
        return range(self.seed, self.seed + self.n_seeds)


def _arm(scaled: bool, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One model: its gradient and entropy before the first step, and its loss behind the last."""
    config = dataclasses.replace(BASE, n_heads=1, n_kv_heads=1, d_head=64, score_scale=None if scaled else 1.0)
    model, generator = character_model(config, seed), torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for projection in (block.attn.W_Q, block.attn.W_K):
            nn.init.xavier_uniform_(projection.weight, generator=generator)
    first = windows(1, seed=seed)[0]
    exercise = CausalLM()(first, generator)
    with record(model, "blocks.*.attn.pattern") as activations:
        (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
    gradient = torch.cat([block.attn.W_Q.weight.grad.flatten() for block in model.blocks]).norm()
    entropy = torch.stack([row_entropy(pattern, View(), normalised=True).nanmean() for pattern in activations.values()]).mean()
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    return {
        "scaled": scaled, "seed": seed, "gradient": float(gradient), "entropy": float(entropy), "loss": learnt.loss,
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _arms_table(arms: pd.DataFrame) -> Table:
    return table(
        arms, "Every model.", scaled=("", "are the scores divided by √d_k?"), seed=("", "of weights and data"),
        gradient=("1", "‖∂L/∂W_Q‖ over all layers before the first step"), entropy=("1", "row entropy over ln(visible keys) before the first step"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _jacobian_table(seed: int, n_keys: int = 64, n_draws: int = 200) -> Table:
    """‖diag(p) − ppᵀ‖ for scores of growing spread."""
    scores = np.random.default_rng(seed).standard_normal((n_draws, n_keys))
    rows = []
    for spread in STDS:
        p = softmax(spread * scores, axis=1)
        squares = p**2
        norm = np.sqrt((squares * (1 - p) ** 2).sum(1) + squares.sum(1) ** 2 - (squares**2).sum(1))
        rows.append({"spread": spread, "norm": float(norm.mean())})
    return table(
        pd.DataFrame(rows), f"The softmax over {n_keys} keys.", spread=("1", "standard deviation of the scores"),
        norm=("1", "Frobenius norm of the Jacobian, mean over draws"),
    )  # fmt: skip


STUDY = ScaledDotProduct
