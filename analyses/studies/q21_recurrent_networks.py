"""How does a Transformer differ from a recurrent network? In what it recalls, in what waits for what, and in how much is computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._recurrent import AT_RATES, LSTM, RNN, STARTS, operations_per_token, recipe_for, rival
from analyses.studies._starts import PAPER
from analyses.studies._tasks_associations import CHANCE, learn_associations
from analyses.studies._tasks_associations import TESTS as N_PAIRS
from analyses.studies._training import LENGTH, bigram, learn_characters
from analyses.studies._verdict import Prediction
from probes.product_chain import product_chain, recurrence_in_the_open
from reports import Figure, Lines, Series, Table

TRANSFORMER = "rotary"
"""the positions of the Transformer here"""
ARMS = {"Transformer": TRANSFORMER, "LSTM": LSTM, "RNN": RNN}
AS_MUCH = "LSTM, as many operations"
"""the arm of prose whose updates are as many more as each takes less"""
SHAPE = dataclasses.replace(PAPER, positions=TRANSFORMER)
"""of the Transformer, to whose size the others are made"""
LENGTHS = (8, 16, 32, 64)
"""tokens of the passes whose products are counted"""


@dataclass(frozen=True, kw_only=True)
class RecurrentNetworks(Study):
    number: ClassVar[int] = 21
    name: ClassVar[str] = "recurrent-networks"
    question: ClassVar[str] = "How does a Transformer differ from an RNN or an LSTM?"
    popular: ClassVar[str] = (
        "It processes a sequence in parallel and captures dependencies; recurrent networks go step by step and are less efficient."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="an LSTM goes step by step, a Transformer does not", quantity="growth of the chain of products, LSTM over Transformer", relation=">", threshold=1.5),
        Prediction(says="after as many updates a Transformer recalls what an LSTM does not", quantity=f"recall of {N_PAIRS[-1]} pairs, Transformer minus LSTM", relation=">", threshold=0.1),
        Prediction(says="and predicts prose better", quantity="loss on prose, LSTM minus Transformer", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="an LSTM is less efficient: behind on prose after as many operations", quantity="loss on prose for as many operations, LSTM minus Transformer", relation=">", threshold=0.02, unit="nats"),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="a Transformer learns to recall the fewest pairs", quantity=f"recall of {N_PAIRS[0]} pairs by the Transformer", relation=">", threshold=0.9),
        Prediction(says="it and the LSTM beat the bigram", quantity="worse of the two minus bigram", relation="<", threshold=0.0, unit="nats"),
        Prediction(says="they have as many weights", quantity="weights, LSTM over Transformer", relation="==", threshold=1.0, margin=0.05),
    )  # fmt: skip
    method: ClassVar[str] = (
        "A Transformer of two blocks with rotary positions, a two-layer LSTM and a two-layer network of plain tanh cells (RNN), all of as many weights, learn from the same batches in the same order. "
        f"{STARTS} Recall: 2 to 12 pairs of a "
        "key and a value are read, then every key is asked once more; 4, 8 and 12 in the end, all at a learning rate of 0.003. A rule that only counts names the value that was read most often. Prose: the next character, windows of 32, "
        f"{AT_RATES}; and the LSTM once more with as many more updates as each of its takes fewer operations. Chain: the "
        "longest run of matrix products of which each needs the one before, counted on autograd's graph; its growth from 8 to 64 tokens. Operations: those "
        "of the products of a forward pass of 32 tokens, logits included."
    )
    scale: ClassVar[str] = "0.1 M parameters, at most 36 tokens"
    limits: ClassVar[str] = (
        "A wider LSTM, or one that is trained far longer, may learn to recall; that a network cannot is not shown. What is compared is early in training: with one other seed the LSTM was 0.06 nats ahead after 2,000 updates. "
        "How long a step takes depends on the machine (questions 17 and 26). Newer recurrent networks (linear attention, state-space models) are not here."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Hochreiter & Schmidhuber 1997, Long Short-Term Memory", "Vaswani et al. 2017, table 1",
        "Arora et al. 2024, Zoology: Measuring and Improving Recall in Efficient Language Models",
        "Jelassi et al. 2024, Repeat After Me: Transformers are Better than State Space Models at Copying",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "recall_steps": 2, "steps": 2, "n_held_out": 4},
        "default": {"n_seeds": 3, "recall_steps": 600, "steps": 400, "n_held_out": 128},
        "full": {"n_seeds": 5, "recall_steps": 1000, "steps": 500, "n_held_out": 400},
    }

    n_seeds: int = 3
    """seeds of weights and of the order of the data; both arms share them"""
    recall_steps: int = 600
    """updates of each network that learns to recall"""
    steps: int = 400
    """updates of each network that learns prose"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        seeds = range(self.seed, self.seed + self.n_seeds)
        found = each(_recall, [(arm, seed, self.recall_steps) for seed in seeds for arm in ARMS])
        recall = pd.DataFrame([row for rows in found for row in rows])
        chains = pd.DataFrame([{"arm": arm, "length": n, **_work(arm, n)} for arm in ARMS for n in LENGTHS])
        at = chains.set_index(["arm", "length"])
        fewer = at.operations["LSTM", LENGTH] / at.operations["Transformer", LENGTH]
        updates = {**dict.fromkeys(ARMS, self.steps), AS_MUCH: round(self.steps / fewer)}
        prose = pd.DataFrame(each(_prose, [(arm, seed, n, self.n_held_out) for seed in seeds for arm, n in updates.items()]))
        growth = {arm: at.chain[arm, LENGTHS[-1]] / at.chain[arm, LENGTHS[0]] for arm in ARMS}
        share = recall.pivot(index="seed", columns=["arm", "n_pairs"], values="right")
        loss = prose.pivot(index="seed", columns="arm", values="loss")
        counted = recall[recall.arm == "LSTM"].pivot(index="seed", columns="n_pairs", values="named_most")
        sizes = prose.groupby("arm").n_parameters.first()
        effects = [
            Effect.exact("growth of the chain of products, LSTM over Transformer", growth["LSTM"] / growth["Transformer"]),
            *(
                Effect.over_seeds(f"recall of {n} pairs, Transformer minus LSTM", share["Transformer", n] - share["LSTM", n], within=(-1, 1))
                for n in N_PAIRS
            ),
            Effect.over_seeds("loss on prose, LSTM minus Transformer", loss["LSTM"] - loss["Transformer"], "nats"),
            Effect.over_seeds("loss on prose for as many operations, LSTM minus Transformer", loss[AS_MUCH] - loss["Transformer"], "nats"),
            Effect.exact("operations per token, LSTM over Transformer", fewer),
            *(Effect.exact(f"growth of the chain of products, {arm}", growth[arm]) for arm in ARMS),
            *(
                Effect.over_seeds(f"recall of {N_PAIRS[-1]} pairs, {arm} minus naming the value read most", share[arm, N_PAIRS[-1]] - counted[N_PAIRS[-1]], within=(-1, 1))
                for arm in ("LSTM", "RNN")
            ),
            Effect.over_seeds(f"recall of {N_PAIRS[0]} pairs by the Transformer", share["Transformer", N_PAIRS[0]], within=(0, 1)),
            Effect.over_seeds("worse of the two minus bigram", loss[["Transformer", "LSTM"]].max(axis=1) - bigram(n=self.n_held_out), "nats"),
            Effect.exact("growth of the chain of products, RNN over Transformer", growth["RNN"] / growth["Transformer"]),
            Effect.over_seeds(f"recall of {N_PAIRS[-1]} pairs, Transformer minus RNN", share["Transformer", N_PAIRS[-1]] - share["RNN", N_PAIRS[-1]], within=(-1, 1)),
            Effect.over_seeds("loss on prose, RNN minus Transformer", loss["RNN"] - loss["Transformer"], "nats"),
            Effect.exact("weights, LSTM over Transformer", sizes["LSTM"] / sizes["Transformer"]),
        ]
        return effects, {"recall": _recall_table(recall), "prose": _prose_table(prose), "work": _work_table(chains)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        _, recall, prose, as_much = (effects[one.quantity].estimate for one in self.predictions)
        lstm, transformer, counting, plain, operations = (
            effects[name].estimate for name in (
                "growth of the chain of products, LSTM", "growth of the chain of products, Transformer",
                f"recall of {N_PAIRS[-1]} pairs, LSTM minus naming the value read most", "loss on prose, RNN minus Transformer", "operations per token, LSTM over Transformer",
            )
        )  # fmt: skip
        return (
            f"From {LENGTHS[0]} to {LENGTHS[-1]} tokens an LSTM's chain of dependent products grows {lstm:.1f}-fold, a Transformer's {transformer:.1f}-fold. With as many weights and updates "
            f"the Transformer recalls {100 * recall:+z.0f} points of {N_PAIRS[-1]} pairs against the LSTM, which is {100 * counting:+z.0f} from naming the value that it read most often. On prose the LSTM "
            f"ends {prose:+z.2f} nats per character from the Transformer, {as_much:+z.2f} after as many operations (an update takes {operations:.2f} of them), and a network of plain cells {plain:+z.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        recall, chains = tables["recall"].frame, tables["work"].frame
        right = recall.pivot_table(index="n_pairs", columns="arm", values="right", aggfunc=["mean", "min", "max"])
        chain = chains.pivot(index="length", columns="arm", values="chain")
        most = N_PAIRS[-1]
        return (
            Lines(
                name="recall", title=f"Of {most} pairs the Transformer recalls {right['mean', 'Transformer'][most]:.0%}, an LSTM of its size {right['mean', 'LSTM'][most]:.0%}, an RNN {right['mean', 'RNN'][most]:.0%}",
                caption=f"Share of values named on new sequences, mean of {self.n_seeds} seeds with the smallest and largest; a guess has {CHANCE:.0%}. Counting: the value "
                "that was read most often, whatever the key.",
                alt=", ".join(f"{arm} {right['mean', arm][n]:.2f} of {n}" for arm in ARMS for n in N_PAIRS), x=right.index.to_numpy(float),
                series={arm: Series(y=right["mean", arm].to_numpy(), low=right["min", arm].to_numpy(), high=right["max", arm].to_numpy()) for arm in ARMS}
                | {"counting": Series(y=recall.groupby("n_pairs").named_most.mean().to_numpy())},
                x_label="pairs", y_label="share of right answers", markers=True,
            ),
            Lines(
                name="chain", title="How many products wait for one another, by length",
                caption="Longest chain of matrix products of a forward pass, of which each needs the one before; counted, not timed.",
                alt=", ".join(f"{arm} {chain[arm][LENGTHS[0]]} at 8 tokens, {chain[arm][LENGTHS[-1]]} at 64" for arm in ARMS), x=np.array(LENGTHS, dtype=float),
                series={arm: Series(y=chain[arm].to_numpy(float)) for arm in ARMS}, x_label="tokens", y_label="products in a row", markers=True,
            ),
        )  # fmt: skip


def _recall(arm: str, seed: int, steps: int) -> list[dict[str, Any]]:
    learnt, found = learn_associations(ARMS[arm], seed=seed, steps=steps)
    size = {"n_parameters": learnt.n_parameters, "flops": learnt.flops}
    return [{"arm": arm, "n_pairs": n, "seed": seed, "right": hits, "named_most": most, **size} for n, (hits, most) in found.items()]


def _prose(arm: str, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    kind = ARMS[arm.partition(",")[0]]
    recipe = recipe_for(kind, steps)
    learnt = learn_characters(rival(kind, SHAPE, seed), seed=seed, recipe=recipe, n_held_out=n_held_out)
    return {"arm": arm, "learning_rate": recipe.learning_rate, "seed": seed, "steps": steps, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops}


def _work(arm: str, n: int) -> dict[str, float]:
    """The longest chain of products of a forward pass over n tokens, and its operations per token."""
    model = rival(ARMS[arm], dataclasses.replace(SHAPE, n_ctx=LENGTHS[-1]), 0)
    with recurrence_in_the_open():
        chain = product_chain(model(torch.zeros(1, n, dtype=torch.long)))
    return {"chain": chain, "operations": operations_per_token(model.config, n)}


def _recall_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network that learnt to recall.", arm=("", "kind of network"), n_pairs=("pairs", "that were read"), seed=("", "of weights and data"),
        right=("1", "share of values named"), named_most=("1", "that of naming the value read most often"), n_parameters=("parameters", "of the network"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _prose_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every network that learnt prose.", arm=("", "kind of network"), learning_rate=("1", "peak"), seed=("", "of weights and data"), steps=("updates", "of the training"), loss=("nats per character", "on held-out prose"),
        n_parameters=("parameters", "of the network"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _work_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What a forward pass takes.", arm=("", "kind of network"), length=("tokens", "of the sequence"), chain=("products", "longest run of which each needs the one before"),
        operations=("FLOP per token", "of matrix products, logits included"),
    )  # fmt: skip


STUDY = RecurrentNetworks
