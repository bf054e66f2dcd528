"""Why separate weight matrices for queries and keys? What can a head not do whose queries and keys are the same?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analyses._contract import table
from analyses.studies import _tasks_cycles as cycles
from analyses.studies import _tasks_neighbour as neighbour
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._training import BASE, bigram, character_model, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer
from probes import Edit, intervene, record
from reports import Bars, Figure, Table

SIZES = (2, 3, 4)
"""of the rounds of the directed relation"""
TEXT_ARMS = {
    "separate": BASE,
    "shared": dataclasses.replace(BASE, shared_qk=True),
    "shared, as many parameters": dataclasses.replace(BASE, shared_qk=True, d_mlp=288),
    "shared, as in Reformer": dataclasses.replace(BASE, shared_qk=True),
}


def of_one_length(k: Float[Tensor, "batch key head d_head"]) -> Float[Tensor, "batch key head d_head"]:
    """Every key √d_k long, so that q·k/√d_k is the length of q times a cosine.

    >>> of_one_length(torch.tensor([3.0, 4.0]))
    tensor([0.8485, 1.1314])
    """
    return F.normalize(k, dim=-1) * k.shape[-1] ** 0.5


def itself_last(scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
    """A token's score of itself at −10⁵, so that it looks at itself only where it sees nothing else.

    >>> itself_last(torch.zeros(1, 1, 2, 2)).softmax(-1)
    tensor([[[[0., 1.],
              [1., 0.]]]])
    """
    return scores.masked_fill(torch.eye(scores.shape[-1], dtype=torch.bool), -1e5)


EDITS = {"shared, as in Reformer": (Edit("blocks.*.attn.k", of_one_length), Edit("blocks.*.attn.scores", itself_last))}
"""what else an arm's attention does, in training and after it"""


