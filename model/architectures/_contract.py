"""What does a family have to say? How its config reads, and which of its weights is which of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from model.config import TransformerConfig

GENERIC = frozenset(
    "_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation auto_map bos_token_id "
    "chunk_size_feed_forward decoder_start_token_id dtype eos_token_id finetuning_task id2label initializer_range "
    "is_decoder is_encoder_decoder label2id model_type output_attentions output_hidden_states pad_token_id prefix "
    "problem_type return_dict sep_token_id task_specific_params tie_encoder_decoder tokenizer_class torch_dtype "
    "torchscript transformers_version transformers.js_config unsloth_fixed unsloth_version use_cache".split()
)
"""Config keys of every Hugging Face family that do not change what a forward pass computes."""


class Keys:
    """A foreign config that must be understood whole: keys are taken one by one, and what is left over is an error."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.family = config.get("model_type", "?")
        self._left = {key: value for key, value in config.items() if key not in GENERIC}

    def take(self, key: str, default: Any = ...) -> Any:
        """The value of a key. Raises ValueError if it is missing and has no default."""
        if key not in self._left and default is ...:
            raise ValueError(f"config of a {self.family} model lacks {key!r}")
        return self._left.pop(key, default)

    def ignore(self, *keys: str) -> None:
        """Keys that only matter in training, or that repeat another."""
        for key in keys:
            self._left.pop(key, None)

    def expect(self, key: str, *allowed: Any) -> None:
        """A key that may be absent or hold one of these values; anything else would compute something that we do not."""
        value = self._left.pop(key, allowed[0])
        if value not in allowed:
            raise ValueError(f"{self.family} config {key}={value!r} is not supported, only {' or '.join(map(repr, allowed))}")

    def done(self) -> None:
        """Raise ValueError that names a key which nobody took."""
        if self._left:
            key, value = next(iter(self._left.items()))
            raise ValueError(f"{self.family} config key {key!r} (value {value!r}) is not understood; ignoring it could compute something else")


class Weights:
    """Foreign weights that must be used whole: tensors are taken by name, and what is left over is an error."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self._used: set[str] = set()

    def take(self, name: str) -> Tensor:
        """The tensor of that name. Raises ValueError if the checkpoint lacks it."""
        if name not in self._tensors:
            raise ValueError(f"the checkpoint lacks the tensor {name!r}")
        self._used.add(name)
        return self._tensors[name]

    def has(self, name: str) -> bool:
        return name in self._tensors

    def prefix(self, *candidates: str, probe: str) -> str:
        """The first candidate for which `candidate + probe` is there: checkpoints are saved with and without the head."""
        return next((c for c in candidates if c + probe in self._tensors), candidates[0])

    def left(self) -> list[str]:
        """Names that nobody took."""
        return [name for name in self._tensors if name not in self._used]


Pairs = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One family of checkpoints.

    `model_type` is Hugging Face's name for it, `config` reads its config (taking every key), `weights` yields our
    parameter name and the foreign tensor, or a view of it, in our layout (Linear weights are [out, in]).
    `unused` tells which leftover tensors hold nothing that a forward pass needs. `random_config` gives constructor
    arguments for small odd-sized models, on which the contract tests compare with the family's own implementation.
    """

    model_type: str
    transformers_class: str
    config: Callable[[Keys], TransformerConfig]
    weights: Callable[[TransformerConfig, Weights], Pairs]
    unused: Callable[[str], bool]
    random_configs: tuple[Mapping[str, Any], ...]

    def read_config(self, foreign: Mapping[str, Any]) -> TransformerConfig:
        """A foreign config as ours. Raises ValueError that names a key which is not understood."""
        keys = Keys(foreign)
        config = self.config(keys)
        keys.done()
        return config

    def read_weights(self, config: TransformerConfig, foreign: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Foreign tensors by our names. Raises ValueError that names a missing or a superfluous tensor."""
        source = Weights(foreign)
        ours = dict(self.weights(config, source))
        extra = [name for name in source.left() if not self.unused(name)]
        if extra:
            raise ValueError(f"the checkpoint holds {extra[0]!r}, which a {self.model_type} model of this config has no use for")
        return ours


