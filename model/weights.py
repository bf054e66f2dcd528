"""Where are the weights? Views of a model's own matrices and biases, by their usual names, in the shapes of the paper's equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

if TYPE_CHECKING:
    from model.stack import Stack

MATRICES = ("W_E", "W_pos", "W_U", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out")
BIASES = ("b_U", "b_Q", "b_K", "b_V", "b_O", "b_in", "b_gate", "b_out")


@dataclass(frozen=True, eq=False)
class LayerWeights(Sequence[Tensor]):
    """One matrix or bias of every layer. `[layer]`, `[layer, head]` and so on are views: what is written into them, the model has.

    Layers are parameters of their own, so that no view holds several of them: a slice of layers is again a `LayerWeights`,
    and `stack()` is a copy. `axes` are those of one layer, `n_heads` counts query heads.

    >>> from model import Transformer, TransformerConfig
    >>> config = TransformerConfig(n_layers=3, d_model=8, n_heads=4, n_kv_heads=2, d_head=2, d_mlp=16, d_vocab=10, n_ctx=5)
    >>> W_K = Transformer(config).W_K
    >>> W_K, W_K[2, 1].shape, W_K.per_head().shape
    (W_K[layer kv_head d_model d_head] of shape (3, 2, 8, 2), torch.Size([8, 2]), torch.Size([3, 4, 8, 2]))
    >>> with torch.no_grad():
    ...     _ = W_K.of_head(2, head=3).zero_()  # writes what query heads 2 and 3 of layer 2 share
    >>> W_K[2, 1].abs().max().item()
    0.0
    """

    name: str
    axes: tuple[str, ...]
    layers: tuple[Tensor, ...]
    n_heads: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of layers, then the shape of each."""
        return len(self.layers), *self.layers[0].shape

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.layers)

    def __getitem__(self, index: Any) -> Any:
        layer, *rest = index if isinstance(index, tuple) else (index,)
        try:
            if isinstance(layer, slice) and not rest:
                return replace(self, layers=self.layers[layer])
            return self.layers[layer][tuple(rest)] if rest else self.layers[layer]
        except (IndexError, TypeError):
            raise IndexError(
                f"{self.name} has axes [layer {' '.join(self.axes)}] of shape {self.shape}, the first taken by a number, got {index!r}"
            ) from None

    def stack(self) -> Float[Tensor, "layer ..."]:
        """All layers in one tensor: a copy, through which gradients flow."""
        return torch.stack(self.layers)

    def of_head(self, layer: int, head: int) -> Tensor:
        """The view that a query head reads or is: with grouped keys and values, several heads have the same (Ainslie et al. 2023).

        Raises ValueError for a weight without heads, IndexError for a head that is not there.
        """
        group = self._group()
        if not 0 <= head < self.n_heads:
            raise IndexError(f"there are query heads 0 to {self.n_heads - 1}, got head {head}")
        return self[layer, head // group]

    def per_head(self) -> Float[Tensor, "layer head ..."]:
        """One entry for each query head, whether heads share it or not: a copy. Raises ValueError for a weight without heads."""
        return self.stack().repeat_interleave(self._group(), dim=1)

    def _group(self) -> int:
        if self.axes[0] not in ("head", "kv_head"):
            raise ValueError(f"{self.name} has no heads, its axes are [layer {' '.join(self.axes)}]")
        return self.n_heads // self.layers[0].shape[0]

    def __repr__(self) -> str:
        return f"{self.name}[layer {' '.join(self.axes)}] of shape {self.shape}"


@dataclass(frozen=True)
class OfLayers:
    """A weight that every layer has: where it is below the block, and how it is seen."""

    owner: str
    module: str
    leaf: str
    axes: tuple[str, ...]
    seen: Callable[[Tensor, int], Tensor]
    """the parameter and the number of heads → the view"""

    @property
    def name(self) -> str:
        """The weight's own: W_Q, and b_Q of its bias."""
        return self.module if self.leaf == "weight" else self.module.replace("W", "b")

    def __get__(self, weights: AttentionWeights | None, owner: type | None = None) -> Any:
        return self if weights is None else self.read(weights.stack, weights.part)

    def read(self, stack: Stack, attention: str) -> LayerWeights:
        """Of the stack as it is now. Raises ValueError that says why there is none."""
        config, part = stack.config, attention if self.owner == "attn" else self.owner
        if self.owner == "mlp" and config.d_mlp == 0:
            raise ValueError(f"there is no {self.name}: the model has no feed-forward network (d_mlp=0)")
        if self.module == "W_gate" and not config.gated:
            raise ValueError(f"there is no {self.name}: the feed-forward network is not gated (gated=False)")
        module = "W_Q" if self.module == "W_K" and config.shared_qk else self.module
        found = [getattr(getattr(getattr(block, part), module), self.leaf) for block in stack.blocks]
        if found[0] is None:
            raise ValueError(f"there is no {self.name}: {self.module} of this {config.family} model has no bias")
        n_heads = config.n_kv_heads if "kv_head" in self.axes else config.n_heads
        return LayerWeights(self.name, self.axes, tuple(self.seen(parameter, n_heads) for parameter in found), config.n_heads)


def _projected(weight: Tensor, n_heads: int) -> Float[Tensor, "head d_model d_head"]:
    by_head = weight if weight.dim() == 3 else weight.unflatten(0, (n_heads, -1))  # views of a fused matrix have their heads
    return by_head.mT


def _by_head(bias: Tensor, n_heads: int) -> Float[Tensor, "head d_head"]:
    return bias if bias.dim() == 2 else bias.unflatten(0, (n_heads, -1))


def _output(weight: Tensor, n_heads: int) -> Float[Tensor, "head d_head d_model"]:
    return weight.T.unflatten(0, (n_heads, -1))


def _transposed(weight: Tensor, n_heads: int) -> Tensor:
    return weight.T


def _itself(bias: Tensor, n_heads: int) -> Tensor:
    return bias


@dataclass(frozen=True)
class AttentionWeights:
    """Matrices and biases of the attention of every layer: q = x W_Q + b_Q, attn.out = Σ_head z W_O + b_O."""

    stack: Stack = field(repr=False)
    part: str = "attn"

    W_Q = OfLayers("attn", "W_Q", "weight", ("head", "d_model", "d_head"), _projected)
    W_K = OfLayers("attn", "W_K", "weight", ("kv_head", "d_model", "d_head"), _projected)
    W_V = OfLayers("attn", "W_V", "weight", ("kv_head", "d_model", "d_head"), _projected)
    W_O = OfLayers("attn", "W_O", "weight", ("head", "d_head", "d_model"), _output)
    b_Q = OfLayers("attn", "W_Q", "bias", ("head", "d_head"), _by_head)
    b_K = OfLayers("attn", "W_K", "bias", ("kv_head", "d_head"), _by_head)
    b_V = OfLayers("attn", "W_V", "bias", ("kv_head", "d_head"), _by_head)
    b_O = OfLayers("attn", "W_O", "bias", ("d_model",), _itself)


@dataclass(frozen=True)
class StackWeights(AttentionWeights):
    """All weights of a stack, as they are stored: factors of the config (`embed_scale`, `logit_scale`) and gains of norms stand apart.

    A vector is a row: pre = x W_in + b_in, logits = x W_U + b_U. Where keys are made by the queries' matrix, W_K is W_Q.
    """

    W_in = OfLayers("mlp", "W_in", "weight", ("d_model", "d_mlp"), _transposed)
    W_gate = OfLayers("mlp", "W_gate", "weight", ("d_model", "d_mlp"), _transposed)
    W_out = OfLayers("mlp", "W_out", "weight", ("d_mlp", "d_model"), _transposed)
    b_in = OfLayers("mlp", "W_in", "bias", ("d_mlp",), _itself)
    b_gate = OfLayers("mlp", "W_gate", "bias", ("d_mlp",), _itself)
    b_out = OfLayers("mlp", "W_out", "bias", ("d_model",), _itself)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """The embedding."""
        return self.stack.embedding.weight

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """The learned positions, from that of the first token on. Raises ValueError where positions are not learned."""
        if self.stack.position_embedding is None:
            raise ValueError(f"there is no W_pos: positions are not learned vectors (positions={self.stack.config.positions!r})")
        return self.stack.position_embedding.weight[self.stack.config.position_offset :]

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding; where it is tied, the embedding's own memory. Raises ValueError without a head."""
        return unembedding(self.stack, "W_U")

    @property
    def b_U(self) -> Float[Tensor, "d_vocab"]:
        """The bias of the logits. Raises ValueError where there is none."""
        return unembedding(self.stack, "b_U")

    @property
    def cross(self) -> AttentionWeights:
        """Those of cross-attention. Raises ValueError for a stack that attends to itself only."""
        if self.stack.blocks[0].cross_attn is None:
            raise ValueError("there is no cross-attention: this stack attends to itself only")
        return AttentionWeights(self.stack, "cross_attn")


def unembedding(model: nn.Module, name: Literal["W_U", "b_U"]) -> Tensor:
    """The matrix or the bias that makes logits. Raises ValueError that says why there is none."""
    if not hasattr(model, "unembed"):
        raise ValueError(f"there is no {name} in one stack of an encoder-decoder: the head belongs to both, model.{name}")
    if model.unembed is None:
        raise ValueError(f"there is no {name}: the model has no head (head='none')")
    head = model.unembed.unembedding
    if name == "b_U" and head.bias is None:
        raise ValueError("there is no b_U: the unembedding has no bias (unembed_bias=False)")
    return head.weight.T if name == "W_U" else head.bias


def forwarded(name: str) -> property:
    """`model.W_Q` for `model.weights.W_Q`."""
    return property(lambda stack: getattr(stack.weights, name), doc=f"`weights.{name}`: a view; ValueError where there is none.")
