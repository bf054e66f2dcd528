"""Why LayerNorm and not BatchNorm? Does batch norm tie examples together, learn worse, and suffer from lengths that vary?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._tasks_batches import Varied, loss_in_training_mode
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, learn, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import CausalLM
from probes.influence import influence
from reports import Bars, Figure, Heatmap, Table

NORMS = {"layer": "layer norm", "batch": "batch norm", "rms": "RMS norm"}
LONG = 60
"""characters of a window before it is cut to between 4 and 60, 32 on average, as many as the windows of one length have"""
ARMS = (("layer", False), ("batch", False), ("rms", False), ("layer", True), ("batch", True))
"""norm, and whether lengths vary"""


@dataclass(frozen=True, kw_only=True)
class LayerNormOrBatchNorm(Study):
    number: ClassVar[int] = 12
    name: ClassVar[str] = "layer-norm-or-batch-norm"
    question: ClassVar[str] = "Why LayerNorm and not BatchNorm?"
    popular: ClassVar[str] = (
        "LayerNorm works per sample and suits variable lengths; BatchNorm works over the batch and does not suit a Transformer."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with layer norm a sample does not depend on the others", quantity="influence of other windows, layer norm", relation="==", threshold=0.0),
        Prediction(says="with batch norm it does", quantity="influence of other windows, batch norm", relation=">", threshold=0.01),
        Prediction(says="with batch norm a Transformer learns worse", quantity="lost by batch norm", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it suffers more from lengths that vary", quantity="lost more by batch norm where lengths vary", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="layer norm beats the bigram", quantity="layer norm minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Character models that differ in their norm alone: layer norm, batch norm over the real tokens of the batch with running statistics in "
        "evaluation, RMS norm. Influence: the gradient, in training mode behind the last step, of a random projection of the logits in the middle of one "
        "window with respect to the embeddings of all sixteen; the share of its norm on the other windows, and on later characters of the same one. "
        "Lengths that vary: windows of 60 characters, each cut to between 4 and 60, in training and on held-out prose; the cost is batch norm "
        "minus layer norm there, less the same difference on windows of 32."
    )
    scale: ClassVar[str] = "0.1 M parameters, batches of 16 windows of 32 characters"
    limits: ClassVar[str] = (
        "Sixteen windows of one book are 512 tokens that resemble each other; smaller batches, or batches of one kind of text each (question 13), are "
        "harder for batch norm. A large model spread over many devices meets costs that are not measured here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ioffe & Szegedy 2015, Batch Normalization", "Ba et al. 2016, Layer Normalization",
        "Shen et al. 2020, PowerNorm: Rethinking Batch Normalization in Transformers", "Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 5, "steps": 250, "n_held_out": 256},
        "full": {"n_seeds": 6, "steps": 500, "n_held_out": 600},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 256
    """held-out pieces"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(norm, varied, seed, self.steps, self.n_held_out) for seed in seeds for norm, varied in ARMS])
        frame = pd.DataFrame([row for row, _ in found])
        arms = {arm: part.set_index("seed") for arm, part in frame.groupby(["norm", "varied"])}
        loss = {arm: part.loss for arm, part in arms.items()}
        layer, batch, rms = (arms[norm, False] for norm in NORMS)
        effects = [
            Effect.exact(
                "influence of other windows, layer norm", float(max(layer.others.max(), rms.others.max(), arms["layer", True].others.max()))
            ),
            Effect.over_seeds("influence of other windows, batch norm", batch.others),
            Effect.exact("influence of later characters, layer norm", float(layer.later.max())),
            Effect.over_seeds("influence of later characters, batch norm", batch.later),
            Effect.over_seeds("lost by batch norm", batch.loss - layer.loss, "nats"),
            Effect.over_seeds("lost by RMS norm", rms.loss - layer.loss, "nats"),
            Effect.over_seeds("lost by batch norm where lengths vary", loss["batch", True] - loss["layer", True], "nats"),
            Effect.over_seeds(
                "lost more by batch norm where lengths vary",
                (loss["batch", True] - loss["layer", True]) - (batch.loss - layer.loss),
                "nats",
            ),
            Effect.over_seeds("gained by the statistics of the batch", batch.loss - batch.loss_as_in_training, "nats"),
            Effect.over_seeds("layer norm minus bigram", layer.loss - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {
            "arms": _arms_table(frame),
            "influence": _influence_table(pd.DataFrame([size for _, sizes in found for size in sizes])),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        others, later, lost, more = (
            effects[name].estimate
            for name in (
                "influence of other windows, batch norm", "influence of later characters, batch norm", "lost by batch norm",
                "lost more by batch norm where lengths vary",
            )
        )  # fmt: skip
        return (
            f"With layer norm no window depends on another, exactly. With batch norm {others:.1%} of the gradient falls on other windows and {later:.2%} on later "
            f"characters, which the causal mask should hide. The model ends {lost:+.3f} nats per character behind layer norm; where lengths vary that "
            f"changes by {more:+.3f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, sizes = tables["arms"].frame, tables["influence"].frame
        loss = arms.groupby(["varied", "norm"]).loss.agg(["mean", "min", "max"])
        labels = [f"{NORMS[norm]}, {'lengths vary' if varied else 'one length'}" for varied, norm in loss.index]
        grid = sizes[sizes.norm == "batch"].groupby(["window", "position"]).share.mean().unstack("position")
        return (
            Heatmap(
                name="influence", title="What a prediction depends on besides its own past, by the norm",
                caption=f"Share of the gradient of the logits at window 0, character {LENGTH // 2}, on each character of the batch (log10), in training mode, mean of "
                f"{self.n_seeds} seeds. With layer norm all but the characters before it in window 0 are exactly 0.",
                alt=f"The largest share in another window is {grid.iloc[1:].to_numpy().max():.1e}, the largest in its own {grid.iloc[0].max():.2f}.",
                values=grid.clip(lower=1e-12).map(lambda x: float(torch.tensor(x).log10())).to_numpy(), rows=[str(i) for i in grid.index],
                columns=[str(i) for i in grid.columns], row_label="window", column_label="character", unit="log10 of the share",
            ),
            Bars(
                name="loss", title="What the norm costs, with one length and with many",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest. Many lengths have other pieces: compare within them.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in zip(labels, loss["mean"], strict=True)), labels=labels,
                values=loss["mean"].to_numpy(), low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _arm(norm: str, varied: bool, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One model: its loss in both modes, and how far one place depends on each token of a batch."""
    length = LONG if varied else LENGTH
    lessons, test = windows(steps, length, BATCH, seed), held_out(length, n_held_out)
    if varied:
        lessons, test = Varied(batches=lessons, least=4, seed=seed), list(Varied(batches=test, least=4, seed=seed))
    model = started_as_in_the_paper(dataclasses.replace(PAPER, norm=norm), seed)
    learnt = learn(model, lessons, CausalLM(), dataclasses.replace(recipe_of(steps), seed=seed), validation=test)
    shares = _shares(model, seed)
    arm = {"norm": norm, "varied": varied, "seed": seed}
    row = {
        **arm, "loss": learnt.loss, "loss_as_in_training": loss_in_training_mode(model, test), "others": float(shares[1:].norm()),
        "later": float(shares[0, LENGTH // 2 + 1 :].norm()), "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip
    places = [{**arm, "window": i, "position": j, "share": float(share)} for i, line in enumerate(shares) for j, share in enumerate(line)]
    return row, [] if varied else places


def _shares(model: Transformer, seed: int) -> torch.Tensor:
    """‖gradient‖ at each token over that of all, in training mode; Float[window pos], squares sum to 1."""
    model.train()
    sizes = influence(model, windows(1, seed=seed)[0], example=0, position=LENGTH // 2, generator=torch.Generator().manual_seed(seed))
    model.eval()
    return sizes / sizes.norm()


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", norm=("", "kind of norm"), varied=("", "do lengths vary, in training and test?"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"),
        loss_as_in_training=("nats per character", "the same in training mode: batch norm uses the statistics of the test batch"),
        others=("1", "share of the gradient's norm on other windows"), later=("1", "share on later characters of the same window"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _influence_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "How far the logits in the middle of window 0 depend on each token of a batch.", norm=("", "kind of norm"),
        varied=("", "did lengths vary in training?"), seed=("", "of weights and data"), window=("", "of the batch"), position=("", "character of the window"),
        share=("1", "norm of the gradient there over that of the whole"),
    )  # fmt: skip


STUDY = LayerNormOrBatchNorm
