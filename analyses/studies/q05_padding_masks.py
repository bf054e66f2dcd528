"""How is padding masked? Is a model blind to pads once their scores are −∞, or do they come in by another door?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from analyses._contract import table
from analyses.studies._contract import Budget, Study, Tables
from analyses.studies._effects import Effect
from analyses.studies._verdict import Prediction
from model import Transformer, load_model
from model.zoo._prose import halves
from probes import Edit, constant, intervene, record
from reports import Figure, Lines, Series, Table

WORDS = (8, 20)
"""words of a sentence, so that many pads fit into the context beside it"""
ARMS = {
    "no mask": "pads on the right, nothing masked, mean over the real tokens",
    "mask": "pads on the right, scores masked, mean over the real tokens",
    "mask, mean over all places": "pads on the right, scores masked, mean over the real tokens and the pads",
    "mask, pads left": "pads on the left, scores masked, positions counted over the real tokens, mean over the real tokens",
    "mask, pads left, by place": "the same, but the first real token has the position behind the pads",
}
CHANGES = {"fails": "changes", "holds": "stays", "open": "may change"}
"""what is said of a vector that was to stay"""


@dataclass(frozen=True, kw_only=True)
class PaddingMasks(Study):
    number: ClassVar[int] = 5
    name: ClassVar[str] = "padding-masks"
    question: ClassVar[str] = "How is padding masked?"
    popular: ClassVar[str] = "Scores of pads are set to −∞ before the softmax, so that their weight is 0 and the model ignores them."
    predictions: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="the weight of pads is 0", quantity="weight on pads under the mask", relation="==", threshold=0.0),
        Prediction(says="the states of real tokens are as without pads", quantity="change of real tokens' states under the mask", relation="<", threshold=1e-5),
        Prediction(says="no gradient passes between them and pads", quantity="gradient of real tokens' states by pads under the mask", relation="==", threshold=0.0),
        Prediction(says="so is a sentence's vector, the mean of the states", quantity="cosine of the mean over all places", relation=">", threshold=0.99),
        Prediction(says="it does not matter on which side they stand", quantity="cosine with pads on the left, positions by place", relation=">", threshold=0.99),
    )  # fmt: skip
    gates: ClassVar[tuple[Prediction, ...]] = (
        Prediction(says="pads matter without a mask", quantity="cosine without a mask", relation="<", threshold=0.99),
        Prediction(says="and have a gradient then", quantity="gradient of real tokens' states by pads without a mask", relation=">", threshold=0.0),
    )
    method: ClassVar[str] = (
        "Sentences of held-out prose are read by a trained encoder alone and with pads, and their vectors (mean of the final states, as sentence "
        "encoders do) compared by cosine. Predictions are judged at the largest number of pads. Change of the states: largest difference of a real "
        "token's final state over the largest value, over all sentences and numbers of pads, with pads on the right. Gradient: the largest of a random sum "
        "of the real tokens' final states by a pad's embedding, in eight sentences. Beside it: what a softmax "
        "makes of the usual stand-ins for −∞ in three number formats, for a row that sees real keys too and for one that sees only pads."
    )
    scale: ClassVar[str] = (
        "one trained encoder (all-MiniLM-L6-v2, 22.6 M parameters; at smoke the 1 M-parameter masked language model that ships with prosect)"
    )
    limits: ClassVar[str] = (
        "One encoder, tuned as a sentence encoder on at most 128 tokens (its model card): with 200 pads and more, positions by place lie beyond those. Its "
        "positions are learned; relative ones are not measured, nor are further doors: batch norm's statistics, and losses averaged over all places."
    )
    sources: ClassVar[tuple[str, ...]] = ("Vaswani et al. 2017, section 3.2", "Reimers & Gurevych 2019, Sentence-BERT")
    budgets: ClassVar[Mapping[Budget, Mapping[str, Any]]] = {
        "smoke": {"encoder": "mlm", "n_sentences": 3, "pads": (1, 12)},
        "default": {"encoder": "minilm", "n_sentences": 24, "pads": (1, 4, 16, 64, 200)},
        "full": {"encoder": "minilm", "n_sentences": 32, "pads": (1, 4, 16, 64, 200, 400)},
    }

    encoder: str = "minilm"
    """the encoder, by its name"""
    n_sentences: int = 24
    """sentences of the held-out prose"""
    pads: tuple[int, ...] = (1, 4, 16, 64, 200)
    """how many pads are added; 1 among them"""

    def measure(self) -> tuple[list[Effect], Tables]:
        encoder = load_model(self.encoder)
        frame = pd.DataFrame([row for i, tokens in enumerate(self._sentences(encoder)) for row in _compared(encoder, tokens, i, self.pads)])

        def cosine(quantity: str, arm: str, pads: int = max(self.pads)) -> Effect:
            return Effect.over_examples(quantity, frame[(frame.arm == arm) & (frame.pads == pads)].cosine, seed=self.seed)

        masked, softmax = frame[frame.arm == "mask"], _stand_ins()
        blind = softmax[softmax.sees == "pads only"].set_index("fill")
        slopes = pd.DataFrame(
            [{"sentence": i, **_slopes(encoder, one, max(self.pads), self.seed + i)} for i, one in enumerate(self._sentences(encoder)[:8])]
        )
        effects = [
            Effect.exact("weight on pads under the mask", float(masked.weight.max())),
            Effect.exact("change of real tokens' states under the mask", float(masked.change.max())),
            Effect.exact("gradient of real tokens' states by pads under the mask", float(slopes.masked.max())),
            Effect.exact("gradient of real tokens' states by pads without a mask", float(slopes.open.min())),
            cosine("cosine of the mean over all places", "mask, mean over all places"),
            cosine("cosine with pads on the left, positions by place", "mask, pads left, by place"),
            cosine("cosine with one pad on the left, position by place", "mask, pads left, by place", 1),
            cosine("cosine without a mask", "no mask"),
            cosine("cosine with pads on the left, positions counted", "mask, pads left"),
            Effect.exact("share of number formats in which a row of pads is NaN under −∞", float(blind.weight["−∞"].isna().mean())),
            Effect.exact("weight on pads where only pads are seen, smallest number for −∞", float(blind.weight["smallest number"].min())),
            Effect.exact("difference of weights where only pads are seen, smallest number for −∞", float(blind.uneven["smallest number"].max())),
        ]  # fmt: skip
        return effects, {"sentences": _sentences_table(frame), "slopes": _slopes_table(slopes), "stand-ins": _stand_ins_table(softmax)}

    def finding(self, effects: Mapping[str, Effect]) -> str:
        weight, change, gradient, mean, left = (effects[one.quantity].estimate for one in self.predictions)
        none, first, blind, read, uneven = (
            effects[name].estimate
            for name in (
                "cosine without a mask", "cosine with one pad on the left, position by place", "share of number formats in which a row of pads is NaN under −∞",
                "weight on pads where only pads are seen, smallest number for −∞", "difference of weights where only pads are seen, smallest number for −∞",
            )
        )  # fmt: skip
        by_mean, by_place = (CHANGES[one.outcome(effects[one.quantity])] for one in self.predictions[3:])
        return (
            f"Under the mask pads have {'exactly no weight' if weight == 0 else f'a weight of {weight:.1g}'} and {'no' if gradient == 0 else 'a'} gradient, "
            f"and the real tokens' states change by at most {change:.0e} of the largest. The sentence's vector {by_mean} where it is the mean over all places "
            f"(cosine {mean:.2f} with the most pads; without a mask, over the real tokens, {none:.2f}), and {by_place} where positions are counted by place "
            f"behind pads on the left ({first:.3f} with the first pad, {left:.3f} with the most). A row that sees only pads is NaN under −∞ in "
            f"{'every number format' if blind == 1 else f'{blind:.0%} of the number formats'}; under the smallest number its weights "
            + ("are even: it reads the pads." if uneven == 0 and read > 0.99 else f"on pads sum to {read:.2g} and differ by {uneven:.1g}.")
        )

    def draw(self, tables: Tables) -> tuple[Figure, ...]:
        frame = tables["sentences"].frame
        means = frame.pivot_table(index="pads", columns="arm", values="cosine", aggfunc="mean")
        low, high = (
            frame.pivot_table(index="pads", columns="arm", values="cosine", aggfunc=lambda x, q=q: x.quantile(q)) for q in (0.1, 0.9)
        )
        series = {arm: Series(y=means[arm].to_numpy(), low=low[arm].to_numpy(), high=high[arm].to_numpy()) for arm in ARMS}
        last = means.iloc[-1]
        return (
            Lines(
                name="doors", title="What pads change where the scores are masked",
                caption=f"Cosine of a sentence's vector with that of the sentence alone, mean of {frame.sentence.nunique()} sentences; bands hold the middle 80 %.",
                alt=f"At {means.index[-1]} pads: " + "; ".join(f"{arm}: {last[arm]:.3f}" for arm in ARMS), x=means.index.to_numpy(float), series=series,
                x_label="pads", y_label="cosine", log_x=True, markers=True,
            ),
        )  # fmt: skip

    def _sentences(self, encoder: Transformer) -> list[Tensor]:
        """Token ids, Int[1 pos], with the encoder's own ends. Raises ValueError where the prose has fewer that fit."""
        said = (part.strip() for part in re.split(r"(?<=[.!?])\s+", halves()[1]))
        read = (encoder.tokenizer.batch([part], template=True)[0] for part in said if WORDS[0] <= len(part.split()) <= WORDS[1])
        fit = [tokens for tokens in read if tokens.shape[1] + max(self.pads) <= encoder.config.n_ctx]
        if len(fit) < self.n_sentences:
            raise ValueError(f"the held-out prose has {len(fit)} sentences that fit with {max(self.pads)} pads, got n_sentences={self.n_sentences}")
        return fit[: self.n_sentences]


