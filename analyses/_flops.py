"""How many floating-point operations is a forward pass, by the shape of the model?

Convention: a multiplication and an addition are 2 operations; matrix products only (no norms, activations, softmax, rotation); batch 1; a
forward pass (training takes about three times as many). Attention is counted twice: over all n² pairs of positions, as
`torch.utils.flop_counter` does, and over the n(n+1)/2 pairs that a causal mask leaves, which a kernel may or may not use.
"""

from __future__ import annotations

from dataclasses import dataclass

from model import TransformerConfig


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward pass of `n` tokens that unembeds the last position."""

    projections: int
    """q, k, v and the output projection: 2·d_model·d_head·(2·n_heads + 2·n_kv_heads) per token and layer"""
    mlp: int
    """2·d_model·d_mlp·2, gated ·3, per token and layer"""
    attention: int
    """q kᵀ and pattern · v over all pairs: 2·2·n_heads·d_head·n² per layer"""
    attention_causal: int
    """the same over the n(n+1)/2 visible pairs"""
    unembedding: int
    """2·d_model·d_vocab, once"""

    @property
    def linear(self) -> int:
        """What grows with n."""
        return self.projections + self.mlp

    @property
    def total(self) -> int:
        """Everything, attention over all pairs."""
        return self.linear + self.attention + self.unembedding


def forward_flops(config: TransformerConfig, n: int) -> Flops:
    """The operations of a forward pass of n tokens.

    >>> config = TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=32, d_vocab=10, n_ctx=5)
    >>> flops = forward_flops(config, 5)
    >>> flops.projections == 8 * 8**2 * 5, flops.mlp == 16 * 8**2 * 5, flops.attention == 4 * 8 * 5**2
    (True, True, True)
    """
    heads, kv_heads = config.n_heads * config.d_head, config.n_kv_heads * config.d_head
    pair = 2 * 2 * heads * config.n_layers
    return Flops(
        projections=2 * config.d_model * (2 * heads + 2 * kv_heads) * n * config.n_layers,
        mlp=2 * config.d_model * config.d_mlp * (3 if config.gated else 2) * n * config.n_layers,
        attention=pair * n * n, attention_causal=pair * n * (n + 1) // 2,
        unembedding=2 * config.d_model * config.d_vocab,
    )


def flops_crossover(config: TransformerConfig, *, causal: bool) -> float:
    """The length from which on attention takes more operations than projections and MLP: 6·d_model in the shape of the paper, 12·d_model if causal.

    >>> config = TransformerConfig(n_layers=2, d_model=256, n_heads=4, d_head=64, d_mlp=1024, d_vocab=10, n_ctx=5)
    >>> flops_crossover(config, causal=False) / 256, flops_crossover(config, causal=True) / 256
    (6.0, 12.0)
    """
    one = forward_flops(config, 1)
    return one.linear / one.attention * (2 if causal else 1)
