"""Does attention explain a decision? Six ways of marking the tokens, against a cause that is known by construction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy.stats import kendalltau
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._tasks_triggers import CONFIG, LENGTH, N_CLASSES, N_PLAIN, Triggers, classes, decisive, learn_triggers
from analyses.studies._training import Learnt
from analyses.studies._verdict import Prediction
from model import Transformer
from probes import logit_difference, record
from probes.attribution import attention_rollout, gradient_x_input, integrated_gradients, occlusion, site_function
from reports import Bars, Figure, Table, TokenMap

WAYS = ("attention", "rollout", "gradient × input", "integrated gradients", "leave one out")
TASKS = {"1 layer, 1 trigger": (1, 1), "1 layer, 2 triggers": (1, 2), "3 layers, 1 trigger": (3, 1), "3 layers, 2 triggers": (3, 2)}
"""layers, and tokens that decide"""
SHALLOW, SHALLOW_TWO, DEEP, DEEPEST = TASKS
UNIFORM = {1: SHALLOW, 2: SHALLOW_TWO}
"""tokens that decide → the task that is taught to models whose attention is uniform, too"""
NO_SCORES = 1e-30
"""what their scores are multiplied by: a softmax of them is uniform, and no gradient worth the name reaches queries and keys"""


@dataclass(frozen=True, kw_only=True)
class Interpretability(Study):
    number: ClassVar[int] = 34
    name: ClassVar[str] = "interpretability"
    question: ClassVar[str] = "How interpretable is a Transformer?"
    popular: ClassVar[str] = "Attention is intuitive and its weights are visualised, but it does not easily explain a decision."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="attention does not mark the cause, not even of one layer", quantity=f"AUROC of attention, {SHALLOW}", relation="<", threshold=0.9),
        Prediction(says="last-layer attention marks the cause less well in a deeper model (two triggers)", quantity="AUROC of attention with 2 triggers, 1 layer minus 3", relation=">", threshold=0.1),
        Prediction(says="ways that follow the computation mark it better", quantity=f"AUROC of integrated gradients minus attention, {DEEPEST}", relation=">", threshold=0.05),
        Prediction(says="its weights say less of what leaving a token out does than they", quantity=f"agreement with leave one out, integrated gradients minus attention, {DEEPEST}", relation=">", threshold=0.05),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="every model does its task", quantity="share of right answers, worst model", relation=">", threshold=0.95),
    )
    method: ClassVar[str] = (
        "Encoders read 16 tokens and a question at the end, and name a class that one token decides, or two together (their sum modulo 4); the others say "
        "nothing; two are taught with twice as many updates as one. On the same new sequences for all seeds, in float64, tokens are marked by: attention (mean over heads of the last layer, from the question), attention "
        "rollout over all layers, |gradient × input|, |integrated gradients|, |leave one out| (the last three of the logit of the right class minus that of the "
        "next, baseline: mean of the embeddings of the tokens that say nothing). AUROC: the chance that a deciding token gets "
        "a higher mark than another of its sequence, ties a half. Agreement: Kendall's τ_b of two ways within a sequence. Models of one layer are taught once more "
        "with attention that is uniform from beginning to end: can one layer do the task without choosing where to look?"
    )
    scale: ClassVar[str] = "0.05 to 0.15 M parameters, 16 tokens, 1 or 3 layers of 4 heads"
    limits: ClassVar[str] = (
        "A cause that a model must use is not the only one that it might: leave one out, which is exact for one token at a time, is the judge of that. It shares its function and its baseline with integrated "
        "gradients and neither with attention, so that part of their closer agreement is built in. Three layers with uniform attention, which may do what one cannot, are not taught. Text has no planted cause. A model of three layers may keep its tokens unmixed or mix them, which seed and training decide."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Jain & Wallace 2019, Attention is not Explanation", "Wiegreffe & Pinter 2019, Attention is not not Explanation",
        "Abnar & Zuidema 2020, Quantifying Attention Flow in Transformers", "Kobayashi et al. 2020, Attention is Not Only a Weight",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 2, "n_examples": 4, "n_points": 4},
        "default": {"n_seeds": 3, "steps": 250, "n_examples": 64, "n_points": 40},
        "full": {"n_seeds": 5, "steps": 280, "n_examples": 128, "n_points": 80},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data"""
    steps: int = 250
    """updates of each model per token that decides"""
    n_examples: int = 64
    """new sequences whose tokens are marked"""
    n_points: int = 40
    """most gradients on the way of integrated gradients"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_arm, [(task, seed, self.steps, self.n_examples, self.n_points, self.seed) for seed in seeds for task in TASKS])
        unseeing = pd.DataFrame(each(_unseeing, [(n, seed, self.steps) for seed in seeds for n in UNIFORM]))
        models = pd.DataFrame([one["model"] for one in found])
        ways = pd.DataFrame([row for one in found for row in one["ways"]])
        seen = pd.DataFrame(_between_seeds([one["marks"] for one in found if one["model"]["task"] == DEEPEST]))
        area, agreement = (ways.pivot(index="seed", columns=["task", "way"], values=value) for value in ("auroc", "agreement"))
        effects = [
            *(Effect.over_seeds(f"AUROC of {way}, {task}", area[task, way], within=(0, 1)) for task in TASKS for way in WAYS),
            Effect.over_seeds("AUROC of attention with 2 triggers, 1 layer minus 3", area[SHALLOW_TWO, "attention"] - area[DEEPEST, "attention"]),
            *(
                Effect.over_seeds(f"AUROC of {way} minus attention, {DEEPEST}", area[DEEPEST, way] - area[DEEPEST, "attention"])
                for way in ("rollout", "integrated gradients")
            ),
            Effect.over_seeds(
                f"agreement with leave one out, integrated gradients minus attention, {DEEPEST}",
                agreement[DEEPEST, "integrated gradients"] - agreement[DEEPEST, "attention"],
            ),
            *(
                Effect.over_seeds(f"agreement of {way} with leave one out, {task}", agreement[task, way], within=(-1, 1))
                for task in TASKS for way in ("attention", "integrated gradients")
            ),
            *(
                Effect.over_seeds(f"agreement between seeds of {way}, {DEEPEST}", seen[seen.way == way].agreement, within=(-1, 1))
                for way in WAYS[:2] + WAYS[3:]
            ),
            Effect.over_seeds("share of right answers, worst model", models.groupby("seed").right.min(), within=(0, 1)),
            *(
                Effect.over_seeds(f"share of right answers with uniform attention, {task}", unseeing[unseeing.task == task].right, within=(0, 1))
                for task in UNIFORM.values()
            ),
        ]  # fmt: skip
        models = pd.concat([models.assign(attention="learnt"), unseeing.assign(attention="uniform")], ignore_index=True)
        example = _example_table(next(one["example"] for one in found if one["model"]["task"] == DEEPEST))
        return effects, {
            "models": _models_table(models),
            "ways": _ways_table(ways),
            "between_seeds": _seeds_table(seen),
            "example": example,
        }

    def finding(self, effects: Mapping[str, Effect]) -> str:
        area = {(way, task): effects[f"AUROC of {way}, {task}"].estimate for way in WAYS for task in TASKS}
        agreement = {(way, task): effects[f"agreement of {way} with leave one out, {task}"].estimate for way in ("attention", "integrated gradients") for task in TASKS}
        uniform = {n: effects[f"share of right answers with uniform attention, {task}"].estimate for n, task in UNIFORM.items()}
        rollout = effects[f"AUROC of rollout minus attention, {DEEPEST}"]
        alone = "What is missed there is missed by reading the last layer alone: r" if rollout.low > 0 else "R"
        return (
            f"Attention of the last layer marks a single deciding token with an AUROC of {area['attention', SHALLOW]:.2f} in one layer and {area['attention', DEEP]:.2f} in three, two of them with "
            f"{area['attention', SHALLOW_TWO]:.2f} and {area['attention', DEEPEST]:.2f}. {alone}ollout, made of nothing but the attention weights of all layers, has {area['rollout', DEEPEST]:.2f} "
            f"({rollout.estimate:+z.2f} [{rollout.low:+z.2f}, {rollout.high:+z.2f}]), integrated gradients {area['integrated gradients', DEEPEST]:.2f}, leave one out {area['leave one out', DEEPEST]:.2f}. "
            f"With leave one out attention agrees by {agreement['attention', DEEPEST]:.2f} (Kendall's τ) and integrated gradients by {agreement['integrated gradients', DEEPEST]:.2f} there, in one layer "
            f"by {agreement['attention', SHALLOW_TWO]:.2f} and {agreement['integrated gradients', SHALLOW_TWO]:.2f}. "
            f"With uniform attention a model of one layer names {uniform[1]:.0%} of the classes of one trigger, {uniform[2]:.0%} of those of two (a guess: {1 / N_CLASSES:.0%})."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        ways, example = tables["ways"].frame, tables["example"].frame
        by = ways.groupby(["task", "way"]).auroc
        labels = [(task, way) for task in TASKS for way in WAYS]
        said = {way: way.replace("integrated", "int.") for way in WAYS}
        low, high, mean = by.min(), by.max(), by.mean()
        return (
            Bars(
                name="auroc", title=f"With two triggers last-layer attention has an AUROC of {mean[SHALLOW_TWO, 'attention']:.2f} in one layer, {mean[DEEPEST, 'attention']:.2f} in three",
                caption=f"AUROC of the deciding tokens among 16, mean of {self.n_seeds} seeds with the smallest and largest; marks at random have 0.5. int.: integrated.",
                alt=", ".join(f"{way} in {task} {mean[task, way]:.2f}" for task, way in labels if way in WAYS[:2]), labels=[f"{task}: {said[way]}" for task, way in labels],
                values=np.array([mean[label] for label in labels]), low=np.array([low[label] for label in labels]), high=np.array([high[label] for label in labels]),
                unit="AUROC",
            ),
            TokenMap(
                name="example", title="One sequence, marked in every way",
                caption="Marks of the first new sequence by the first model of three layers, each way scaled to a largest mark of 1; * are the two tokens that decide.",
                alt=f"The deciding tokens are at {', '.join(str(i) for i in np.flatnonzero(example.decides))}.", unit="share of the largest mark", signed=False,
                rows={way: ([f"{token}*" if decides else str(token) for token, decides in zip(example.token, example.decides, strict=True)], example[way].to_numpy()) for way in WAYS},
            ),
        )  # fmt: skip


def _arm(task: str, seed: int, steps: int, n_examples: int, n_points: int, test_seed: int) -> dict[str, Any]:
    """One model: how well it does its task, and what every way makes of the same new sequences."""
    n_layers, n_triggers = TASKS[task]
    learnt, share = learn_triggers(dataclasses.replace(CONFIG, n_layers=n_layers), n_triggers, seed=seed, steps=n_triggers * steps)
    batch = Triggers(n_batches=1, batch=n_examples, n_triggers=n_triggers, seed=test_seed + 30_000)[0]
    # float32 rounds away what tokens that say nothing differ by when one is left out
    marks, cause = _marks(learnt.model.double(), batch, n_points), decisive(batch[0])[:, :LENGTH]
    loo, arm = marks["leave one out"], {"task": task, "seed": seed}
    return {
        "model": arm | _size(learnt, share),
        "ways": [arm | {"way": way, "auroc": _auroc(marked, cause), "agreement": _agreement(marked, loo)} for way, marked in marks.items()],
        "marks": marks,
        "example": {"token": batch[0][0, :LENGTH].tolist(), "decides": cause[0].tolist(), **{way: (m[0] / m[0].max().clamp(min=1e-12)).tolist() for way, m in marks.items()}},
    }  # fmt: skip


def _unseeing(n_triggers: int, seed: int, steps: int) -> dict[str, Any]:
    """A model of one layer that reads the mean of all tokens: how well it does its task."""
    learnt, share = learn_triggers(dataclasses.replace(CONFIG, n_layers=1, score_scale=NO_SCORES), n_triggers, seed=seed, steps=n_triggers * steps)
    return {"task": UNIFORM[n_triggers], "seed": seed} | _size(learnt, share)


def _size(learnt: Learnt, share: float) -> dict[str, float]:
    return {"right": share, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _marks(model: Transformer, batch: tuple[Tensor, Tensor], n_points: int) -> dict[str, Float[Tensor, "batch pos"]]:
    """Every way's marks of the 16 tokens, at least 0."""
    tokens = batch[0]
    with torch.no_grad(), record(model, "blocks.*.attn.pattern") as activations:
        model(*batch)
    patterns = list(activations.values())
    answers = classes(tokens)
    rival = N_PLAIN + (answers - N_PLAIN + 1) % N_CLASSES
    function = site_function(model, batch, logit_difference(answers.tolist(), rival.tolist(), positions=-1))
    plain = function.value[tokens < N_PLAIN].mean(0).expand_as(function.value)
    marks = {
        "attention": patterns[-1].mean(1)[:, -1],
        "rollout": attention_rollout(patterns)[:, -1],
        "gradient × input": gradient_x_input(function, plain),
        "integrated gradients": integrated_gradients(function, plain, n_steps=min(10, n_points), max_steps=n_points).attribution,
        "leave one out": occlusion(function, plain),
    }
    return {way: marked[:, :LENGTH].detach().abs() for way, marked in marks.items()}