@dataclass(frozen=True, kw_only=True)
class SeparateQueriesAndKeys(Study):
    number: ClassVar[int] = 2
    name: ClassVar[str] = "separate-queries-and-keys"
    question: ClassVar[str] = "Why separate weight matrices for queries and keys?"
    popular: ClassVar[str] = (
        "They capture different views of the input; with the same projection the relative information is lost and attention works worse."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="with one projection a head loses which way a relation points", quantity="accuracy lost on rounds of 3", relation=">", threshold=0.1),
        Prediction(says="with one projection a model loses who stands before whom", quantity="accuracy lost on the left neighbour", relation=">", threshold=0.1),
        Prediction(says="attention works worse on text", quantity="loss with one projection", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="separate projections learn the rounds", quantity="accuracy on rounds of 3", relation=">", threshold=0.9),
        Prediction(says="separate projections learn the neighbour", quantity="accuracy on the left neighbour", relation=">", threshold=0.9),
        Prediction(says="the model of text beats the bigram", quantity="separate minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Models whose keys are made by the matrix of the queries against models with a matrix each, from the same seeds on the same data. Rounds: "
        f"{cycles.N_NODES} nodes i → i + 1 in rounds of 2, 3 or 4, each with one of {cycles.N_HELD} things in hand; one layer with one head and no "
        "positions names what the next holds. With one matrix the scores of a head are a Gram matrix, s_ii + s_jj ≥ 2 s_ij, so that in a round of c at "
        "most c − 1 rows can have their largest score at the next: added up over the round, all c would contradict it. Neighbour: an encoder of two "
        "layers and four heads names the token to the left in permutations. Text: character decoders, once more with a wider feed-forward network in "
        "place of the missing matrix, and once as Reformer shares it: keys of one length, and a token looks at itself only where it sees nothing else "
        "(s_ii, being |q_i|², is the largest of its row among keys of one length)."
    )
    scale: ClassVar[str] = "0.1 M parameters on text, 0.02 M on rounds; windows of 32 characters"
    limits: ClassVar[str] = (
        "Symmetric scores are a property of one head without rotation: rotated queries and keys (RoPE) tell directions apart again, and heads, values and "
        "feed-forward networks find ways around. In the tasks the matrix alone is shared, without Reformer's "
        "two further measures. Larger models may care more or less."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Kitaev et al. 2020, Reformer: The Efficient Transformer (shared queries and keys)", "Vaswani et al. 2017, section 3.2.2",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 3, "task_steps": 3, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 400, "task_steps": 500, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 400, "task_steps": 500, "n_held_out": 400},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 400
    """updates of each model of text"""
    task_steps: int = 500
    """updates of each model of a task"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds, sharing = range(self.seed, self.seed + self.n_seeds), (False, True)
        rounds = pd.DataFrame(
            each(_rounds, [(size, shared, seed, self.task_steps) for seed in seeds for size in SIZES for shared in sharing])
        )
        left = pd.DataFrame(each(_neighbour, [(shared, seed, self.task_steps) for seed in seeds for shared in sharing]))
        text = pd.DataFrame(each(_text, [(arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in TEXT_ARMS]))
        of_three = rounds[rounds["size"] == 3].groupby("shared").right.apply(lambda x: x.to_numpy())
        of_left = left.groupby("shared").right.apply(lambda x: x.to_numpy())
        loss = text.groupby("arm").loss.apply(lambda x: x.to_numpy())
        effects = [
            Effect.over_seeds("accuracy lost on rounds of 3", of_three[False] - of_three[True]),
            Effect.over_seeds("accuracy lost on the left neighbour", of_left[False] - of_left[True]),
            Effect.over_seeds("loss with one projection", loss["shared"] - loss["separate"], "nats"),
            Effect.over_seeds("accuracy on rounds of 3", of_three[False], within=(0, 1)),
            Effect.over_seeds("accuracy on the left neighbour", of_left[False], within=(0, 1)),
            Effect.over_seeds("separate minus bigram", loss["separate"] - bigram(n=self.n_held_out), "nats"),
            Effect.over_seeds(
                "loss with one projection and as many parameters", loss["shared, as many parameters"] - loss["separate"], "nats"
            ),
            Effect.over_seeds("loss with one projection as in Reformer", loss["shared, as in Reformer"] - loss["separate"], "nats"),
            Effect.over_seeds("accuracy on rounds of 3 with one projection", of_three[True], within=(0, 1)),
            Effect.exact("asymmetry of scores with one projection", float(rounds[rounds.shared].asymmetry.max())),
            Effect.exact(
                "largest share of rows that point to the next, above the bound", float((rounds.largest - rounds.bound)[rounds.shared].max())
            ),
        ]
        return effects, {"rounds": _rounds_table(rounds), "neighbour": _neighbour_table(left), "text": _text_table(text)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        separate, shared, rounds, left, loss, equal, reformer = (
            effects[name].estimate
            for name in (
                "accuracy on rounds of 3", "accuracy on rounds of 3 with one projection", "accuracy lost on rounds of 3", "accuracy lost on the left neighbour",
                "loss with one projection", "loss with one projection and as many parameters", "loss with one projection as in Reformer",
            )
        )  # fmt: skip
        return (
            f"With one projection the scores of a head are symmetric; on a directed relation the accuracy of a head alone changes by {0 - rounds:+z.2f} (from "
            f"{separate:.2f} to {shared:.2f}), on the left neighbour that of a model with positions, heads and layers by {0 - left:+z.2f}. On text it ends {loss:+z.3f} nats from two "
            f"projections ({equal:+z.3f} at as many parameters, {reformer:+z.3f} with keys of one length and no token looking at itself, as in Reformer)."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        rounds, text = tables["rounds"].frame, tables["text"].frame
        right = rounds.groupby(["size", "shared"]).right.agg(["mean", "min", "max"])
        loss = text.groupby("arm", sort=False).loss.agg(["mean", "min", "max"])
        names = [f"rounds of {size}, {'one projection' if shared else 'separate'}" for size, shared in right.index]
        return (
            Bars(
                name="rounds", title="Rounds of two, three and four: what one head follows with one projection and with two",
                caption=f"Share of right answers, mean of {self.n_seeds} seeds with the smallest and largest; a guess is right in {cycles.CHANCE:g}.",
                alt=", ".join(f"{name} {value:.2f}" for name, value in zip(names, right["mean"], strict=True)), labels=names,
                values=right["mean"].to_numpy(), low=right["min"].to_numpy(), high=right["max"].to_numpy(), unit="share of right answers",
            ),
            Bars(
                name="text", title=f"On text one projection ends {loss['mean']['shared'] - loss['mean']['separate']:+z.3f} nats from two",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; character pairs reach {bigram(n=self.n_held_out):.2f}.",
                alt=", ".join(f"{name} {value:.3f}" for name, value in loss["mean"].items()), labels=list(loss.index), values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


def _rounds(size: int, shared: bool, seed: int, steps: int) -> dict[str, Any]:
    """One head that is to follow rounds: its answers, where its weights are largest, how symmetric its scores are."""
    learnt, tokens = cycles.learn_rounds(dataclasses.replace(cycles.CONFIG, shared_qk=shared), size=size, seed=seed, steps=steps)
    found, asymmetry = _largest_at_next(learnt.model, tokens, size)
    return {
        "size": size, "shared": shared, "seed": seed, "right": cycles.right_answers(learnt.model, tokens, size), "largest": found,
        "bound": (size - 1) / size if shared else 1.0, "asymmetry": asymmetry, "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


@torch.no_grad()
def _largest_at_next(model: Transformer, tokens: Tensor, size: int) -> tuple[float, float]:
    """Share of the rows whose largest score is at the next of the round; largest |s_ij − s_ji| over the largest score."""
    with record(model, "blocks.0.attn.scores") as activations:
        model(tokens)
    scores = activations["blocks.0.attn.scores"][:, 0]  # batch query key
    found = scores.argmax(-1) == cycles.next_places(tokens, size)
    return float(found.double().mean()), float((scores - scores.mT).abs().max() / scores.abs().max())


def _neighbour(shared: bool, seed: int, steps: int) -> dict[str, Any]:
    """An encoder that is to name the left neighbour."""
    learnt, right = neighbour.learn_neighbour(dataclasses.replace(neighbour.CONFIG, causal=False, shared_qk=shared), seed=seed, steps=steps)
    return {"shared": shared, "seed": seed, "right": right, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _text(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A decoder of characters."""
    model = character_model(TEXT_ARMS[arm], seed)
    with intervene(model, *EDITS[arm]) if arm in EDITS else nullcontext():
        learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    return {"arm": arm, "seed": seed, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _rounds_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every head that follows rounds.", size=("nodes", "of a round"), shared=("", "are keys made by the matrix of the queries?"),
        seed=("", "of weights and data"), right=("1", "share of right answers on new sequences"),
        largest=("1", "share of the rows whose largest score is at the next of the round"), bound=("1", "the largest share that the scores allow"),
        asymmetry=("1", "largest |s_ij − s_ji| over the largest score"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _neighbour_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every encoder that names the left neighbour.", shared=("", "are keys made by the matrix of the queries?"), seed=("", "of weights and data"),
        right=("1", "share of right answers on new permutations"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every decoder of characters.", arm=("", "how queries and keys are made"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = SeparateQueriesAndKeys
