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

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._jobs import each
from analyses.studies._starts import START_OF_SCORES, start_scores
from analyses.studies._training import BASE, RECIPE, bigram, character_model, learn_characters, recipe_of, windows
from analyses.studies._verdict import Prediction
from model import Transformer
from model.training import CausalLM, token_loss
from probes import record, record_gradients
from probes.statistics import View, row_entropy
from reports import Bars, Figure, Lines, Series, Table

STDS = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""standard deviations of the scores at which the softmax is differentiated"""
D_HEAD = 64
RATES = (RECIPE.learning_rate, 1e-2)
WIDTHS = (16, 64, 256)
"""of a head, in models that are not trained"""
WIDE = max(WIDTHS)
"""what all heads of such a model have together"""


@dataclass(frozen=True, kw_only=True)
class ScaledDotProduct(Study):
    number: ClassVar[int] = 4
    name: ClassVar[str] = "scaled-dot-product"
    question: ClassVar[str] = "Why are scores scaled before the softmax?"
    popular: ClassVar[str] = (
        "Scores grow with d_k and saturate the softmax, so that gradients vanish; dividing by √d_k keeps training stable."
    )
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="scores grow with d_k", quantity="growth of the scores' spread, Glorot", relation=">", threshold=2.0),
        Prediction(says="without scaling the gradient of the scores vanishes", quantity="gradient ratio at the scores", relation="<", threshold=0.5),
        Prediction(says="without scaling the gradient of W_Q vanishes", quantity="gradient ratio", relation="<", threshold=1.0),
        Prediction(says="without scaling the model learns worse", quantity="loss without scaling", relation=">", threshold=0.02, unit="nats"),
        Prediction(says="without scaling attention is sharper from the start", quantity="entropy lost at the start", relation=">", threshold=0.1),
    )
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the scaled model beats the bigram", quantity="scaled minus bigram", relation="<", threshold=0.0, unit="nats"),
    )
    method: ClassVar[str] = (
        "Character models that differ in the scale of their scores alone (1/√d_k or 1) start from the same weights (Glorot's uniform "
        "distribution for W_Q and W_K, for which the variance of q·k is about d_k) and read the same windows, at two rates of learning. Before the first "
        "step, on one batch, unscaled over scaled: ‖∂L/∂S‖ of all layers and heads together, S being the scores that enter the softmax (q·k/√d_k or q·k); "
        "and ‖∂L/∂W_Q‖ (gradient ratio), which by the chain rule has the factor before q·k in it, once more 1/√d_k or 1. Entropy: mean row entropy over "
        f"ln(visible keys). Starts: models of width {WIDE}, not trained, whose W_Q and W_K, {WIDE} × {WIDE}, are cut into heads of d_k = "
        f"{', '.join(map(str, WIDTHS))}, drawn by Glorot, as torch starts nn.Linear (uniform in ± 1/√{WIDE}), or from N(0, 0.02); spread: standard deviation of q·k over "
        f"visible keys; growth: from d_k = {min(WIDTHS)} to {WIDE}. Beside them the Frobenius norm of the softmax's Jacobian, diag(p) − ppᵀ, for 64 normal "
        "scores of growing spread."
    )
    scale: ClassVar[str] = f"0.11 M parameters, d_k = {D_HEAD}, windows of 32 characters; starts: 0.8 M parameters"
    limits: ClassVar[str] = (
        "One small model, two rates of learning; deep models meet the same sharpness later and elsewhere (entropy collapse, Zhai et al. 2023). Starts are those "
        "of whole matrices: Glorot's rule for each head by itself, whose numbers then depend on d_k, is not tried."
    )
    sources: ClassVar[tuple[str, ...]] = ("Vaswani et al. 2017, section 3.2.1", "Zhai et al. 2023, Stabilizing Transformer Training by Preventing Attention Entropy Collapse")
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"n_seeds": 2, "steps": 6, "n_held_out": 8},
        "default": {"n_seeds": 5, "steps": 250, "n_held_out": 128},
        "full": {"n_seeds": 6, "steps": 400, "n_held_out": 600},
    }

    n_seeds: int = 5
    """seeds of weights and of the order of the data; both arms share them"""
    steps: int = 250
    """updates of each model"""
    n_held_out: int = 128
    """held-out pieces of 32 characters"""

    def measure(self) -> tuple[list[Effect], Tables]:
        arms = pd.DataFrame(
            each(_arm, [(scaled, rate, seed, self.steps, self.n_held_out) for seed in self._seeds() for rate in RATES for scaled in (True, False)])
        )
        starts = pd.DataFrame(each(_start, [(start, d_head, seed) for seed in self._seeds() for start in START_OF_SCORES for d_head in WIDTHS]))
        by = arms.set_index(["rate", "scaled", "seed"]).sort_index()
        (with_, without), (fast, fast_without) = ([by.loc[rate, scaled] for scaled in (True, False)] for rate in RATES)
        cell = starts.set_index(["start", "d_head", "seed"]).sort_index()
        reached = bigram(n=self.n_held_out)
        effects = [
            *(
                Effect.of_ratios(f"growth of the scores' spread, {start}", cell.spread[start, WIDE] / cell.spread[start, min(WIDTHS)])
                for start in START_OF_SCORES
            ),
            Effect.of_ratios("gradient ratio at the scores", without.at_scores / with_.at_scores),
            Effect.of_ratios("gradient ratio", without.gradient / with_.gradient),
            *(Effect.of_ratios(_at_widest(start), cell.at_scores[start, WIDE]) for start in START_OF_SCORES),
            Effect.over_seeds("entropy at the start, scaled", with_.entropy, within=(0, 1)),
            Effect.over_seeds("entropy at the start, unscaled", without.entropy, within=(0, 1)),
            Effect.over_seeds("entropy lost at the start", with_.entropy - without.entropy, within=(-1, 1)),
            Effect.over_seeds("loss without scaling", without.loss - with_.loss, "nats"),
            Effect.over_seeds("loss without scaling at the higher rate", fast_without.loss - fast.loss, "nats"),
            Effect.over_seeds("scaled minus bigram", with_.loss - reached, "nats"),
            Effect.over_seeds("unscaled minus bigram", without.loss - reached, "nats"),
            Effect.over_seeds("scaled minus bigram at the higher rate", fast.loss - reached, "nats"),
            Effect.over_seeds("unscaled minus bigram at the higher rate", fast_without.loss - reached, "nats"),
        ]
        return effects, {"arms": _arms_table(arms), "starts": _starts_table(starts), "jacobian": _jacobian_table(self.seed)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        def of(name: str, digits: str = "+.2f") -> str:
            return format(effects[name].estimate, digits)

        vanishes = next(one for one in self.predictions if one.quantity == "gradient ratio at the scores").outcome(effects["gradient ratio at the scores"])
        left = {"holds": "less than half is left", "fails": "half of it or more is left", "open": "whether half of it is left is open"}[vanishes]
        growth = of("growth of the scores' spread, Glorot", ".2g")
        wide = ", ".join(f"{start} {of(_at_widest(start), '.2g')}" for start in START_OF_SCORES)
        return (
            f"From d_k = {min(WIDTHS)} to {WIDE} the spread of q·k grows {growth} times with Glorot's weights. Without 1/√d_k, at d_k = "
            f"{D_HEAD}, the gradient at the scores is {of('gradient ratio at the scores', '.2g')} times that with it ({left}; at d_k = {WIDE} {wide}), and at W_Q "
            f"{of('gradient ratio', '.2g')} times, of which √d_k = {D_HEAD**0.5:g} is the missing factor itself. The entropy of the rows starts at "
            f"{of('entropy at the start, unscaled', '.2f')} in place of {of('entropy at the start, scaled', '.2f')} (1: even rows), and the model ends {of('loss without scaling')} "
            f"nats per character from the scaled one and {of('unscaled minus bigram')} from the bigram ({of('loss without scaling at the higher rate')} and "
            f"{of('unscaled minus bigram at the higher rate')} at a rate of {RATES[1]:g})."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        jacobian, arms, starts = (tables[name].frame for name in ("jacobian", "arms", "starts"))
        peak = jacobian.loc[jacobian.norm.idxmax()]
        loss = arms.groupby(["rate", "scaled"]).loss.agg(["mean", "min", "max"]).sort_index(ascending=[True, False])
        names = [f"{'scaled' if scaled else 'unscaled'}, rate {rate:g}" for rate, scaled in loss.index]
        by = starts.groupby(["start", "d_head"])
        spreads, slopes = (by[name].agg(["mean", "min", "max"]) for name in ("spread", "at_scores"))
        many = f"mean of {self.n_seeds} seeds, bands from the smallest to the largest"
        return (
            Lines(
                name="spread", title=f"With Glorot's weights q·k spreads by {spreads['mean']['Glorot', min(WIDTHS)]:.2g} at d_k = {min(WIDTHS)}, by {spreads['mean']['Glorot', WIDE]:.2g} at {WIDE}",
                caption=f"Standard deviation of q·k before any training; {many}.", alt=_said(spreads["mean"]), series=_series(spreads), y_label="standard deviation of q·k",
                log_y=True, **_OVER_WIDTHS,
            ),
            Lines(
                name="slopes", title=f"Without 1/√d_k the gradient at the scores is {slopes['mean'].min():.2g} to {slopes['mean'].max():.2g} times that with it",
                caption=f"‖∂L/∂S‖ before any training, unscaled over scaled; {many}.", alt=_said(slopes["mean"]), series=_series(slopes), y_label="gradient ratio at the scores",
                **_OVER_WIDTHS,
            ),
            Lines(
                name="jacobian", title=f"The softmax reacts most where scores spread by about {peak.spread:g}",
                caption="Frobenius norm of diag(p) − ppᵀ for 64 normal scores, mean of 200 draws.", alt=f"Largest, {peak.norm:.2f}, at {peak.spread:g}.",
                x=jacobian.spread.to_numpy(), series={"64 keys": Series(y=jacobian.norm.to_numpy())}, x_label="standard deviation of the scores",
                y_label="norm of the Jacobian", markers=True,
            ),
            Bars(
                name="loss", title="Held-out loss with and without 1/√d_k",
                caption=f"Held-out loss, mean of {self.n_seeds} seeds with the smallest and largest; character pairs reach {bigram(n=self.n_held_out):.2f}.",
                alt=", ".join(f"{name} {value:.3f}" for name, value in zip(names, loss["mean"], strict=True)), labels=names, values=loss["mean"].to_numpy(),
                low=loss["min"].to_numpy(), high=loss["max"].to_numpy(), unit="nats per character",
            ),
        )  # fmt: skip

    def _seeds(self) -> range:
        return range(self.seed, self.seed + self.n_seeds)


_OVER_WIDTHS: Mapping[str, Any] = {"x": np.array(WIDTHS, dtype=float), "x_label": "d_k", "log_x": True, "markers": True}


def _at_widest(start: str) -> str:
    return f"gradient ratio at the scores, d_k = {WIDE}, {start}"


def _series(found: pd.DataFrame) -> dict[str, Series]:
    """A line for each start."""
    return {start: Series(**{to: found.loc[start][of].to_numpy() for to, of in (("y", "mean"), ("low", "min"), ("high", "max"))}) for start in START_OF_SCORES}


def _said(mean: pd.Series) -> str:
    return "; ".join(f"{start}: " + ", ".join(f"{mean[start, d_head]:.2g} at d_k = {d_head}" for d_head in WIDTHS) for start in START_OF_SCORES)


def at_start(model: Transformer, seed: int) -> dict[str, float]:
    """What one batch gives before any step: norms of gradients, the mean entropy of the rows, how widely q·k spreads."""
    exercise = CausalLM()(windows(1, seed=seed)[0], torch.Generator().manual_seed(seed))
    sites = "blocks.*.attn.scores"
    with record(model, [sites, "blocks.*.attn.pattern"]) as seen, record_gradients(model, sites) as slopes:
        (token_loss(model(*exercise.inputs), exercise) / exercise.n_tokens).backward()
    scores = torch.cat([seen[name][seen[name].isfinite()] for name in slopes]) / model.blocks[0].attn.scale
    patterns = [seen[f"blocks.{i}.attn.pattern"] for i in range(model.n_layers)]
    return {
        "gradient": float(torch.cat([block.attn.W_Q.weight.grad.flatten() for block in model.blocks]).norm()),
        "at_scores": float(torch.cat([slope.flatten() for slope in slopes.values()]).norm()),
        "entropy": float(torch.stack([row_entropy(pattern, View(), normalised=True).nanmean() for pattern in patterns]).mean()),
        "spread": float(scores.std()),
    }  # fmt: skip


def _arm(scaled: bool, rate: float, seed: int, steps: int, n_held_out: int) -> dict[str, Any]:
    """One model: its gradients and entropy before the first step, and its loss behind the last."""
    config = dataclasses.replace(BASE, n_heads=1, n_kv_heads=1, d_head=D_HEAD, score_scale=None if scaled else 1.0)
    model = character_model(config, seed)
    start_scores(model, "Glorot", seed)
    first = at_start(model, seed)
    learnt = learn_characters(model, seed=seed, recipe=recipe_of(steps, learning_rate=rate), n_held_out=n_held_out)
    return {
        "scaled": scaled, "rate": rate, "seed": seed, **first, "loss": learnt.loss, "n_parameters": learnt.n_parameters, "flops": learnt.flops,
    }  # fmt: skip


def _start(start: str, d_head: int, seed: int) -> dict[str, Any]:
    """A model that is not trained, without scaling and with it."""
    found = []
    for score_scale in (1.0, None):
        n_heads = WIDE // d_head
        config = dataclasses.replace(BASE, d_model=WIDE, n_heads=n_heads, n_kv_heads=n_heads, d_head=d_head, score_scale=score_scale)
        model = character_model(config, seed)
        start_scores(model, start, seed)
        found.append(at_start(model, seed))
    without, with_ = found
    return {
        "start": start, "d_head": d_head, "seed": seed, "spread": without["spread"], "entropy": without["entropy"], "entropy_scaled": with_["entropy"],
        "at_scores": without["at_scores"] / with_["at_scores"], "gradient": without["gradient"] / with_["gradient"],
    }  # fmt: skip


def _arms_table(arms: pd.DataFrame) -> Table:
    return table(
        arms, "Every model.", scaled=("", "are the scores divided by √d_k?"), rate=("", "rate of learning"), seed=("", "of weights and data"),
        gradient=("1", "‖∂L/∂W_Q‖ over all layers before the first step"), at_scores=("1", "‖∂L/∂S‖ over all layers, at the scores that enter the softmax"),
        entropy=("1", "row entropy over ln(visible keys) before the first step"), spread=("1", "standard deviation of q·k before the first step"),
        loss=("nats per character", "on held-out prose, behind the last step"), n_parameters=("parameters", "of the model"),
        flops=("FLOP", "of the training, 6 per weight and token"),
    )  # fmt: skip


def _starts_table(starts: pd.DataFrame) -> Table:
    return table(
        starts, "Every start.", start=("", "how W_Q and W_K are drawn"), d_head=("", "d_k, width of a head"), seed=("", "of weights and data"),
        spread=("1", "standard deviation of q·k"), entropy=("1", "row entropy over ln(visible keys), unscaled"), entropy_scaled=("1", "the same, scaled"),
        at_scores=("1", "‖∂L/∂S‖ at the scores that enter the softmax, unscaled over scaled"), gradient=("1", "‖∂L/∂W_Q‖, unscaled over scaled"),
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
