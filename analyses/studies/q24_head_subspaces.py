"""How do heads handle different subspaces? Do heads of trained models keep apart, in what they read, look at, and write?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analyses._contract import table
from analyses._reading import whole
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import EFFECTS, Effect
from analyses.studies._verdict import Prediction
from model import Transformer, load_model
from model.zoo._prose import chunks, halves
from probes import Edit, ablate_heads, loss, record, sweep, zero
from probes.statistics import pattern_divergence, subspace_overlap
from reports import Figure, Lines, Series, Table

ABLATED_LENGTH = 24
"""tokens of the windows on which heads are silenced"""
READ, WRITTEN = "overlap of what queries read, above chance", "overlap of what is written, above chance"
"""of heads that share no keys and values, over the layers of both models; with a model behind it, of that one; with `GROUP`, of heads that share them"""
COLUMNS = {"read": READ, "written": WRITTEN}
GROUP = ", decoder, heads that share keys and values"
LABELS = {"read": "queries", "written": "written"}
MODELS = ("decoder", "encoder")


@dataclass(frozen=True, kw_only=True)
class HeadSubspaces(Study):
    number: ClassVar[int] = 24
    name: ClassVar[str] = "head-subspaces"
    question: ClassVar[str] = "How do heads handle different subspaces?"
    popular: ClassVar[str] = "Each attends to another subspace; concatenation and a linear map combine them."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="queries of heads read from different subspaces", quantity=READ, relation="<", threshold=0.02),
        Prediction(says="heads write into different subspaces", quantity=WRITTEN, relation="<", threshold=0.02),
        Prediction(says="heads look at different places", quantity="divergence between patterns", relation=">", threshold=0.1, unit="nats"),
        Prediction(says="a linear map of the concatenation combines them", quantity="error of the sum over heads", relation="<", threshold=1e-5),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(
            says="the heads of some layer matter to the model", quantity="largest loss without a layer's heads", relation=">", threshold=0.02, unit="nats"
        ),
    )
    method: ClassVar[str] = (
        "A trained decoder, a trained encoder, and held-out prose. Overlap: tr(P_a P_b)/d_head, the mean squared cosine of the principal angles, between the subspaces that two "
        "heads of a layer have for their queries (rows of W_Q) or write into (rows of W_O), mean over pairs that share no keys and values, and beside it over those "
        "that share them (the decoder's grouped queries); chance is d_head/d_model, the overlap of random subspaces. Intervals are over the layers of both. The rest is the decoder's. Divergence: Jensen-Shannon, between the rows of two heads of a layer, mean over rows, pairs and layers, at most ln 2 = "
        "0.69; the interval is over windows. Sum over heads: Σ_h z_h W_O[h] + b against what attention adds, over the largest value. Beside them the rise of "
        "the loss when one head, or all heads of a layer, are silenced (z set to 0)."
    )
    scale: ClassVar[str] = (
        "a trained decoder (SmolLM2-135M-Instruct) and a trained encoder (all-MiniLM-L6-v2, 22.6 M parameters); at smoke the small models of characters that ship with prosect"
    )
    limits: ClassVar[str] = (
        "Two models; in the decoder heads of a group share keys and values. Keys and values themselves are not compared. Overlap of subspaces says which directions are used, not what is written along them, and directions that all heads share may carry what "
        "all need. Silencing by zero takes a head out of its usual range."
    )
    sources: ClassVar[tuple[str, ...]] = (
        "Vaswani et al. 2017, section 3.2.2", "Clark et al. 2019, What Does BERT Look At? (divergence between heads)",
        "Michel et al. 2019, Are Sixteen Heads Really Better than One?",
    )  # fmt: skip
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"decoder": "chars", "encoder": "mlm", "n_windows": 4, "length": 16, "n_ablated": 2},
        "default": {"decoder": "smollm2", "encoder": "minilm", "n_windows": 12, "length": 64, "n_ablated": 3},
        "full": {"decoder": "smollm2", "encoder": "minilm", "n_windows": 24, "length": 96, "n_ablated": 4},
    }

    decoder: str = "smollm2"
    """the decoder, by its name"""
    encoder: str = "minilm"
    """the encoder, by its name"""
    n_windows: int = 12
    """windows of held-out prose whose patterns are compared"""
    length: int = 64
    """tokens of a window"""
    n_ablated: int = 3
    """windows on which heads are silenced"""

    def measure(self) -> tuple[list[Effect], Tables]:
        model = load_model(self.decoder)
        tokens = torch.tensor(model.tokenizer.encode(halves()[1]))
        pairs = pd.concat([_overlaps(one).assign(model=kind) for kind, one in zip(MODELS, (model, load_model(self.encoder)), strict=True)])
        apart_by_layer, grouped = _above_chance(pairs[~pairs.shared]), _above_chance(pairs[pairs.shared])
        windows = chunks(tokens[: self.n_windows * self.length], batch=4, length=self.length)
        apart, error = _apart(model, windows)
        silenced = _silenced(model, chunks(tokens[: self.n_ablated * ABLATED_LENGTH], batch=self.n_ablated, length=ABLATED_LENGTH)[0])
        one, alone = silenced[silenced["head"] >= 0].groupby("layer").rise.agg(["mean", "sum"]), silenced[silenced["head"] >= 0].rise
        every = silenced[silenced["head"] < 0].set_index("layer").rise
        effects = [
            *(Effect.over_examples(name, apart_by_layer[column], seed=self.seed) for column, name in COLUMNS.items()),
            *(
                Effect.over_examples(f"{name}, {kind}", apart_by_layer.loc[kind, column], seed=self.seed)
                for kind in MODELS for column, name in COLUMNS.items()
            ),
            *(Effect.over_examples(name + GROUP, grouped[column], seed=self.seed) for column, name in COLUMNS.items() if len(grouped)),
            Effect.over_examples("divergence between patterns", apart.groupby("window").divergence.mean(), "nats", seed=self.seed),
            Effect.exact("error of the sum over heads", error),
            Effect.over_examples("loss without a layer's heads", every, "nats", seed=self.seed),
            Effect.exact("median loss without a layer's heads", float(every.median()), "nats"),
            Effect.exact("largest loss without a layer's heads", float(every.max()), "nats"),
            Effect.over_examples("loss without one head", one["mean"], "nats", seed=self.seed),
            Effect.exact("median loss without one head", float(alone.median()), "nats"),
            Effect.exact("largest loss without one head", float(alone.max()), "nats"),
            Effect.over_examples("loss without a layer's heads minus the sum without each", every - one["sum"], "nats", seed=self.seed),
            *(Effect.exact(f"chance, {kind}", float(of.iloc[0])) for kind, of in pairs.groupby("model").chance),
            Effect.exact("largest overlap of what two heads write", float(pairs.written.max())),
        ]
        tables = {
            "pairs": _pairs_table(pairs),
            "patterns": _divergence_table(apart.groupby("layer", as_index=False).divergence.mean()),
            "silenced": _silenced_table(silenced),
        }
        return effects, tables

    def finding(self, effects: Mapping[str, Effect]) -> str:
        apart, one, worst_head, layer, worst_layer = (
            effects[name].estimate
            for name in (
                "divergence between patterns", "median loss without one head", "largest loss without one head", "median loss without a layer's heads",
                "largest loss without a layer's heads",
            )
        )  # fmt: skip
        overlaps = "; ".join(
            f"{{:.2f}} and {{:.2f}} in the {kind} (random ones: {{:.2f}})".format(
                *(effects[f"chance, {kind}"].estimate + effects[f"{name}, {kind}"].estimate for name in COLUMNS.values()), effects[f"chance, {kind}"].estimate
            )
            for kind in MODELS
        )
        grouped = [effects["chance, decoder"].estimate + effects[name + GROUP].estimate for name in COLUMNS.values() if name + GROUP in effects]
        adds = self.predictions[-1].outcome(effects["error of the sum over heads"]) == "holds"
        return (
            f"Subspaces of two heads of a layer that share no keys and values overlap, where queries read and where heads write, by {overlaps}"
            f"{'; of heads that share them by {:.2f} and {:.2f}'.format(*grouped) if grouped else ''}. Patterns of two heads of the decoder differ by "
            f"{apart:.2f} nats, of 0.69 at most, and the heads' sum is {'' if adds else 'not '}what attention adds. Silencing one head raises the loss by {one:.3f} nats in the "
            f"median and {worst_head:.2f} at most, silencing all of a layer by {layer:.3f} and {worst_layer:.2f}."
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        pairs, patterns = (tables[name].frame for name in ("pairs", "patterns"))
        unshared, shared = _above_chance(pairs[~pairs.shared]), _above_chance(pairs[pairs.shared])
        layers = pd.RangeIndex(pairs.layer.max() + 1)
        drawn = {f"{kind}, {label}": unshared.loc[kind, column].reindex(layers) for kind in MODELS for column, label in LABELS.items()}
        drawn |= {f"decoder, {label}, one group": shared.loc["decoder", column].reindex(layers) for column, label in LABELS.items() if len(shared)}
        above = tables[EFFECTS].frame.set_index("quantity").loc[[READ, WRITTEN]]
        queries, writing = ("more" if low > 0 else "fewer" if high < 0 else "about as many" for low, high in zip(above.low, above.high, strict=True))
        return (
            Lines(
                name="overlap", title=f"Directions that two heads share, against random subspaces: queries {queries}, written {writing}",
                caption="Overlap of the subspaces of two heads of a layer less that of random ones, mean over pairs; what queries read are rows of W_Q, what is written rows of W_O. A group of heads shares keys and values.",
                alt="Above chance, means over layers: " + "; ".join(f"{name} {of.mean():+z.3f}" for name, of in drawn.items()) + ".",
                x=layers.to_numpy(float), series={name: Series(y=of.to_numpy()) for name, of in drawn.items()}, x_label="layer", y_label="overlap above chance",
            ),
            Lines(
                name="patterns", title=f"Patterns of two heads of a layer differ by {patterns.divergence.mean():.2f} nats (ln 2 = 0.69 at most)",
                caption=f"Jensen-Shannon divergence between the patterns of two heads, mean over pairs and {self.n_windows} windows.",
                alt=f"From {patterns.divergence.min():.2f} to {patterns.divergence.max():.2f}.", x=patterns.layer.to_numpy(float),
                series={"divergence": Series(y=patterns.divergence.to_numpy())}, x_label="layer", y_label="nats",
            ),
        )  # fmt: skip


@torch.no_grad()
def _overlaps(model: Transformer) -> pd.DataFrame:
    """Every pair of heads of a layer: what their queries read from and what they write into, and whether they share keys and values."""
    rows, group = [], model.config.n_heads // model.config.n_kv_heads
    for layer in range(model.n_layers):
        read, written = subspace_overlap(model.W_Q[layer].mT), subspace_overlap(model.W_O[layer])
        for a, b in zip(*np.triu_indices(model.n_heads, 1), strict=True):
            rows.append({
                "layer": layer, "a": int(a), "b": int(b), "shared": bool(a // group == b // group), "read": float(read[a, b]), "written": float(written[a, b]),
            })  # fmt: skip
    return pd.DataFrame(rows).assign(chance=model.config.d_head / model.config.d_model)


def _above_chance(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean over the pairs of each layer of each model of the overlap, less chance."""
    return pairs.assign(**{column: pairs[column] - pairs.chance for column in COLUMNS}).groupby(["model", "layer"])[list(COLUMNS)].mean()


