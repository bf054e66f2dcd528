"""What does BatchNorm do? Does it standardise, speed up, keep gradients alive, and fail where lengths vary, or where batches differ in kind?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._curves import in_parts
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._tasks_batches import D_VOCAB, KINDS, Kinds, Varied, loss_in_training_mode, pieces
from analyses.studies._training import BATCH, LENGTH, bigram, held_out, learn, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer, TransformerConfig
from model.training import CausalLM, evaluate, token_loss
from model.training.layers import norms
from model.training.objectives import Batch
from probes import record
from reports import Bars, Figure, Lines, Series, Table

NORMS = {"batch": "batch norm", "layer": "layer norm", "none": "no norm"}
SETTINGS = {
    "one length": ("batch", "none"),
    "lengths vary": ("batch", "layer"),
    "one kind a batch": ("batch", "layer"),
    "mixed kinds": ("batch", "layer"),
}
"""what stands together in a batch, and which norms are compared there"""
RATES = (3e-3, 1e-2)
"""peak learning rates: all arms learn at the first, and those of one length, whose course is compared, at the second, too"""
ARMS = (
    *((setting, norm, RATES[0]) for setting, kinds in SETTINGS.items() for norm in kinds),
    *(("one length", norm, RATES[1]) for norm in SETTINGS["one length"]),
)
ROWS = 15
"""windows of a batch of kinds, in training and test: five of each kind where they are mixed"""
ALL = "all three in a batch"
WORST = math.log(PAPER.d_vocab)
"""nats per character of a uniform guess: what a training counts as that breaks off"""
DEPTH = 12
"""blocks of the networks that are looked at before the first step"""


@dataclass(frozen=True, kw_only=True)
class BatchNorm(Study):
    number: ClassVar[int] = 13
    name: ClassVar[str] = "batch-norm"
    question: ClassVar[str] = "What does BatchNorm do?"
    popular: ClassVar[str] = (
        "It standardises batches, speeds convergence and prevents vanishing gradients, but does badly on variable-length sequences."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="it standardises every coordinate, of new text, too", quantity="largest distance on held-out text", relation="<", threshold=0.2),
        Prediction(says="it speeds convergence", quantity="training loss without norm, over the course, at the better rate", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="without residual connections it keeps the gradient of the first block alive", quantity="gradient with batch norm over none", relation=">", threshold=10.0),
        Prediction(says="it does badly where lengths vary", quantity="lost where lengths vary", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="batch norm beats the bigram on windows of one length", quantity="batch norm minus bigram", relation="<", threshold=0.0, unit="nats"),
    )  # fmt: skip
    method: ClassVar[str] = (
        "Distance: the larger of |mean| and |variance − 1| of a normalised coordinate, the largest over all coordinates of all norms, behind the last step: of "
        "held-out prose in evaluation mode, where running statistics stand in for the text's own (0.2 is a small effect in the sense of Cohen 1988), and of a batch of the "
        f"training text in training mode, where it is what ε and rounding leave. Convergence: training loss, mean over all steps, without any norm minus with batch norm, each at "
        f"the better of the peak learning rates {RATES[0]:g} and {RATES[1]:g}. Gradient: ‖∂L/∂θ‖ of the first of "
        f"{DEPTH} blocks without residual connections, where gradients vanish, before the first step, with batch norm over without norms; the same with residual "
        "connections. Lost where lengths vary: held-out loss with batch norm minus layer norm on windows cut to between 4 and 60 characters. To tell lengths from kinds, both norms "
        "also learn prose, phonemes and counted numbers, in batches of one kind each and in batches of all three: what batch norm loses more "
        "in the first is lost to statistics that change from batch to batch, at one length. Test batches are made up as those of the training are."
    )
    scale: ClassVar[str] = "0.1 M parameters, two blocks, batches of 15 or 16 windows of 32 tokens, or of 4 to 60"
    limits: ClassVar[str] = (
        "Two blocks, and two learning rates where the course is compared, one elsewhere: deeper networks and higher rates, for which batch norm was made, "
        "are not. One momentum of the running statistics (0.1), which decides how far the last batches are what evaluation uses. Gradients are looked at "
        "before the first step alone."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Ioffe & Szegedy 2015, Batch Normalization", "Santurkar et al. 2018, How Does Batch Normalization Help Optimization?",
        "Shen et al. 2020, PowerNorm: Rethinking Batch Normalization in Transformers",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 250, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 380, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(*arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS])
        frame, curves = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("arm", "curve"))
        starts = pd.DataFrame([row for rows in each(_starts, [(seed,) for seed in seeds]) for row in rows])
        return _effects(frame, starts, bigram(n=self.n_held_out)), {
            "arms": _arms_table(frame), "curves": _curves_table(curves), "starts": _starts_table(starts),
        }  # fmt: skip

    def finding(self, effects: Mapping[str, Effect]) -> str:
        exact, distance, speed, low, high, lengths, kinds, mixed, rest = (
            effects[name].estimate
            for name in (
                "largest distance in training mode", "largest distance on held-out text", "training loss without norm, over the course, at the better rate",
                *(f"training loss without norm, over the course, {rate:g}" for rate in RATES), "lost where lengths vary", "lost in batches of one kind", "lost in mixed batches",
                "still lost in batches of one kind, with the statistics of the batch",
            )
        )  # fmt: skip
        batch, none, batch_residual, none_residual = (effects[_gradient(norm, residual)].estimate for residual in (False, True) for norm in ("batch", "none"))
        return (
            f"With its running statistics no coordinate of held-out text has a mean further than {distance:.2g} from 0 or a variance further than that from 1 ({exact:.1g} in "
            f"training mode). The training loss over the whole course lies {abs(speed):.2f} nats {'below' if speed > 0 else 'above'} that without any norm, each at the better of two "
            f"rates ({-low:+z.2f} at {RATES[0]:g}, {-high:+z.2f} at {RATES[1]:g}). The gradient of the first of {DEPTH} blocks is {batch:.2g} with batch norm and {none:.2g} without "
            f"norms where there are no residual connections, {batch_residual:.2g} and {none_residual:.2g} where there are. Against layer norm it loses {lengths:+z.2f} nats where lengths "
            f"vary, {mixed:+z.2f} in batches of three kinds of text and {kinds:+z.2f} in batches of one kind each, of which {rest:+z.2f} stay lost with the statistics of the test batch "
            f"in place of the running ones."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        arms, curves = tables["arms"].frame, tables["curves"].frame
        arms = arms[arms.rate == RATES[0]]
        loss, unlike = (
            part.groupby(["setting", "norm", "seed"])[["loss", "loss_as_in_training"]].mean().groupby(["setting", "norm"]).agg(["mean", "min", "max"])
            for part in (arms[_as_trained(arms)], arms[~_as_trained(arms)])
        )
        rows = [
            (f"{setting}: {NORMS[norm]}{', test batch' if column == 'loss_as_in_training' else ''}", loss.loc[(setting, norm), column])
            for setting, kinds in SETTINGS.items() for norm in kinds for column in ("loss", "loss_as_in_training") if norm == "batch" or column == "loss"
        ]  # fmt: skip
        rows.append(("mixed kinds: batch norm, one-kind test", unlike.loc[("mixed kinds", "batch"), "loss_as_in_training"]))
        mean = curves[curves.setting == "one length"].groupby(["step", "norm", "rate"]).loss.mean().unstack(["norm", "rate"])
        whole = curves[curves.setting == "one length"].groupby(["norm", "rate"]).seed.nunique() == self.n_seeds
        courses = {f"{NORMS[norm]}, {rate:g}": mean[norm, rate] for norm, rate in mean.columns if whole[norm, rate]}
        return (
            Bars(
                name="loss", title="Loss by the norm and by what a batch holds",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; “test batch”: with the statistics of the test batch, made up as "
                "in training, in place of the running ones; “one-kind test”: with those of a batch of one kind. Compare within a setting.",
                alt=", ".join(f"{label} {values['mean']:.3f}" for label, values in rows), labels=[label for label, _ in rows],
                values=pd.Series([values["mean"] for _, values in rows]).to_numpy(), low=pd.Series([values["min"] for _, values in rows]).to_numpy(),
                high=pd.Series([values["max"] for _, values in rows]).to_numpy(), unit="nats per token",
            ),
            Lines(
                name="curves", title="How fast it learns, against no norm",
                caption=f"Loss on the training text, by the peak learning rate; mean of {self.n_seeds} seeds over neighbouring steps; an arm of which a "
                "training broke off is not drawn.",
                alt=", ".join(f"{label} ends at {course.iloc[-1]:.2f}" for label, course in courses.items()), x=mean.index.to_numpy(float),
                series={label: Series(y=course.to_numpy()) for label, course in courses.items()}, x_label="step", y_label="nats per character",
            ),
        )  # fmt: skip


def _arm(setting: str, norm: str, rate: float, seed: int, steps: int, n_held_out: int) -> dict[str, list[dict[str, Any]]]:
    """One model: its loss on each test, in both modes, and its learning curve."""
    lessons, tests = _texts(setting, seed, steps, n_held_out)
    model = started_as_in_the_paper(_config(norm, d_vocab=D_VOCAB if "kind" in setting else PAPER.d_vocab), seed)
    recipe = dataclasses.replace(recipe_of(steps, learning_rate=rate), seed=seed)
    arm = {"setting": setting, "norm": norm, "rate": rate, "seed": seed, "n_parameters": sum(p.numel() for p in model.parameters())}
    first, *others = tests
    try:
        learnt = learn(model, lessons, CausalLM(), recipe, validation=tests[first])
    except FloatingPointError:
        broken = {"loss": WORST, "loss_as_in_training": WORST, "course": WORST, "flops": math.nan, "distance": math.nan, "distance_in_training": math.nan}
        return {"arm": [{**arm, **broken, "test": test} for test in tests], "curve": []}
    loss = {first: learnt.loss, **{test: evaluate(model, tests[test], CausalLM(), recipe) for test in others}}
    found = {"course": learnt.history.loss.mean(), "flops": learnt.flops, "distance": math.nan, "distance_in_training": math.nan}
    if norm == "batch":
        found |= {"distance": _distance(model, tests[first]), "distance_in_training": _distance(model.train(), [lessons[0]])}
    rows = [{**arm, **found, "test": test, "loss": loss[test], "loss_as_in_training": loss_in_training_mode(model, tests[test])} for test in tests]
    return {"arm": rows, "curve": [{"setting": setting, "norm": norm, "rate": rate, "seed": seed, **part} for part in in_parts(learnt.history, "loss")]}


def _texts(setting: str, seed: int, steps: int, n_held_out: int) -> tuple[Sequence[Batch], dict[str, list[Batch]]]:
    """What is read in training, and the tests by what a batch of them holds, in batches as large as those of the training."""
    if setting == "one length":
        return windows(steps, seed=seed), {"prose": _in_batches(held_out(n=n_held_out), BATCH)}
    if setting == "lengths vary":
        test = Varied(batches=held_out(60, n_held_out), least=4, seed=seed)
        return Varied(batches=windows(steps, 60, BATCH, seed), least=4, seed=seed), {"prose": _in_batches(test, BATCH)}
    lessons = Kinds(n_batches=steps, batch=ROWS, length=LENGTH, mixed=setting == "mixed kinds", seed=seed)
    n = max(n_held_out // 2 // ROWS, 1) * ROWS
    held = {kind: pieces(kind, n, LENGTH) for kind in KINDS}
    mixed = tuple(torch.stack(parts, dim=1).flatten(0, 1) for parts in zip(*held.values(), strict=True))  # the kinds in turn
    return lessons, {test: _in_batches([batch], ROWS) for test, batch in {ALL: mixed, **held}.items()}


def _in_batches(batches: Sequence[Batch], rows: int) -> list[Batch]:
    """The same rows, so many in a batch."""
    tokens, mask = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return list(zip(tokens.split(rows), mask.split(rows), strict=True))


def _as_trained(arms: pd.DataFrame) -> pd.Series:
    """Is the test made up as the batches of the training were?"""
    return (arms.setting == "mixed kinds") == (arms.test == ALL)


def _config(norm: str, **changes: Any) -> TransformerConfig:
    return dataclasses.replace(PAPER, norm=norm, final_norm=norm != "none", **changes)


@torch.no_grad()
def _distance(model: Transformer, batches: Sequence[Batch]) -> float:
    """The largest of |mean| and |variance − 1| of a normalised coordinate over the real tokens, of all norms, in the mode that the model is in."""
    model, seen = deepcopy(model), []  # running statistics move in training mode
    for batch in batches:
        with record(model, "*.normalized") as activations:
            model(*batch)
        seen.append(torch.stack([value[batch[1]] for value in activations.values()]).double())
    values = torch.cat(seen, dim=1)  # norm token coordinate
    return float(torch.maximum(values.mean(1).abs(), (values.var(1, unbiased=False) - 1).abs()).max())


def _starts(seed: int) -> list[dict[str, Any]]:
    """The first block's gradient before the first step, of every norm with and without residual connections."""
    rows = []
    for norm in NORMS:
        for residual in (False, True):
            model = started_as_in_the_paper(_config(norm, n_layers=DEPTH, residual=residual), seed).double().train()
            exercise = CausalLM()(windows(1, seed=seed)[0], torch.Generator())
            (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
            gradient = norms({"blocks.0." + name: parameter.grad for name, parameter in model.blocks[0].named_parameters()})["blocks.0"]
            rows.append({"norm": norm, "residual": residual, "seed": seed, "gradient": gradient})
    return rows


def _effects(frame: pd.DataFrame, starts: pd.DataFrame, pairs: float) -> list[Effect]:
    means = frame[_as_trained(frame)].groupby(["rate", "setting", "norm", "seed"])[["loss", "loss_as_in_training", "course"]].mean()
    loss, trained, course = means.loss[RATES[0]], means.loss_as_in_training[RATES[0]], means.course.unstack("seed")
    better = {norm: min(RATES, key=lambda rate: course.loc[(rate, "one length", norm)].mean()) for norm in SETTINGS["one length"]}
    at_best = {norm: means.xs((rate, "one length", norm)) for norm, rate in better.items()}
    distances = frame[(frame.setting == "one length") & (frame.norm == "batch") & (frame.rate == RATES[0])]
    gradient = starts.groupby(["norm", "residual", "seed"]).gradient.mean()
    lost = {setting: loss[setting, "batch"] - loss[setting, "layer"] for setting, kinds in SETTINGS.items() if "layer" in kinds}
    return [
        Effect.over_seeds("largest distance on held-out text", distances.distance),
        Effect.exact("largest distance in training mode", distances.distance_in_training.max()),
        Effect.over_seeds("training loss without norm, over the course, at the better rate", at_best["none"].course - at_best["batch"].course, "nats"),
        *(
            Effect.over_seeds(
                f"training loss without norm, over the course, {rate:g}", course.loc[(rate, "one length", "none")] - course.loc[(rate, "one length", "batch")], "nats"
            )
            for rate in RATES
        ),
        *(Effect.exact(f"better rate, {NORMS[norm]}", rate) for norm, rate in better.items()),
        Effect.over_seeds("lost without norm at the end, at the better rate", at_best["none"].loss - at_best["batch"].loss, "nats"),
        Effect.of_ratios("gradient with batch norm over none", gradient["batch", False] / gradient["none", False]),
        Effect.of_ratios("gradient with batch norm over none, residual", gradient["batch", True] / gradient["none", True]),
        Effect.of_ratios("gradient with layer norm over none", gradient["layer", False] / gradient["none", False]),
        *(Effect.of_ratios(_gradient(norm, residual), gradient[norm, residual]) for norm in ("batch", "none") for residual in (False, True)),
        Effect.over_seeds("lost where lengths vary", lost["lengths vary"], "nats"),
        Effect.over_seeds("lost in batches of one kind", lost["one kind a batch"], "nats"),
        Effect.over_seeds("lost in mixed batches", lost["mixed kinds"], "nats"),
        Effect.over_seeds("lost to batches of one kind", lost["one kind a batch"] - lost["mixed kinds"], "nats"),
        Effect.over_seeds("given back by the statistics of the batch", loss["one kind a batch", "batch"] - trained["one kind a batch", "batch"], "nats"),
        Effect.over_seeds(
            "still lost in batches of one kind, with the statistics of the batch", trained["one kind a batch", "batch"] - loss["one kind a batch", "layer"], "nats"
        ),
        Effect.over_seeds("batch norm minus bigram", loss["one length", "batch"] - pairs, "nats"),
    ]


def _gradient(norm: str, residual: bool) -> str:
    """The name of its quantity."""
    return f"gradient of the first block, {NORMS[norm]}, {'residual' if residual else 'no residual'}"


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model, on each test.", setting=("", "what stands together in a batch"), norm=("", "kind of norm"), rate=("1", "peak learning rate"),
        seed=("", "of weights and data"), n_parameters=("parameters", "of the model"), course=("nats per token", "on the training text, mean over all steps"),
        flops=("FLOP", "of the training, 6 per weight and token; missing where it broke off"),
        distance=("1", "largest |mean| or |variance − 1| of a normalised coordinate on the first test, in evaluation mode; of batch norm"),
        distance_in_training=("1", "the same on a batch of the training text, in training mode"), test=("", "what a test batch holds"),
        loss=("nats per token", "on held-out text, behind the last step"), loss_as_in_training=("nats per token", "the same with the statistics of the test batch"),
    )  # fmt: skip


def _curves_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The training.", setting=("", "what stands together in a batch"), norm=("", "kind of norm"), rate=("1", "peak learning rate"), seed=("", "of weights and data"),
        step=("steps", "middle of the steps that are averaged"), loss=("nats per token", "on the training text, mean of these steps"),
    )  # fmt: skip


def _starts_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Networks of {DEPTH} blocks before the first step.", norm=("", "kind of norm"), residual=("", "are there residual connections?"),
        seed=("", "of weights and data"), gradient=("1", "‖∂L/∂θ‖ of the first block, in training mode"),
    )  # fmt: skip


STUDY = BatchNorm
