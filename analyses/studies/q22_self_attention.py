"""How does self-attention work? Do its weights come from dot products, sum to 1, find the relevant place, and say what is read?"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from analyses._contract import table
from analyses._reading import whole
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._row_ranks import rank_correlation, row_rank_correlation
from analyses.studies._tasks_lookup import CONFIG, N_PAIRS, commonest, dictionaries, learn_lookup, relevant, right_answers
from analyses.studies._training import held_out
from analyses.studies._verdict import Prediction
from model import Transformer, load_model
from probes import Activations, Edit, add, intervene, kl_divergence, record, sweep
from probes.statistics import View, row_sum_error
from reports import Figure, Lines, Series, Table

NOISE = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
"""noise on the keys, over their spread"""
LEAST = 8
"""keys that a row must see for the order of its weights to be judged"""


@dataclass(frozen=True, kw_only=True)
class SelfAttention(Study):
    number: ClassVar[int] = 22
    name: ClassVar[str] = "self-attention"
    question: ClassVar[str] = "How does self-attention work?"
    popular: ClassVar[str] = (
        "The relevance of each position comes from scaled dot products of queries and keys through a softmax, which weighs the values."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="weights are the softmax of scaled dot products", quantity="error of the recomputed weights", relation="<", threshold=1e-5),
        Prediction(says="the output is the mean of the values by these weights", quantity="error of the recomputed output", relation="<", threshold=1e-5),
        Prediction(says="the weight goes to the relevant position", quantity="weight on the relevant place", relation=">", threshold=0.5),
        Prediction(says="the weights are the relevance: they order positions by what leaving one out changes", quantity="rank correlation of weight and leave one out", relation=">", threshold=0.9),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the look-up is learnt", quantity="right answers", relation=">", threshold=0.95),
    )
    method: ClassVar[str] = (
        "The first two are recomputed from recorded queries, keys and values, softmax(q kᵀ/√d_head) and its product with v, in trained look-up models "
        "(encoders of one layer and one head, without positions) and in the shipped character decoder; the errors are the largest, the output's over "
        f"the largest value. Look-up: {N_PAIRS} pairs of a key and a value, then a key; the relevant place is the pair that has it. Noise: normal, added "
        "to the keys of the trained models, over the keys' standard deviation. Leave one out: in the character decoder one key is hidden from "
        "the last query of one head, and the KL divergence of the next character's distribution from the clean one measured, in fp64, as fp32 rounds away what "
        "weak keys change; keys are ranked by it and by their weight, the mean over heads and layers. What is read: ‖v_j W_O‖ times its weight (Kobayashi et al. 2020), "
        f"over rows with at least {LEAST} keys; dealt out: the same with the norms of the values in a random order. Intervals of rank "
        "correlations are over windows of one decoder. Beside them the error of permutation equivariance: permuted tokens against permuted logits."
    )
    scale: ClassVar[str] = "look-up: 0.02 M parameters; text: the shipped decoder of 0.62 M parameters, windows of 32 characters"
    limits: ClassVar[str] = (
        "The first two are what the layer computes, not what a trained model uses it for. That weight finds the relevant place is shown where one place is "
        "relevant and one layer looks; deeper models mix tokens before they attend (the study of attention as explanation)."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2", "Kobayashi et al. 2020, Attention is Not Only a Weight",
        "Yun et al. 2020, Are Transformers universal approximators of sequence-to-sequence functions?",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 6, "n_held_out": 2},
        "default": {"n_seeds": 5, "steps": 3000, "n_held_out": 64},
        "full": {"n_seeds": 6, "steps": 3000, "n_held_out": 128},
    }

    n_seeds: int = 5
    """seeds of weights and data of the look-up models"""
    steps: int = 3000
    """updates of each look-up model"""
    n_held_out: int = 64
    """windows of held-out prose, of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        found = each(_arm, [(seed, self.steps) for seed in range(self.seed, self.seed + self.n_seeds)])
        arms, noise = (pd.DataFrame([row for one in found for row in one[name]]) for name in ("arm", "noise"))
        text, agreement, judged = _in_text(self.n_held_out, self.seed)
        exact = pd.concat([arms, pd.DataFrame([text])])
        effects = [
            Effect.exact("error of the recomputed weights", float(exact.weights.max())),
            Effect.exact("error of the recomputed output", float(exact.output.max())),
            Effect.over_seeds("weight on the relevant place", arms.relevant, within=(0, 1)),
            Effect.over_examples("rank correlation of weight and leave one out", judged, seed=self.seed),
            Effect.over_examples("rank correlation of weight and what is read", agreement["read"], seed=self.seed),
            Effect.over_examples("the same, norms of the values dealt out", agreement["dealt out"], seed=self.seed),
            Effect.over_seeds("right answers", arms.right, within=(0, 1)),
            Effect.exact("largest deviation of a row's sum from 1", float(exact.rows.max())),
            Effect.exact("error of permutation equivariance", float(arms.equivariance.max())),
        ]
        return effects, {"models": _arms_table(arms), "noise": _noise_table(noise), "text": _text_table(pd.DataFrame([text]))}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        weight, right, judged, read, dealt = (
            effects[name].estimate
            for name in (
                "weight on the relevant place", "right answers", "rank correlation of weight and leave one out",
                "rank correlation of weight and what is read", "the same, norms of the values dealt out",
            )
        )  # fmt: skip
        exact = all(one.outcome(effects[one.quantity]) == "holds" for one in self.predictions[:2])
        return (
            f"Weights and output are {'' if exact else 'not '}what the equation says. In a look-up of {N_PAIRS} pairs the relevant one gets {weight:.2f} of the weight and "
            f"{right:.2f} of the answers are right. In text, the order of the weights agrees with the order of what leaving a key out "
            f"changes by a rank correlation of {judged:.2f}; with the order of what is read, weight times norm of the value, by {read:.3f}, where norms dealt out at random give {dealt:.3f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        noise = tables["noise"].frame
        means = noise.groupby("noise")[["right", "relevant"]].agg(["mean", "min", "max"])
        series = {
            label: Series(y=means[name]["mean"].to_numpy(), low=means[name]["min"].to_numpy(), high=means[name]["max"].to_numpy())
            for label, name in (("right answers", "right"), ("weight on the relevant place", "relevant"))
        }
        first, last = means.iloc[0], means.iloc[-1]
        return (
            Lines(
                name="noise", title="The look-up and the answers as the keys blur",
                caption=f"Noise added to the keys of trained models; mean of {self.n_seeds} seeds, bands from the smallest to the largest. Who reads all pairs but "
                f"not which is asked for names the commonest value, and is right in {commonest():.2f}.",
                alt=f"Right answers {first['right', 'mean']:.2f} without noise, {last['right', 'mean']:.2f} with noise of {means.index[-1]:g} spreads.",
                x=means.index.to_numpy(float), series=series, x_label="noise over the spread of the keys", y_label="share", markers=True,
            ),
        )  # fmt: skip


def _arm(seed: int, steps: int) -> dict[str, list[dict[str, Any]]]:
    """One look-up model: whether it is what the equation says, what it looks at, and what noise on its keys does."""
    learnt = learn_lookup(CONFIG, seed=seed, steps=steps)
    model, tokens, generator = learnt.model, dictionaries(256, seed), torch.Generator().manual_seed(seed)
    seen = _recorded(model, tokens)
    row = {
        "seed": seed, **_errors(model, seen, "full"), "equivariance": _equivariance_error(model, tokens, generator),
        "relevant": _on_relevant(seen, tokens), "right": right_answers(model, tokens), "loss": learnt.loss,
        "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip
    k = seen["blocks.0.attn.k"]
    drawn = torch.randn(k.shape, generator=generator) * k.std()
    noise = []
    for level in NOISE:
        with intervene(model, Edit("blocks.0.attn.k", add(level * drawn))):
            blurred, right = _recorded(model, tokens), right_answers(model, tokens)
        noise.append({"noise": level, "seed": seed, "right": right, "relevant": _on_relevant(blurred, tokens)})
    return {"arm": [row], "noise": noise}


@torch.no_grad()
def _recorded(model: Transformer, tokens: Tensor) -> Activations:
    with record(model, [f"blocks.*.attn.{word}" for word in ("q", "k", "v", "pattern", "z")]) as activations:
        model(tokens)
    return activations


def _errors(model: Transformer, seen: Activations, kind: str) -> dict[str, float]:
    """Largest distance of weights and output from the equation, over all layers, and of the rows' sums from 1."""
    weights, output, rows = [], [], []
    for i in range(model.n_layers):
        q, k, v = (seen[f"blocks.{i}.attn.{word}"].double().transpose(1, 2) for word in ("q", "k", "v"))  # batch head pos d_head
        pattern, z = seen[f"blocks.{i}.attn.pattern"], seen[f"blocks.{i}.attn.z"].double().transpose(1, 2)
        visible = View(kind=kind).visible(pattern)
        expected = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~visible, -torch.inf).softmax(-1)
        weights.append((pattern - expected).abs().max())
        output.append((z - expected @ v).abs().max() / v.abs().max())
        rows.append(row_sum_error(pattern, View(kind=kind)))
    return {"weights": float(max(weights)), "output": float(max(output)), "rows": max(rows)}


def _on_relevant(seen: Activations, tokens: Tensor) -> float:
    """Mean weight of the question on the pair that has its key."""
    asked = seen["blocks.0.attn.pattern"][:, 0, -1]  # batch key
    return float(asked.gather(1, relevant(tokens)).double().mean())


@torch.no_grad()
def _equivariance_error(model: Transformer, tokens: Tensor, generator: torch.Generator) -> float:
    """max |f(Px) − P f(x)| / max |f(x)|, every sequence with a permutation of its own."""
    order = torch.rand(tokens.shape, generator=generator).argsort(1)
    logits = model(tokens)
    moved = model(tokens.gather(1, order)) - logits.gather(1, order.unsqueeze(-1).expand_as(logits))
    return float(moved.abs().max() / logits.abs().max())


def _in_text(n: int, seed: int) -> tuple[dict[str, float], dict[str, Float[np.ndarray, "window"]], Float[np.ndarray, "window"]]:
    """The shipped decoder: its distance from the equation, and per window whether weights order the keys as what is read does, and as leave one out."""
    model = load_model("chars")
    tokens = torch.cat([batch[0] for batch in held_out(n=n)])
    seen = _recorded(model, tokens)
    generator, found = torch.Generator().manual_seed(seed), {"read": [], "dealt out": []}
    for i in range(model.n_layers):
        pattern, v = seen[f"blocks.{i}.attn.pattern"], seen[f"blocks.{i}.attn.v"]
        read = torch.einsum("bkhe,hed->bkhd", v, model.W_O[i]).norm(dim=-1)  # batch key head
        norms = read.transpose(1, 2)  # batch head key
        dealt = norms.gather(2, torch.rand(norms.shape, generator=generator).argsort(2))
        for name, sizes in (("read", norms), ("dealt out", dealt)):
            found[name].append(row_rank_correlation(pattern, pattern * sizes.unsqueeze(2), least=LEAST))
    errors = {"n_windows": len(tokens), **_errors(model, seen, "causal")}
    return errors, {name: sum(layers) / len(layers) for name, layers in found.items()}, _leave_one_out(model, tokens)


def _leave_one_out(model: Transformer, tokens: Tensor) -> Float[np.ndarray, "window"]:
    """Per window, over heads and layers, in fp64: do weights of the last query order the keys as hiding one key from that head's last query does?

    What hiding a key of weight 0.001 changes is about the rounding of fp32 logits, whose order is chance.
    """
    exact = copy.deepcopy(model).double()
    n, heads, seen = tokens.shape[1], [(i, head) for i in range(model.n_layers) for head in range(model.config.n_heads)], _recorded(exact, tokens)
    edits = [Edit(f"blocks.{i}.attn.scores", HiddenKey(key), heads=head, positions=-1) for i, head in heads for key in range(n)]
    changed = whole(sweep(exact, (tokens,), edits, kl_divergence(positions=-1)))["effect"].to_numpy().reshape(len(heads), n, len(tokens))
    weights = np.stack([seen[f"blocks.{i}.attn.pattern"][:, head, -1].T.numpy() for i, head in heads])  # head key window
    return rank_correlation(weights.swapaxes(1, 2), changed.swapaxes(1, 2)).mean(0)


@dataclass(frozen=True)
class HiddenKey:
    """The scores without one key.

    >>> HiddenKey(1)(torch.zeros(1, 1, 1, 3))
    tensor([[[[0., -inf, 0.]]]])
    """

    key: int

    def __call__(self, scores: Float[Tensor, "batch head query key"]) -> Float[Tensor, "batch head query key"]:
        return scores.index_fill(-1, torch.tensor([self.key], device=scores.device), -torch.inf)


def _arms_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every look-up model.", seed=("", "of weights and data"), weights=("1", "largest distance of a weight from softmax(q kᵀ/√d_head)"),
        output=("1", "largest distance of the output from the weighted values, over the largest value"), rows=("1", "largest distance of a row's sum from 1"),
        equivariance=("1", "largest |f(Px) − P f(x)| over the largest logit"), relevant=("1", "mean weight of the question on the pair that has its key"),
        right=("1", "share of right answers on new dictionaries"), loss=("nats per answer", "on new dictionaries"),
        n_parameters=("parameters", "of the model"), flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _noise_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Trained look-up models with noise on their keys.", noise=("1", "standard deviation of the noise over that of the keys"),
        seed=("", "of weights and data"), right=("1", "share of right answers"), relevant=("1", "mean weight on the relevant place"),
    )  # fmt: skip


def _text_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "The shipped character decoder.", n_windows=("windows", "of held-out prose"), weights=("1", "largest distance of a weight from softmax(q kᵀ/√d_head)"),
        output=("1", "largest distance of the output from the weighted values, over the largest value"), rows=("1", "largest distance of a row's sum from 1"),
    )  # fmt: skip


STUDY = SelfAttention