@torch.no_grad()
def _apart(model: Transformer, windows: list[tuple[Tensor, Tensor]]) -> tuple[pd.DataFrame, float]:
    """Divergence between heads, by layer and window, and the largest error of the sum over heads."""
    rows, errors, pairs, first = [], [], np.triu_indices(model.n_heads, 1), 0
    for tokens, _ in windows:
        with record(model, ["blocks.*.attn.pattern", "blocks.*.attn.z", "blocks.*.attn_out"]) as seen:
            model(tokens)
        for layer in range(model.n_layers):
            divergence = pattern_divergence(seen[f"blocks.{layer}.attn.pattern"])[:, pairs[0], pairs[1]].mean(-1)  # batch
            rows += [{"layer": layer, "window": first + i, "divergence": float(value)} for i, value in enumerate(divergence)]
            z, added = seen[f"blocks.{layer}.attn.z"].double(), seen[f"blocks.{layer}.attn_out"].double()
            bias = model.blocks[layer].attn.W_O.bias
            together = torch.einsum("bphe,hed->bpd", z, model.W_O[layer].double()) + (0 if bias is None else bias.double())
            errors.append(float((together - added).abs().max() / added.abs().max()))
        first += len(tokens)
    return pd.DataFrame(rows), max(errors)


def _silenced(model: Transformer, batch: tuple[Tensor, Tensor]) -> pd.DataFrame:
    """Rise of the loss without each head, and without all heads of each layer (head −1), mean over windows."""
    layers = [Edit(f"blocks.{layer}.attn.z", zero()) for layer in range(model.n_layers)]
    found = whole(sweep(model, (batch[0],), [*ablate_heads(model, zero()), *layers], loss()))
    found["head"] = found["head"].fillna(-1).astype(int)
    return found.groupby(["layer", "head"], as_index=False).effect.mean().rename(columns={"effect": "rise"}).astype({"layer": int})


def _pairs_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every pair of heads of a layer.", model=("", "decoder or encoder"), layer=("", "block"), a=("", "one head"), b=("", "the other"),
        shared=("", "have they the same keys and values?"), read=("1", "overlap of what their queries read from, rows of W_Q"),
        written=("1", "overlap of what they write into, rows of W_O"), chance=("1", "overlap of random subspaces, d_head/d_model"),
    )  # fmt: skip


def _divergence_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "How far apart the patterns of two heads are, by layer.", layer=("", "block"),
        divergence=("nats", "Jensen-Shannon divergence, mean over rows, pairs and windows"),
    )  # fmt: skip


def _silenced_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What silencing heads does.", layer=("", "block"), head=("", "which is silenced; −1: all of the layer"),
        rise=("nats per token", "of the loss, mean over windows"),
    )  # fmt: skip


STUDY = HeadSubspaces
