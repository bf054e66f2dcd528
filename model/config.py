"""Which Transformer is this? Every design choice of the architecture is a field; combinations are checked when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Positions = Literal["learned", "rotary"]
NormKind = Literal["layer", "rms"]
Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape and the design choices of one Transformer.

    Sizes count: `n_layers` blocks, `d_model` width of the residual stream, `n_heads` query heads of width `d_head`
    (their product need not be `d_model`), `n_kv_heads` key and value heads (1 is multi-query, `n_heads` is ordinary
    attention), `d_mlp` hidden units, `d_vocab` tokens, `n_ctx` positions.

    >>> TransformerConfig(n_layers=2, d_model=64, n_heads=4, d_head=16, d_mlp=256, d_vocab=100, n_ctx=32).n_kv_heads
    4
    >>> TransformerConfig(n_layers=2, d_model=64, n_heads=4, n_kv_heads=3, d_head=16, d_mlp=256, d_vocab=100, n_ctx=32)
    Traceback (most recent call last):
    ...
    ValueError: n_heads must be a multiple of n_kv_heads, got n_heads=4, n_kv_heads=3
    """

    family: str = "transformer"
    """the architecture that the checkpoint came from"""
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    n_kv_heads: int = 0
    """0 means as many as `n_heads`"""
    d_mlp: int
    d_vocab: int
    n_ctx: int

    positions: Positions = "learned"
    rotary_base: float = 10000.0
    """the base of the rotation angles: position p turns pair i by p · base^(−2i/d_head) (Su et al. 2021)"""

    norm: NormKind = "layer"
    norm_eps: float = 1e-5

    activation: Activation = "gelu_tanh"
    gated: bool = False
    """post = activation(x W_gate) · (x W_in) (Shazeer 2020) in place of activation(x W_in)"""

    qkv_bias: bool = True
    attn_out_bias: bool = True
    mlp_bias: bool = True

    tied_embeddings: bool = True
    """the unembedding is the transposed embedding, one parameter"""

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        for name in ("n_layers", "d_model", "n_heads", "d_head", "n_kv_heads", "d_mlp", "d_vocab", "n_ctx"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {name}={value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads must be a multiple of n_kv_heads, got n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}")
        for name, kind in (("positions", Positions), ("norm", NormKind), ("activation", Activation)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(self, name)!r}")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"rotary positions turn pairs, so d_head must be even, got d_head={self.d_head}")
        for name in ("rotary_base", "norm_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {name}={getattr(self, name)!r}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """The inverse of `to_dict`.

        Raises ValueError that names a field which this version does not know: ignoring it would compute something else.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown config field {unknown[0]!r}: this version of prosect knows {', '.join(sorted(known))}")
        return cls(**values)
