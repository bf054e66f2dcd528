"""What are position encodings for? Is a Transformer blind to order without them, a decoder as much as an encoder?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import PAPER, started_as_in_the_paper
from analyses.studies._tasks_neighbour import CHANCE, CONFIG, N_TOKENS, learn_neighbour
from analyses.studies._training import BASE, LENGTH, bigram, character_model, held_out, learn_characters, recipe_of
from analyses.studies._verdict import Prediction
from model import Transformer
from probes import linear_probe, record, total_variation
from reports import Bars, Figure, Table

QUARTERS = 4
"""parts of the window that the probe tells apart"""
ARMS = (("small", "learned"), ("small", "none"), ("Glorot", "learned"), ("Glorot", "sinusoidal"), ("Glorot", "none"))
"""start of the weights and kind of positions of the decoders of characters"""


@dataclass(frozen=True, kw_only=True)
class RoleOfPositions(Study):
    number: ClassVar[int] = 23
    name: ClassVar[str] = "role-of-positions"
    question: ClassVar[str] = "What are position encodings for?"
    popular: ClassVar[str] = (
        "A Transformer does not depend on the order of its tokens; without position encodings it cannot process a sequence."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="without positions an encoder is blind to order", quantity="equivariance error of the encoder", relation="<", threshold=1e-4),
        Prediction(says="so is a decoder", quantity="prediction moved by shuffling", relation="<", threshold=0.02),
        Prediction(says="without positions an encoder cannot tell who stands next to whom", quantity="encoder's accuracy lost", relation=">", threshold=0.1),
        Prediction(says="without positions a decoder learns text worse from small weights, N(0, 0.02)", quantity="loss without positions", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="without positions a decoder learns text worse from Glorot's start, too", quantity="loss without positions, Glorot's start", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the decoder with positions beats the bigram", quantity="learned minus bigram", relation="<", threshold=0.0, unit="nats"
        ),
        Prediction(
            says="the encoder with positions solves the task", quantity="encoder's accuracy with positions", relation=">", threshold=0.9
        ),
    )
    method: ClassVar[str] = (
        "Models with positions and with none read the same data. Decoders of characters start with all weights N(0, 0.02) (Radford et al. 2019), or with Glorot's "
        "matrices and the first Transformer's embeddings, of size 1, learned positions as large as sinusoids; there arms share all other weights. Where no start is "
        "named it is the former, as of the models of the task. Equivariance error: the largest "
        "difference between the encoder's logits for permuted tokens and its permuted logits, over the largest logit. Shuffling: total "
        "variation between a trained decoder's predictions behind a held-out window and behind the same window with all characters but the "
        f"last in another order. Task: which token stands to the left, in random permutations of {N_TOKENS} tokens, where the set of tokens "
        "says nothing. Position read from states: linear probe for the quarter of the window, behind the last block, on held-out windows."
    )
    scale: ClassVar[str] = "0.1 M parameters, windows of 32 characters, permutations of 12 tokens"
    limits: ClassVar[str] = (
        "Small models, short windows, two starts and short trainings: what positions are worth after more steps is not asked. How a decoder counts without "
        "positions is not taken apart, and longer windows may be harder to count in."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Haviv et al. 2022, Transformer Language Models without Positional Encodings Still Learn Positional Information",
        "Kazemnejad et al. 2023, The Impact of Positional Encoding on Length Generalization in Transformers",
        "Yun et al. 2020, Are Transformers universal approximators of sequence-to-sequence functions?",
    )
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 4, "task_steps": 4, "n_held_out": 8},
        "default": {"n_seeds": 3, "steps": 250, "task_steps": 300, "n_held_out": 128},
        "full": {"n_seeds": 5, "steps": 350, "task_steps": 300, "n_held_out": 600},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; all arms share them"""
    steps: int = 250
    """updates of each character model"""
    task_steps: int = 300
    """updates of each model of the task"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds, arms = range(self.seed, self.seed + self.n_seeds), ("learned", "none")
        text = pd.DataFrame(each(_text, [(*arm, seed, self.steps, self.n_held_out) for seed in seeds for arm in ARMS]))
        task = pd.DataFrame(
            each(_task, [(kind, causal, seed, self.task_steps) for seed in seeds for causal in (False, True) for kind in arms])
        )
        by_text = {arm: part.reset_index(drop=True) for arm, part in text.groupby(["start", "positions"])}
        by_task = {key: part.reset_index(drop=True) for key, part in task.groupby(["stack", "positions"])}
        with_, without = (by_task["encoder", kind].accuracy for kind in arms)
        loss, pairs = {arm: part.loss for arm, part in by_text.items()}, bigram(n=self.n_held_out)
        effects = [
            Effect.exact("equivariance error of the encoder", float(task.error.max())),
            Effect.over_seeds("prediction moved by shuffling", by_text["small", "none"].moved, within=(0, 1)),
            Effect.over_seeds("encoder's accuracy lost", with_ - without, within=(-1, 1)),
            Effect.over_seeds("loss without positions", loss["small", "none"] - loss["small", "learned"], "nats"),
            Effect.over_seeds("loss without positions, Glorot's start", loss["Glorot", "none"] - loss["Glorot", "learned"], "nats"),
            Effect.over_seeds("loss without positions, Glorot's start, off sinusoids", loss["Glorot", "none"] - loss["Glorot", "sinusoidal"], "nats"),
            Effect.over_seeds("none minus bigram", loss["small", "none"] - pairs, "nats"),
            Effect.over_seeds("learned minus bigram", loss["small", "learned"] - pairs, "nats"),
            Effect.over_seeds("encoder's accuracy with positions", with_, within=(0, 1)),
            Effect.over_seeds("encoder's accuracy without positions", without, within=(0, 1)),
            Effect.over_seeds("decoder's accuracy without positions", by_task["decoder", "none"].accuracy, within=(0, 1)),
            Effect.over_seeds("position read from the decoder without positions", by_text["small", "none"].probed, within=(0, 1)),
            Effect.over_seeds("prediction moved by shuffling, Glorot's start", by_text["Glorot", "none"].moved, within=(0, 1)),
        ]
        return effects, {"text": _text_table(text), "task": _task_table(task)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        moved, lost, with_, without, decoder, probed, loss, glorot, sinusoids = (
            effects[name].estimate
            for name in (
                "prediction moved by shuffling", "encoder's accuracy lost", "encoder's accuracy with positions", "encoder's accuracy without positions",
                "decoder's accuracy without positions", "position read from the decoder without positions", "loss without positions",
                "loss without positions, Glorot's start", "loss without positions, Glorot's start, off sinusoids",
            )
        )  # fmt: skip
        encoder, blind = (one.outcome(effects[one.quantity]) for one in self.predictions[:2])
        return (
            f"An encoder without positions {'treats' if encoder == 'holds' else 'does not treat'} permuted tokens alike and loses {lost:.2f} in accuracy (from {with_:.2f} to "
            f"{without:.2f}). {_BLIND[blind]}: shuffling what came before moves its prediction by {moved:.2f} (total variation), it names the neighbour in {decoder:.2f} of cases, and "
            f"a probe reads the quarter of the window from its states in {probed:.2f} (chance {1 / QUARTERS:g}). On text a decoder without positions ends {loss:+z.3f} nats off one with "
            f"learned positions where weights start at N(0, 0.02); from Glorot's start {glorot:+z.3f}, and {sinusoids:+z.3f} off one with sinusoids."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        task, text = (tables[name].frame for name in ("task", "text"))
        right = task.groupby(["stack", "positions"]).accuracy.agg(["mean", "min", "max"])
        loss = text.groupby(["start", "positions"]).loss.agg(["mean", "min", "max"]).loc[list(ARMS)]
        behind = [loss["mean"][start, "none"] - loss["mean"][start, "learned"] for start in _STARTS]
        names = [f"{stack}, {_KINDS[kind]}" for stack, kind in right.index]
        starts = [f"{_KINDS[kind]}, {_STARTS[start]}" for start, kind in loss.index]
        told = ", ".join(f"{name} {value:.2f}" for name, value in zip(names, right["mean"], strict=True))
        return (
            Bars(
                name="neighbour", title="Who names the left neighbour, with positions and without",
                caption=f"Share of right answers, mean of {self.n_seeds} seeds with the smallest and largest; a guess is right in {CHANCE:.2f}.",
                alt=told, labels=names, values=right["mean"].to_numpy(), low=right["min"].to_numpy(), high=right["max"].to_numpy(), unit="share of right answers",
            ),
            Bars(
                name="text", title=f"Without positions a decoder ends {behind[0]:+z.3f} nats off learned ones; from Glorot's start {behind[1]:+z.3f}",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; character pairs reach {bigram(n=self.n_held_out):.2f}.",
                alt=", ".join(f"{name} {value:.3f}" for name, value in zip(starts, loss["mean"], strict=True)), labels=starts, values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip


_BLIND = {"holds": "A decoder is as blind", "fails": "A decoder is not blind", "open": "Whether a decoder is as blind is open"}
_KINDS = {"learned": "learned positions", "sinusoidal": "sinusoids", "none": "no positions"}
_STARTS = {"small": "N(0, 0.02)", "Glorot": "Glorot's start"}


def _text(start: str, positions: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """A decoder of characters: its loss, what shuffling does to it, and whether its states tell the position."""
    config, started = (PAPER, started_as_in_the_paper) if start == "Glorot" else (BASE, character_model)
    model = started(dataclasses.replace(config, positions=positions), seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps), n_held_out=n_held_out)
    tokens = torch.cat([batch[0] for batch in held_out(n=n_held_out)])
    return {
        "start": start, "positions": positions, "seed": seed, "loss": learnt.loss, "moved": _moved(model, tokens, seed), "probed": _probed(model, tokens[:32], seed),
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


@torch.no_grad()
def _moved(model: Transformer, tokens: Tensor, seed: int) -> float:
    """Total variation of the prediction behind windows whose characters but the last were shuffled, mean over windows."""
    order = torch.randperm(LENGTH - 1, generator=torch.Generator().manual_seed(seed))
    shuffled = torch.cat((tokens[:, order], tokens[:, -1:]), dim=1)
    readout = total_variation().on(model, (tokens,))
    return float(readout.measure(readout.of(model(shuffled)), readout.of(model(tokens))).mean())


def _probed(model: Transformer, tokens: Tensor, seed: int) -> float:
    """How often a linear probe tells the quarter of the window in which a state stands, windows held out."""
    last = f"blocks.{model.n_layers - 1}.resid_post"
    with record(model, last) as activations, torch.no_grad():
        model(tokens)
    states, (n, length) = activations[last].flatten(0, 1).numpy(), tokens.shape
    place = np.tile(np.arange(length) * QUARTERS // length, n)
    return float(linear_probe(states, place, groups=np.repeat(np.arange(n), length), seed=seed)["accuracy"][0])


def _task(positions: str, causal: bool, seed: int, steps: int) -> dict[str, Any]:
    """A model that is to name the left neighbour; and, of an encoder without positions, how far it is from blind to order."""
    learnt, accuracy = learn_neighbour(dataclasses.replace(CONFIG, positions=positions, causal=causal), seed=seed, steps=steps)
    blind = positions == "none" and not causal
    return {
        "stack": "decoder" if causal else "encoder", "positions": positions, "seed": seed, "accuracy": accuracy,
        "error": _equivariance_error(learnt.model, seed) if blind else float("nan"), "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


@torch.no_grad()
def _equivariance_error(model: torch.nn.Module, seed: int) -> float:
    """max |f(Px) − P f(x)| / max |f(x)| over 16 sequences, each with a permutation of its own."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(N_TOKENS, (16, N_TOKENS), generator=generator)
    order = torch.rand(tokens.shape, generator=generator).argsort(1)
    logits, permuted = model(tokens), model(tokens.gather(1, order))
    expected = logits.gather(1, order.unsqueeze(-1).expand_as(logits))
    return float((permuted - expected).abs().max() / logits.abs().max())


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every decoder of characters.", start=("", "of the weights: small, N(0, 0.02), or Glorot's"), positions=("", "kind of positions"), seed=("", "of weights and data"),
        loss=("nats per character", "on held-out prose, behind the last step"),
        moved=("1", "total variation of its predictions when the characters before the last are shuffled, mean over windows"),
        probed=("1", "accuracy of a linear probe for the quarter of the window, on windows that it was not fitted to"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _task_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every model that names the left neighbour.", stack=("", "does a query see later keys? an encoder's does"),
        positions=("", "kind of positions"), seed=("", "of weights and data"), accuracy=("1", "share of right answers on new permutations"),
        error=("1", "largest |f(Px) − P f(x)| over the largest logit, of encoders without positions"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


STUDY = RoleOfPositions
