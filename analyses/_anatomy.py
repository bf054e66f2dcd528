"""Which stacks and which attentions does a model have? One of each in a decoder or an encoder; two stacks and three attentions in both together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from model import EncoderDecoder, Transformer, TransformerConfig
from model.stack import Stack
from probes.inputs import Inputs, mask_at, written

Model = Transformer | EncoderDecoder


@dataclass(frozen=True)
class Side:
    """One stack of a model.

    `name` is empty where there is only one stack; `prefix` is what the names of its sites begin with; `first_step` is the
    number of its block 0 among the model's steps.
    """

    name: Literal["", "encoder", "decoder"]
    stack: Stack
    first_step: int

    @property
    def prefix(self) -> str:
        return f"{self.name}." if self.name else ""

    @property
    def config(self) -> TransformerConfig:
        return self.stack.config

    def tokens(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """The tokens that the stack reads, and which of them are real (None: all are)."""
        return (inputs[0], mask_at("encoder.", inputs)) if self.name == "encoder" else written(inputs)


@dataclass(frozen=True)
class AttentionKind:
    """The attention of every block of one stack: `name` for a reader, `key` for a table, `label` before a head's name."""

    name: str
    key: Literal["self", "encoder", "decoder", "cross"]
    side: Side

    @property
    def module(self) -> Literal["attn", "cross_attn"]:
        return "cross_attn" if self.key == "cross" else "attn"

    @property
    def causal(self) -> bool:
        return self.side.config.causal and self.key != "cross"

    def site(self, layer: int, word: str) -> str:
        """The name of one of its sites."""
        return f"{self.side.prefix}blocks.{layer}.{self.module}.{word}"

    def masks(self, inputs: Inputs) -> tuple[Tensor | None, Tensor | None]:
        """Which queries and which keys are real (None: all are)."""
        queries = self.side.tokens(inputs)[1]
        return queries, mask_at("encoder.", inputs) if self.key == "cross" else queries

    def tokens(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The tokens at the queries and at the keys."""
        queries = self.side.tokens(inputs)[0]
        return queries, inputs[0] if self.key == "cross" else queries


def sides(model: Model) -> tuple[Side, ...]:
    """The stacks, in the order in which they run."""
    if isinstance(model, Transformer):
        return (Side("", model, 0),)
    return Side("encoder", model.encoder, 0), Side("decoder", model.decoder, model.encoder.config.n_layers)


def attentions(model: Model) -> tuple[AttentionKind, ...]:
    """The kinds of attention, in the order in which a reader meets them."""
    if isinstance(model, Transformer):
        return (AttentionKind("self-attention", "self", sides(model)[0]),)
    encoder, decoder = sides(model)
    return (
        AttentionKind("encoder self-attention", "encoder", encoder),
        AttentionKind("decoder self-attention", "decoder", decoder),
        AttentionKind("cross-attention", "cross", decoder),
    )


def kind_of(site: str) -> str:
    """The key of the kind of attention that a site belongs to.

    >>> kind_of("blocks.0.attn.z"), kind_of("decoder.blocks.1.cross_attn.z"), kind_of("encoder.blocks.1.attn.z")
    ('self', 'cross', 'encoder')
    """
    if ".cross_attn." in site:
        return "cross"
    return next((side for side in ("encoder", "decoder") if site.startswith(f"{side}.")), "self")


def head_label(key: str, layer: int, head: int) -> str:
    """What a head is called.

    >>> head_label("self", 3, 2), head_label("cross", 3, 2)
    ('L3H2', 'cross L3H2')
    """
    return f"{'' if key == 'self' else f'{key} '}L{layer}H{head}"


def shape_of(model: Model) -> str:
    """The kind of model and its size, for a reader."""
    if isinstance(model, Transformer):
        kind = "decoder" if model.config.causal else "encoder"
        return f"{kind} of {model.config.n_layers} layers × {model.config.n_heads} heads, d_model {model.config.d_model}"
    return "; ".join(f"{side.name} of {side.config.n_layers} layers × {side.config.n_heads} heads, d_model {side.config.d_model}" for side in sides(model))


def attention_path(model: Model) -> str:
    """How attention is computed: the fused kernel takes neither capped scores, nor additive ones, nor embedded distances."""
    modules = [part for side in sides(model) for block in side.stack.blocks for part in (block.attn, block.cross_attn) if part is not None]
    open_ = sum(part.cap is not None or part.w_score is not None or part.shaw is not None for part in modules)
    return "explicit" if open_ == len(modules) else "fused, explicit where observed" if not open_ else f"explicit in {open_} of {len(modules)} attentions, else fused"