def _auroc(marks: Float[Tensor, "batch pos"], cause: Bool[Tensor, "batch pos"]) -> float:
    """The chance that a deciding token is marked higher than another of its sequence, ties a half, mean over sequences."""
    higher = (marks[:, :, None] > marks[:, None, :]).double() + (marks[:, :, None] == marks[:, None, :]).double() / 2
    pairs = cause[:, :, None] & ~cause[:, None, :]
    return float(((higher * pairs).sum((1, 2)) / pairs.sum((1, 2))).mean())


def _agreement(first: Float[Tensor, "batch pos"], second: Float[Tensor, "batch pos"]) -> float:
    """Kendall's τ_b, mean over sequences; NaN where all marks of one side are equal."""
    if bool((first == first[:, :1]).all()) or bool((second == second[:, :1]).all()):
        return float("nan")
    return float(np.mean([kendalltau(a, b).statistic for a, b in zip(first.numpy(), second.numpy(), strict=True)]))


def _between_seeds(marks: list[dict[str, Tensor]]) -> list[dict[str, Any]]:
    """How well two models agree, way by way, each in one pair only: pairs that share a model are not independent."""
    return [
        {"pair": i, "way": way, "agreement": _agreement(one[way], other[way])}
        for i, (one, other) in enumerate(zip(marks[::2], marks[1::2], strict=False))
        for way in WAYS
    ]


def _models_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model.", task=("", "layers, and tokens that decide"), attention=("", "learnt, or uniform from beginning to end"), seed=("", "of weights and data"), right=("1", "share of right answers on new sequences"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _ways_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What every way makes of the new sequences.", task=("", "layers, and tokens that decide"), seed=("", "of weights and data"), way=("", "of marking tokens"),
        auroc=("1", "of the deciding tokens among all of their sequence"), agreement=("1", "Kendall's τ_b with leave one out; NaN where all marks are equal"),
    )  # fmt: skip


def _seeds_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, f"Do models that differ in their seed alone agree? {DEEPEST}.", pair=("", "of seeds: the first two, the next two …"), way=("", "of marking tokens"),
        agreement=("1", "Kendall's τ_b on the same sequences"),
    )  # fmt: skip


def _example_table(columns: Mapping[str, list[Any]]) -> Table:
    frame = pd.DataFrame({name: columns[name] for name in ("token", "decides", *WAYS)})
    return table(
        frame, f"The first new sequence, first model of: {DEEPEST}.", token=("", "number of the token"), decides=("", "is it one of the causes?"),
        **{way: ("1", "mark over the largest mark of the sequence") for way in WAYS},
    )  # fmt: skip


STUDY = Interpretability
