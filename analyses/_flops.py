"""How many floating-point operations is a forward pass, by the shape of the model?

Convention: a multiplication and an addition are 2 operations; matrix products only (no norms, activations, softmax, rotation); batch 1; a
forward pass (training takes about three times as many). Attention is counted twice: over all pairs of positions, as
`torch.utils.flop_counter` does, and over the pairs that causality leaves, n(n+1)/2 of n², which a kernel may or may not use; windows and
blocks of attention are taken into account where that is asked for. In an encoder-decoder source and target have the same length n.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from model import EncoderDecoderConfig, Span, TransformerConfig

Config = TransformerConfig | EncoderDecoderConfig


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass of `n` tokens that unembeds one position; `+` adds two stacks."""

    projections: int
    """q, k, v and the output projection: 2·d_model·d_head·(2·n_heads + 2·n_kv_heads) per token and layer; cross-attention as much again"""
    mlp: int
    """2·d_model·d_mlp·2, gated ·3, per token and layer"""
    attention: int
    """q kᵀ and pattern · v over all pairs: 2·2·n_heads·d_head·n² per layer; cross-attention as much again"""
    attention_visible: int
    """the same over the pairs that causality leaves, n(n+1)/2 in a decoder's self-attention, all elsewhere; with `spans` that these leave, too"""
    unembedding: int
    """2·d_model·d_vocab, once; a masked-LM head's dense layer, 2·d_model², with it; 0 without a head"""

    @property
    def linear(self) -> int:
        """What grows with n."""
        return self.projections + self.mlp

    @property
    def total(self) -> int:
        """Everything, attention over all pairs."""
        return self.linear + self.attention + self.unembedding

    def __add__(self, other: Flops) -> Flops:
        return Flops(**{name: value + getattr(other, name) for name, value in vars(self).items()})


def forward_flops(config: Config, n: int, *, spans: bool = False) -> Flops:
    """The operations of a forward pass of n tokens; of n source and n target tokens where there are two stacks.

    With `spans` the visible pairs are those within the span of each layer's attention.

    >>> config = TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=32, d_vocab=10, n_ctx=5)
    >>> flops = forward_flops(config, 5)
    >>> flops.projections == 8 * 8**2 * 5, flops.mlp == 16 * 8**2 * 5, flops.attention == 4 * 8 * 5**2
    (True, True, True)
    """
    if isinstance(config, EncoderDecoderConfig):
        cross = _attention(config.decoder, n, visible=n * n * config.decoder.n_layers)
        return forward_flops(config.encoder, n, spans=spans) + forward_flops(config.decoder, n, spans=spans) + cross
    hidden = config.d_model if config.head == "mlm" else 0
    rest = Flops(
        projections=0,
        mlp=2 * config.d_model * config.d_mlp * (3 if config.gated else 2) * n * config.n_layers,
        attention=0,
        attention_visible=0,
        unembedding=0 if config.head == "none" else 2 * config.d_model * (config.d_vocab + hidden),
    )
    reach = [config.span_of(i) if spans else Span() for i in range(config.n_layers)]
    return rest + _attention(config, n, visible=sum(visible_pairs(n, causal=config.causal, span=span) for span in reach))


def visible_pairs(n: int, *, causal: bool, span: Span = Span()) -> int:
    """Pairs of a query and a key that it may see, of n·n.

    >>> [visible_pairs(6, causal=True, span=span) for span in (Span(), Span(kind="window", size=2), Span(kind="block", size=3))]
    [21, 11, 12]
    """
    before = np.arange(n)  # keys that each query sees before itself, and behind
    behind = before[::-1]
    if span.kind == "window":
        before, behind = (np.minimum(keys, span.size - 1) for keys in (before, behind))
    if span.kind == "block":
        place = before % span.size
        start = before - place
        behind = np.where(before < span.n_global, behind, np.minimum(start + span.size, n) - 1 - before)
        before = place + np.minimum(start, span.n_global)
    return int((1 + before + (0 if causal else behind)).sum())


def _attention(config: TransformerConfig, n: int, *, visible: int) -> Flops:
    """One attention in every block, self- or cross-attention: n queries, n keys, of which all blocks together see so many pairs."""
    heads, kv_heads = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    pair = 2 * 2 * heads
    projections = 2 * config.d_model * (2 * heads + 2 * kv_heads) * n * config.n_layers
    return Flops(projections=projections, mlp=0, attention=pair * config.n_layers * n * n, attention_visible=pair * visible, unembedding=0)


def flops_crossover(config: Config, *, visible: bool) -> float:
    """The length from which on attention takes more operations than projections and MLP: 6·d_model in the shape of the paper's decoder,
    12·d_model over visible pairs.

    >>> config = TransformerConfig(n_layers=2, d_model=256, n_heads=4, d_head=64, d_mlp=1024, d_vocab=10, n_ctx=5)
    >>> flops_crossover(config, visible=False) / 256, flops_crossover(config, visible=True) / 256
    (6.0, 12.0)
    """
    one, two = forward_flops(config, 1), forward_flops(config, 2)
    if not visible:
        return one.linear / one.attention
    return one.linear / ((two.attention_visible - 2 * one.attention_visible) / 2)  # a·n² + b·n: what is left of 4a + 2b − 2(a + b)
