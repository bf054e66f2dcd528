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
from analyses.studies._tasks_batches import PadsUnmarked, Varied, loss_in_training_mode
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, learn, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import CausalLM
from probes.influence import influence
from reports import Bars, Figure, Heatmap, Table

NORMS = {"layer": "layer norm", "batch": "batch norm", "rms": "RMS norm"}
LONG = 60
"""characters of a window before it is cut to between 4 and 60, 32 on average, as many as the windows of one length have"""
ONE, VARIED, UNMARKED = "one length", "lengths vary", "pads in the statistics"
ARMS = (("layer", ONE), ("batch", ONE), ("rms", ONE), ("layer", VARIED), ("batch", VARIED), ("batch", UNMARKED))
"""norm, and what it reads: windows of one length, of many, and of many with the pads among the tokens over which batch norm averages"""


@dataclass(frozen=True, kw_only=True)
class LayerNormOrBatchNorm(Study):
    number: ClassVar[int] = 12
    name: ClassVar[str] = "layer-norm-or-batch-norm"
    question: ClassVar[str] = "Why LayerNorm and not BatchNorm?"
    popular: ClassVar[str] = (
        "LayerNorm works per sample and suits variable lengths; BatchNorm works over the batch and does not suit a Transformer."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with layer norm a sample does not depend on the others", quantity="influence of other windows, layer and RMS norm", relation="==", threshold=0.0),
        Prediction(says="with batch norm, in training, it does", quantity="influence of other windows in training, batch norm", relation=">", threshold=0.01),
        Prediction(says="with batch norm a Transformer learns worse", quantity="lost by batch norm", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="it suffers more from lengths that vary", quantity="lost more by batch norm where lengths vary", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="layer norm beats the bigram", quantity="layer norm minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Character models that differ in their norm alone: layer norm, batch norm over the real tokens of the batch with running statistics in "
        "evaluation, RMS norm. Influence: the gradient, in training mode behind the last step, of a random projection of the logits in the middle of one "
        "window with respect to the embeddings of all sixteen; the L2 norm of its part on the other windows, and of that on later characters of the same "
        "one, over that of the whole (the squares of such parts sum to 1); and once more in evaluation mode. Lengths that vary: windows of 60 "
        "characters, each cut to between 4 and 60, in training and on held-out prose; the cost is batch norm minus layer norm there, less the same "
        "difference on windows of 32. Batch norm learns them with its statistics over the real tokens, and once more over real tokens and pads, which change "
        "nothing else in a decoder that reads them last."
    )
    scale: ClassVar[str] = "0.1 M parameters, batches of 16 windows of 32 characters, or of 4 to 60"
    limits: ClassVar[str] = (
        "Sixteen windows of one book are 512 tokens that resemble each other; smaller batches, or batches of one kind of text each (question 13), are "
        "harder for batch norm. One learning rate. A large model spread over many devices meets costs that are not measured here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ioffe & Szegedy 2015, Batch Normalization", "Ba et al. 2016, Layer Normalization",
        "Shen et al. 2020, PowerNorm: Rethinking Batch Normalization in Transformers", "Zhang & Sennrich 2019, Root Mean Square Layer Normalization",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 4, "steps": 250, "n_held_out": 256},
        "full": {"n_seeds": 5, "steps": 350, "n_held_out": 600},
    }

    n_seeds: int = 4
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 256
    """held-out pieces"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(norm, text, seed, self.steps, self.n_held_out) for seed in seeds for norm, text in ARMS])
        frame = pd.DataFrame([row for row, _ in found])
        arms = {arm: part.set_index("seed") for arm, part in frame.groupby(["norm", "text"])}
        loss = {arm: part.loss for arm, part in arms.items()}
        layer, batch, rms = (arms[norm, ONE] for norm in NORMS)
        lost, per_token = loss["batch", VARIED] - loss["layer", VARIED], frame[frame.norm != "batch"]
        effects = [
            Effect.exact("influence of other windows, layer and RMS norm", float(per_token.others.max())),
            Effect.over_seeds("influence of other windows in training, batch norm", batch.others, within=(0, 1)),
            Effect.exact("influence of other windows in evaluation, all norms", float(frame.others_in_evaluation.max())),
            Effect.exact("influence of later characters, layer and RMS norm", float(per_token.later.max())),
            Effect.over_seeds("influence of later characters in training, batch norm", batch.later, within=(0, 1)),
            Effect.over_seeds("lost by batch norm", batch.loss - layer.loss, "nats"),
            Effect.over_seeds("lost by RMS norm", rms.loss - layer.loss, "nats"),
            Effect.over_seeds("lost by batch norm where lengths vary", lost, "nats"),
            Effect.over_seeds("lost more by batch norm where lengths vary", lost - (batch.loss - layer.loss), "nats"),
            Effect.over_seeds("lost to pads in the statistics", loss["batch", UNMARKED] - loss["batch", VARIED], "nats"),
            Effect.over_seeds("gained by the statistics of the batch", batch.loss - batch.loss_as_in_training, "nats"),
            Effect.over_seeds("layer norm minus bigram", layer.loss - bigram(n=self.n_held_out), "nats"),
        ]
        return effects, {
            "arms": _arms_table(frame),
            "influence": _influence_table(pd.DataFrame([size for _, sizes in found for size in sizes])),
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        alone, others, evaluated, later, lost, more, pads = (
            effects[name].estimate
            for name in (
                "influence of other windows, layer and RMS norm", "influence of other windows in training, batch norm",
                "influence of other windows in evaluation, all norms", "influence of later characters in training, batch norm", "lost by batch norm",
                "lost more by batch norm where lengths vary", "lost to pads in the statistics",
            )
        )  # fmt: skip
        return (
            f"With layer norm and RMS norm {'no window depends on another, exactly' if alone == 0 else f'the gradient on other windows has {alone:.2g} of the norm of the whole'}. "
            f"With batch norm, in training mode, the gradient on other windows has {others:.1%} of the norm of the whole, and that on later characters, which the causal "
            f"mask should hide, {later:.2%}; {'in evaluation mode nothing of either is left' if evaluated == 0 else f'in evaluation mode {evaluated:.2g} of it is left'}. The model ends "
            f"{abs(lost):.3f} nats per character {'behind' if lost > 0 else 'ahead of'} layer norm; where lengths vary that changes by {more:+z.3f}, and where pads enter the "
            f"statistics, too, by {pads:+z.3f} more."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, sizes = tables["arms"].frame, tables["influence"].frame
        loss = arms.groupby(["text", "norm"]).loss.agg(["mean", "min", "max"]).loc[[(text, norm) for norm, text in ARMS]]
        labels = [f"{NORMS[norm]}, {text}" for text, norm in loss.index]
        hidden = sizes[(sizes.norm != "batch") & ((sizes.window > 0) | (sizes.position > LENGTH // 2))].share.max()
        grid = sizes[sizes.norm == "batch"].groupby(["window", "position"]).share.mean().unstack("position")
        return (
            Heatmap(
                name="influence", title="With batch norm, what a prediction depends on",
                caption=f"Norm of the gradient of the logits at window 0, character {LENGTH // 2}, on each character of the batch, over that of the whole (log10), in training "
                f"mode, mean of {self.n_seeds} seeds. With layer or RMS norm the largest on any but the characters up to it in window 0 is {hidden:.2g}.",
                alt=f"The largest share in another window is {grid.iloc[1:].to_numpy().max():.1e}, the largest in its own {grid.iloc[0].max():.2f}.",
                values=grid.clip(lower=1e-12).map(lambda x: float(torch.tensor(x).log10())).to_numpy(), rows=[str(i) for i in grid.index],
                columns=[str(i) for i in grid.columns], row_label="window", column_label="character", unit="log10",
            ),
            Bars(
                name="loss", title="Loss by the norm, with one length and with many",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest. Many lengths have other pieces: compare within them.",
                alt=", ".join(f"{label} {value:.3f}" for label, value in zip(labels, loss["mean"], strict=True)), labels=labels,
                values=loss["mean"].to_numpy(), low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _arm(norm: str, text: str, seed: int, steps: int, n_held_out: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One model: its loss in both modes, and how far one place depends on each token of a batch."""
    length = LENGTH if text == ONE else LONG
    objective = PadsUnmarked() if text == UNMARKED else CausalLM()
    lessons, test = windows(steps, length, BATCH, seed), held_out(length, n_held_out)
    if text != ONE:
        lessons, test = Varied(batches=lessons, least=4, seed=seed), list(Varied(batches=test, least=4, seed=seed))
    model = started_as_in_the_paper(dataclasses.replace(PAPER, norm=norm), seed)
    learnt = learn(model, lessons, objective, dataclasses.replace(recipe_of(steps), seed=seed), validation=test)
    shares, evaluated = (_shares(model, seed, training=training) for training in (True, False))
    arm = {"norm": norm, "text": text, "seed": seed}
    row = {
        **arm, "loss": learnt.loss, "loss_as_in_training": loss_in_training_mode(model, test, objective),
        "others": float(shares[1:].norm()), "later": float(shares[0, LENGTH // 2 + 1 :].norm()),
        "others_in_evaluation": float(torch.cat([evaluated[1:].flatten(), evaluated[0, LENGTH // 2 + 1 :]]).norm()), "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip
    places = [{**arm, "window": i, "position": j, "share": float(share)} for i, line in enumerate(shares) for j, share in enumerate(line)]
    return row, places if text == ONE else []


def _shares(model: Transformer, seed: int, *, training: bool) -> torch.Tensor:
    """‖gradient‖ at each token over that of all, in training or in evaluation mode; Float[window pos], squares sum to 1."""
    model.train(training)
    sizes = influence(model, windows(1, seed=seed)[0], example=0, position=LENGTH // 2, generator=torch.Generator().manual_seed(seed))
    model.eval()
    return sizes / sizes.norm()


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", norm=("", "kind of norm"), text=("", "what is read, in training and test"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"),
        loss_as_in_training=("nats per character", "the same in training mode: batch norm uses the statistics of the test batch"),
        others=("1", "norm of the gradient on other windows over that of the whole, in training mode"), later=("1", "the same on later characters of its window"),
        others_in_evaluation=("1", "the same on both, in evaluation mode"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _influence_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "How far the logits in the middle of window 0 depend on each token of a batch.", norm=("", "kind of norm"),
        text=("", "what was read in training"), seed=("", "of weights and data"), window=("", "of the batch"), position=("", "character of the window"),
        share=("1", "norm of the gradient there over that of the whole"),
    )  # fmt: skip


STUDY = LayerNormOrBatchNorm