@torch.no_grad()
def _compared(encoder: Transformer, tokens: Tensor, sentence: int, pads: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """One sentence: every arm with every number of pads against the sentence alone."""
    n, last = tokens.shape[1], f"blocks.{encoder.n_layers - 1}.resid_post"
    alone = _read(encoder, last, tokens, None)[0]
    for m in pads:
        filled = torch.full((1, m), encoder.tokenizer.pad_id)
        for arm in ARMS:
            left = "left" in arm
            padded = torch.cat((filled, tokens) if left else (tokens, filled), dim=1)
            real = torch.zeros_like(padded, dtype=torch.bool)
            real[:, m if left else 0 : m + n if left else n] = True
            by_place = Edit("pos_embed", constant(_positions(encoder, m + n))) if "by place" in arm else None
            states, weight = _read(encoder, last, padded, None if arm == "no mask" else real, by_place, real)
            pooled = states[0] if "all places" in arm else states[real]  # token d_model
            yield {
                "sentence": sentence, "pads": m, "arm": arm, "cosine": _cosine(pooled, alone[0]), "weight": weight,
                "change": float((states[real] - alone[0]).abs().max() / alone.abs().max()),
            }  # fmt: skip


def _read(
    encoder: Transformer, site: str, tokens: Tensor, mask: Tensor | None, edit: Edit | None = None, real: Tensor | None = None
) -> tuple[Float[Tensor, "1 pos d_model"], float]:
    """Final states, and the largest weight of a real query on all pads together (0 where there are none)."""
    with record(encoder, [site, "blocks.*.attn.pattern"]) as activations, nullcontext() if edit is None else intervene(encoder, edit):
        encoder(tokens, mask)
    if real is None:
        return activations[site], 0.0
    patterns = [activations[f"blocks.{i}.attn.pattern"][0][:, real[0]] for i in range(encoder.n_layers)]  # head real key
    return activations[site], max(float(pattern[..., ~real[0]].sum(-1).max()) for pattern in patterns)


def _slopes(encoder: Transformer, tokens: Tensor, m: int, seed: int) -> dict[str, float]:
    """The largest gradient of a random sum of the real tokens' final states by the embedding of a pad, with m pads masked, and not."""
    found, n, last = {}, tokens.shape[1], f"blocks.{encoder.n_layers - 1}.resid_post"
    padded = torch.cat((tokens, torch.full((1, m), encoder.tokenizer.pad_id)), dim=1)
    real = torch.arange(n + m)[None] < n
    for name, mask in (("masked", real), ("open", None)):
        with record(encoder, ["embed", last], gradients=True) as activations:
            encoder(padded, mask)
        states = activations[last][:, :n]
        drawn = torch.randn(states.shape, generator=torch.Generator().manual_seed(seed))
        found[name] = float(torch.autograd.grad((states * drawn).sum(), activations["embed"])[0][:, n:].abs().max())
    return found


def _positions(encoder: Transformer, n: int) -> Float[Tensor, "pos d_model"]:
    """What stands at places 0 to n − 1 if positions are the places."""
    return encoder.position_embedding(torch.arange(n) + encoder.config.position_offset)


def _cosine(a: Float[Tensor, "token d"], b: Float[Tensor, "token d"]) -> float:
    return float(F.cosine_similarity(a.double().mean(0), b.double().mean(0), dim=0))


def _stand_ins(n_real: int = 6, n_pads: int = 2) -> pd.DataFrame:
    """Weight on pads by number format and by what stands for −∞; NaN where the row is."""
    rows, scores = [], torch.linspace(-2, 2, n_real + n_pads, dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for fill, value in (("−∞", -np.inf), ("smallest number", torch.finfo(dtype).min), ("−1e9", -1e9)):
            for sees in ("real keys and pads", "pads only"):
                pads = torch.arange(len(scores)) >= (n_real if sees != "pads only" else 0)
                stood = torch.full((), value, dtype=torch.float64).to(dtype)
                weights = torch.where(pads, stood, scores.to(dtype)).softmax(0)
                rows.append(
                    {
                        "dtype": str(dtype).removeprefix("torch."),
                        "fill": fill,
                        "stored": float(stood),
                        "sees": sees,
                        "weight": float(weights[pads].double().sum()),
                        "uneven": float((weights[pads].max() - weights[pads].min()).double()),
                    }
                )
    return pd.DataFrame(rows)


def _sentences_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Every sentence with pads, against itself alone. " + "; ".join(f"{arm}: {what}" for arm, what in ARMS.items()) + ".",
        sentence=("", "its number"), pads=("tokens", "that were added"), arm=("", "what is masked, and how the vector is made"),
        cosine=("1", "of the sentence's vector with that of the sentence alone"), weight=("1", "largest weight of a real query on all pads together"),
        change=("1", "largest change of a real token's final state, over the largest value"),
    )  # fmt: skip


def _slopes_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "Do states of real tokens have a gradient by the embedding of a pad?", sentence=("", "its number"),
        masked=("1", "largest gradient where pads are masked"), open=("1", "the same where they are not"),
    )  # fmt: skip


def _stand_ins_table(frame: pd.DataFrame) -> Table:
    return table(
        frame, "What the softmax makes of the stand-ins for −∞.", dtype=("", "number format"), fill=("", "what a pad's score is set to"),
        stored=("1", "what that is in the format"), sees=("", "keys of the row"), weight=("1", "on pads; missing where the row is NaN"),
        uneven=("1", "largest minus smallest weight of a pad"),
    )  # fmt: skip


STUDY = PaddingMasks
