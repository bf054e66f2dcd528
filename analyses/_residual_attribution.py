"""Who writes the answer? Direct logit attribution: what each part of the residual stream adds to one logit over another.

The last state is the sum of what embedding, attention and feed-forward networks write. With the scale of the final norm frozen
at its value, norm and unembedding are linear, so that the logit difference is the sum of one number per part (Elhage et al.
2021; Wang et al. 2023, "direct effect"), and the biases behind the stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from analyses import _residual_inputs as read
from analyses._anatomy import Inputs, Model, Side, sides
from analyses._corpus import Corpus
from analyses._residual_frames import stack_name
from model import Transformer
from model.norms import BatchNorm, NoNorm
from probes import record
from probes.metrics.readout import last_position

PARTS = {"attn_out": "attention", "cross_attn_out": "cross-attention", "mlp_out": "MLP"}
"""what a block writes, in this order: site → name for a reader"""
COLUMNS = ["layer", "part", "contribution"]
CHECK = ["prompt", "answer", "other", "measured", "total", "error"]


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """What every part adds to logit(answer) − logit(other) at the last real token of each example."""

    layers: tuple[int, ...]
    """the block of each part; −1 for the embedding, the number of blocks for the biases behind the stream"""
    parts: tuple[str, ...]
    values: Float[Tensor, "part batch"]
    measured: Float[Tensor, "batch"]
    """the logit difference of a forward pass in which nothing is observed; of logits that are capped, before the cap"""


def attributable(model: Model) -> bool:
    """Is the last state a sum of what was written, and does a matrix alone read it behind the final norm?"""
    config = sides(model)[-1].config
    return config.residual and config.norm_place != "post" and model.unembed is not None and model.unembed.transform is None


@torch.no_grad()
def contributions(model: Model, inputs: Inputs, answer: Int[Tensor, "batch"], other: Int[Tensor, "batch"]) -> Contributions:
    """Direct logit attribution of the last stack; their sum is `measured` up to rounding.

    Raises ValueError for a model whose last state is no sum of its parts: post-norm, without residual connections, or with a
    head that is more than a matrix.

    >>> from model.zoo.planted_induction import planted_induction
    >>> found = contributions(planted_induction(), (torch.tensor([[7, 3, 9, 7]]),), torch.tensor([3]), torch.tensor([9]))
    >>> [(layer, part, round(value)) for layer, part, value in zip(found.layers, found.parts, found.values[:, 0].tolist())]
    [(-1, 'embedding', 0), (0, 'attention', 0), (1, 'attention', 20)]
    """
    if not attributable(model):
        raise ValueError("direct logit attribution needs a last state that is a sum of its parts and a head that is one matrix")
    side = sides(model)[-1]
    sites = _written(model, side)
    scale_site = f"{side.prefix}ln_final.scale"
    names = [name for _, _, name in sites] + [scale_site] * (scale_site in model.sites())
    at = last_position(inputs)[:, 0]
    rows = torch.arange(len(at), device=at.device)
    with record(model, names) as seen:
        model(*inputs)
    values = {name: seen[name][rows, at].double() for name in names}  # batch d_model
    weight, bias = model.unembed.unembedding.weight, model.unembed.unembedding.bias
    direction = weight[answer].double() - weight[other].double()  # batch d_model
    reading, rest = _through(side.stack.ln_final, direction, values.get(scale_site))
    rest = rest if bias is None else rest + bias[answer].double() - bias[other].double()
    found = [((values[name] * reading).sum(-1), layer, part) for layer, part, name in sites]
    if bool(rest.any()):
        found.append((rest, side.config.n_layers, "biases"))
    logits = model(*inputs)[rows, at].double()  # batch d_vocab
    if (cap := model.unembed.cap) is not None:
        logits = cap * torch.atanh(logits / cap)
    return Contributions(
        layers=tuple(layer for _, layer, _ in found), parts=tuple(part for _, _, part in found),
        values=torch.stack([value for value, _, _ in found]) * model.unembed.factor, measured=logits[rows, answer] - logits[rows, other],
    )  # fmt: skip


def _written(model: Model, side: Side) -> list[tuple[int, str, str]]:
    """Layer, part and site of everything that is written into the last stack's stream, in order."""
    known, found = model.sites(), [(-1, "embedding", f"{side.prefix}blocks.0.resid_pre")]
    for layer in range(side.config.n_layers):
        named = ((part, f"{side.prefix}blocks.{layer}.{word}") for word, part in PARTS.items())
        found += [(layer, part, name) for part, name in named if name in known]
    return found


def _through(
    norm: torch.nn.Module, direction: Float[Tensor, "batch d_model"], scale: Tensor | None
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch"]]:
    """What a state is multiplied with to give direction · norm(state), the scale as it is; and what the norm adds to that."""
    if isinstance(norm, NoNorm):
        return direction, torch.zeros_like(direction[:, 0])
    gained = direction * (norm.gain.double() + getattr(norm, "gain_offset", 0.0))
    rest = torch.zeros_like(gained[:, 0]) if norm.bias is None else direction @ norm.bias.double()
    if isinstance(norm, BatchNorm):
        reading = gained / (norm.variance.double() + norm.eps).sqrt()
        return reading, rest - reading @ norm.mean.double()
    if norm.centred:  # Σ a (x − mean x) = Σ (a − mean a) x
        gained = gained - gained.mean(-1, keepdim=True)
    return gained / scale, rest


def contribution_frames(model: Model, corpus: Corpus, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame] | None:
    """A row per part, and a row for the sum; None where there is nothing to ask or no sum.

    A decoder is asked the first prompt that has a target and a foil. Where there is none, and in two stacks, the question is
    why the model's own first choice, at the end of the example, comes before its second.
    """
    if not attributable(model) or (isinstance(model, Transformer) and not model.config.causal):
        return None
    asked = isinstance(model, Transformer) and model.tokenizer is not None
    contrasts = corpus.contrasts(1) if asked else ()
    inputs = model.tokenize([contrasts[0].prompt]) if contrasts else read.example(model, corpus, seed=seed)
    tokens, mask = sides(model)[-1].tokens(inputs)
    if not tokens.shape[1]:
        return None
    ends = [model.tokenizer.encode(text)[0] for text in (contrasts[0].target, contrasts[0].foil)] if contrasts else _choices(model, inputs)
    answer, other = (torch.tensor([end], device=tokens.device) for end in ends)
    found = contributions(model, inputs, answer, other)
    values, measured = found.values[:, 0].tolist(), float(found.measured[0])
    said = read.words(read.writer(model), torch.tensor(ends))
    text = "".join(read.words(read.writer(model), tokens[0] if mask is None else tokens[0, mask[0]]))
    parts = pd.DataFrame(list(zip(found.layers, found.parts, values, strict=True)), columns=COLUMNS)
    check = pd.DataFrame([(text, *said, measured, sum(values), sum(values) - measured)], columns=CHECK)
    for frame in (parts, check):
        frame.insert(0, "stack", stack_name(sides(model)[-1]))
    return parts, check


@torch.no_grad()
def _choices(model: Model, inputs: Inputs) -> list[int]:
    """The two most probable tokens after the last real one."""
    return model(*inputs)[0, int(last_position(inputs)[0, 0])].topk(2).indices.tolist()
