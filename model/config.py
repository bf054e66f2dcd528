"""Which Transformer is this? Every design choice of the architecture is a field; combinations are checked when it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from model.choices import (
    Activation,
    Dropout,
    Head,
    NormKind,
    NormPlace,
    Positions,
    QKNorm,
    Rotary,
    RotaryScaling,
    Score,
    Span,
    one_of,
)


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The shape and the design choices of one stack of blocks.

    Sizes count: `n_layers` blocks, `d_model` width of the residual stream, `n_heads` query heads of width `d_head`
    (their product need not be `d_model`), `n_kv_heads` key and value heads (1 is multi-query, `n_heads` is ordinary
    attention), `d_mlp` hidden units (0: no feed-forward network), `d_vocab` tokens, `n_ctx` positions.

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

    causal: bool = True
    """a query sees itself and earlier positions only: a decoder"""
    head: Head = "lm"
    """what reads the final states: a language model's unembedding, BERT's masked-language-model head, or nothing"""

    positions: Positions = "learned"
    position_offset: int = 0
    """rows of the table of learned positions that come before that of the first token (RoBERTa, OPT, BART)"""
    rotary: Rotary | tuple[Rotary, ...] = Rotary()
    """one for all layers, or one for each"""
    n_buckets: int = 32
    """of T5's relative positions (Raffel et al. 2020)"""
    max_distance: int = 128
    """beyond which T5 and Shaw do not tell distances apart"""

    score: Score = "dot"
    score_scale: float | None = None
    """what q·k is multiplied by; None is 1/√d_head"""
    score_cap: float | None = None
    """scores become cap · tanh(score / cap) (Gemma 2)"""
    logit_cap: float | None = None
    shared_qk: bool = False
    """keys are made by the matrix of the queries"""
    qk_norm: QKNorm = "none"
    """RMS norm of q and k, per head (Qwen 3) or over all heads at once (OLMo 2)"""
    span: Span | tuple[Span, ...] = Span()
    """one for all layers, or one for each"""

    norm: NormKind = "layer"
    norm_eps: float = 1e-5
    norm_place: NormPlace = "pre"
    """before each sub-layer; after each sum; before and after each sub-layer (Gemma 2); after each sub-layer (OLMo 2)"""
    norm_bias: bool = True
    """layer norm and batch norm add a bias"""
    gain_offset: float = 0.0
    """added to the stored gain: Gemma stores gain − 1"""
    embed_norm: bool = False
    final_norm: bool = True
    parallel: bool = False
    """attention and feed-forward network both read resid_pre (GPT-J, GPT-NeoX)"""
    parallel_shared_norm: bool = False
    """… and through the same norm (GPT-J)"""
    residual: bool = True

    activation: Activation = "gelu_tanh"
    gated: bool = False
    """post = activation(x W_gate) · (x W_in) (Shazeer 2020) in place of activation(x W_in)"""

    q_bias: bool = True
    k_bias: bool = True
    v_bias: bool = True
    attn_out_bias: bool = True
    mlp_bias: bool = True
    unembed_bias: bool = False

    embed_scale: float = 1.0
    """√d_model in the paper"""
    residual_scale: float = 1.0
    """what the output of a sub-layer is multiplied by (Granite)"""
    logit_scale: float = 1.0
    tied_embeddings: bool = True
    """the unembedding is the transposed embedding, one parameter"""
    n_segments: int = 0
    """kinds of segment embeddings (BERT); 0: none"""
    dropout: Dropout = Dropout()

    def __post_init__(self) -> None:
        if self.n_kv_heads == 0:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        self._check_sizes()
        for name, kind in (
            ("positions", Positions), ("score", Score), ("norm", NormKind), ("norm_place", NormPlace), ("qk_norm", QKNorm),
            ("activation", Activation), ("head", Head),
        ):
            one_of(self, name, kind)
        for name in ("span", "rotary"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.n_layers:
                raise ValueError(f"{name} is one for all layers or one for each of the {self.n_layers}, got {len(value)}")
        self._check_combinations()

    def _check_sizes(self) -> None:
        least = {"d_mlp": 0, "n_segments": 0, "position_offset": 0}
        counts = ("n_layers", "d_model", "n_heads", "d_head", "n_kv_heads", "d_mlp", "d_vocab", "n_ctx")
        for name in (*counts, "n_buckets", "max_distance", "n_segments", "position_offset"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least.get(name, 1):
                raise ValueError(f"{name} must be a whole number of at least {least.get(name, 1)}, got {name}={value!r}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads must be a multiple of n_kv_heads, got n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}")
        for name in ("norm_eps", "embed_scale", "residual_scale", "logit_scale", "score_scale", "score_cap", "logit_cap"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {name}={value!r}")

    def _check_combinations(self) -> None:
        for i in range(self.n_layers):
            if self.positions == "rotary" and (self.rotary_of(i).dims or self.d_head) > self.d_head:
                raise ValueError(f"a rotation turns at most d_head dimensions, got dims={self.rotary_of(i).dims}, d_head={self.d_head}")
        turned = {self.rotary_of(i).dims or self.d_head for i in range(self.n_layers)}
        if self.positions == "rotary" and any(dims % 2 for dims in turned):
            raise ValueError(f"rotary positions turn pairs, so d_head must be even, got d_head={self.d_head}")
        if self.score == "additive" and (self.positions == "shaw" or self.score_scale is not None):
            raise ValueError("an additive score has no scale and no Shaw positions; both belong to the dot product")
        if self.shared_qk and self.n_kv_heads != self.n_heads:
            raise ValueError(
                f"shared queries and keys need as many key heads as query heads, got n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}"
            )
        if self.parallel and self.norm_place != "pre":
            raise ValueError(f"a parallel block has its norm before the sub-layers, got norm_place={self.norm_place!r}")
        if self.parallel_shared_norm and not self.parallel:
            raise ValueError("parallel_shared_norm belongs to a parallel block, got parallel=False")
        if self.parallel and self.d_mlp == 0:
            raise ValueError("a parallel block needs a feed-forward network, got d_mlp=0")
        if self.gated and self.d_mlp == 0:
            raise ValueError("there is no feed-forward network to gate, got gated=True, d_mlp=0")
        if not self.residual and self.residual_scale != 1.0:
            raise ValueError(f"without residual connections there is nothing to scale, got residual_scale={self.residual_scale}")
        if self.position_offset and self.positions != "learned":
            raise ValueError(
                f"position_offset belongs to learned positions, got position_offset={self.position_offset}, positions={self.positions!r}"
            )
        if self.head == "mlm" and self.causal:
            raise ValueError("a masked-language-model head belongs to an encoder, got causal=True")

    def span_of(self, i: int) -> Span:
        """How far attention reaches in block i."""
        return self.span[i] if isinstance(self.span, tuple) else self.span

    def rotary_of(self, i: int) -> Rotary:
        """How block i turns its queries and keys."""
        return self.rotary[i] if isinstance(self.rotary, tuple) else self.rotary

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TransformerConfig:
        """The inverse of `to_dict`.

        Raises ValueError that names a field which this version does not know: ignoring it would compute something else.
        """
        values = {**values, **{name: _several(read, values[name]) for name, read in _NESTED.items() if name in values}}
        return _built(cls, values)


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """Two stacks: the decoder also attends to the final states of the encoder.

    The encoder is not causal and has no head; the decoder is causal. `shared_embeddings` is one table for both.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    shared_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.encoder.causal or self.encoder.head != "none":
            raise ValueError("the encoder sees everything and has no head: causal=False, head='none'")
        if not self.decoder.causal:
            raise ValueError("the decoder of an encoder-decoder is causal, got causal=False")
        if self.decoder.parallel:
            raise ValueError("a decoder that reads an encoder has no parallel blocks: cross-attention stands between attention and mlp")
        if self.encoder.d_model != self.decoder.d_model:
            raise ValueError(f"encoder and decoder need the same d_model, got {self.encoder.d_model} and {self.decoder.d_model}")
        if self.shared_embeddings and self.encoder.d_vocab != self.decoder.d_vocab:
            raise ValueError(f"shared embeddings need one vocabulary, got d_vocab={self.encoder.d_vocab} and {self.decoder.d_vocab}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> EncoderDecoderConfig:
        """The inverse of `to_dict`."""
        stacks = {name: TransformerConfig.from_dict(values[name]) for name in ("encoder", "decoder") if name in values}
        return _built(cls, {**values, **stacks})


def _built(cls: type, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"unknown config field {unknown[0]!r}: this version of prosect knows {', '.join(sorted(known))}")
    return cls(**values)


def _several(read: Any, value: Any) -> Any:
    return tuple(read(v) for v in value) if isinstance(value, list | tuple) else read(value)


def _rotary(values: Mapping[str, Any]) -> Rotary:
    scaling = values.get("scaling")
    return _built(Rotary, {**values, "scaling": None if scaling is None else _built(RotaryScaling, scaling)})


_NESTED = {"rotary": _rotary, "span": lambda values: _built(Span, values), "dropout": lambda values: _built(Dropout, values)}
