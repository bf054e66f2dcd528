"""What does a family have to say? How its config reads, and which of its weights is which of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model.architectures._keys import Keys
from model.architectures._refused import check_head, check_quantised
from model.architectures._weights import Pairs, Weights
from model.config import EncoderDecoderConfig, TransformerConfig

__all__ = ["Architecture", "Config", "Keys", "Pairs", "Weights"]

Config = TransformerConfig | EncoderDecoderConfig


def nothing(name: str) -> bool:
    """No tensor is."""
    return False


def as_it_is(name: str) -> str:
    """Tensors have had one name only."""
    return name


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family of checkpoints.

    `model_type` is Hugging Face's name for it, `transformers_class` and `headless_class` those of its models with and
    without a head. `config` reads its config (taking every key), `weights` yields our parameter name and the foreign
    tensor, or a view of it, in our layout (Linear weights are [out, in]). `unused` tells which leftover tensors hold
    nothing that a forward pass needs, `spelling` turns a tensor's old name into its present one, `transposed` tells which
    matrices are kept as [in, out]. `random_configs` are constructor arguments for small odd-sized models, on which the
    contract tests compare with the family's own implementation.
    """

    model_type: str
    transformers_class: str
    headless_class: str
    config: Callable[[Keys], Config]
    weights: Callable[[Config, Weights], Pairs]
    unused: Callable[[str], bool] = nothing
    spelling: Callable[[str], str] = as_it_is
    transposed: Callable[[str], bool] = nothing
    random_configs: tuple[Mapping[str, Any], ...]

    def read_config(self, foreign: Mapping[str, Any], tensors: Mapping[str, Tensor] | None = None) -> Config:
        """A foreign config as ours, a headless one if its `architectures` say so.

        `tensors` are there for what only they tell: whether the unembedding is a matrix of its own, where the config says
        that it may be. Raises ValueError that names a key which is not understood.
        """
        check_quantised(foreign)
        keys = Keys(foreign, headless_class=self.headless_class, tensors=self._spelled(tensors or {}))
        config = self.config(keys)
        keys.done()
        return config

    def read_weights(self, config: Config, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign tensors by our names. Raises ValueError that names a missing or a superfluous tensor."""
        source = Weights(self._spelled(foreign))
        check_head(foreign)
        ours = dict(self.weights(config, source))
        extra = [name for name in source.left() if not self.unused(name)]
        if extra:
            raise ValueError(f"the checkpoint holds {extra[0]!r}, which a {self.model_type} model of this config has no use for")
        return ours

    def _spelled(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self.spelling(name): tensor for name, tensor in tensors.items()}
