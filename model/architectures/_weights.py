"""How are foreign weights used whole? Tensors are taken by name, or as views of a fused one, and what is left over is an error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from model.config import TransformerConfig

Pairs = Iterator[tuple[str, Tensor]]
"""our parameter's name, and the tensor"""


class Weights:
    """Foreign weights that must be used whole."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def take(self, name: str, shape: Sequence[int] | None = None) -> Tensor:
        """The tensor of that name. Raises ValueError if the checkpoint lacks it, or if it must be cut up and has another shape."""
        if name not in self._tensors:
            raise ValueError(f"the checkpoint lacks the tensor {name!r}")
        self._used.add(name)
        tensor = self._tensors[name]
        if shape is not None and tuple(tensor.shape) != tuple(shape):
            raise ValueError(f"{name} must have shape {tuple(shape)} by the config, got {tuple(tensor.shape)}")
        return tensor

    def has(self, name: str) -> bool:
        return name in self._tensors

    def prefix(self, *candidates: str, probe: str) -> str:
        """The first candidate for which `candidate + probe` is there: checkpoints are saved with and without the head."""
        return next((c for c in candidates if c + probe in self._tensors), candidates[0])

    def repeats(self, name: str, of: str) -> None:
        """Use up a second name of a tied tensor. Raises ValueError if it is there and another tensor."""
        if name in self._tensors:
            one, two = self.take(name), self._tensors[of]
            if one is not two and not torch.equal(one, two):
                raise ValueError(f"{name} must equal {of}, to which the config ties it, got another tensor")

    def shared(self, *names: str) -> Tensor:
        """One tensor with several names, of which at least one is there. Raises ValueError if they differ."""
        first = next((name for name in names if name in self._tensors), names[0])
        tensor = self.take(first)
        for name in names:
            self.repeats(name, of=first)
        return tensor

    def left(self) -> list[str]:
        """Names that nobody took."""
        return [name for name in self._tensors if name not in self._used]


def renamed(config: TransformerConfig, foreign: Weights, ours: str, theirs: str, names: Mapping[str, str]) -> Pairs:
    """The parameters of modules that only have another name there: our module → theirs, behind the two prefixes.

    A norm's gain is their `weight`. Whether there is a bias is what the config says.
    """
    for our_name, their_name in names.items():
        our, their = f"{ours}{our_name}", f"{theirs}{their_name}"
        yield f"{our}.{'gain' if _is_norm(our_name) else 'weight'}", foreign.take(f"{their}.weight")
        if has_bias(config, our_name):
            yield f"{our}.bias", foreign.take(f"{their}.bias")


def has_bias(config: TransformerConfig, our_name: str) -> bool:
    """Does a norm or a matrix of a block have a bias?"""
    part = our_name.rpartition(".")[2]
    if _is_norm(our_name):
        return config.norm == "layer" and config.norm_bias and part not in ("ln_q", "ln_k")
    biases = {"W_Q": config.q_bias, "W_K": config.k_bias, "W_V": config.v_bias, "W_O": config.attn_out_bias}
    return biases.get(part, config.mlp_bias if part.startswith("W_") else not part.endswith(("embedding", "table")))


def fused_by_head(config: TransformerConfig, foreign: Weights, ours: str, theirs: str) -> Pairs:
    """Query, key and value matrices of one module that keeps those of each head together: [head·3·d_head, d_model].

    Each part is a view [head d_head d_model] of the fused tensor.
    """
    rows = 3 * config.n_heads * config.d_head
    for kind, shape in (("weight", (rows, config.d_model)), ("bias", (rows,))):
        if kind == "weight" or config.q_bias:
            parts = foreign.take(f"{theirs}.{kind}", shape).unflatten(0, (config.n_heads, 3, config.d_head)).unbind(1)
            for name, part in zip("QKV", parts, strict=True):
                yield f"{ours}W_{name}.{kind}", part


def unembedding(config: TransformerConfig, foreign: Weights, theirs: str, embedding: str) -> Pairs:
    """The unembedding where it is a matrix of its own; where it is tied, a second name of it is used up."""
    if config.head != "none" and not config.tied_embeddings:
        yield "unembed.unembedding.weight", foreign.take(theirs)
    elif config.head != "none":
        foreign.repeats(theirs, of=embedding)


def _is_norm(our_name: str) -> bool:
    return our_name.rpartition(".")[2].startswith("ln")
