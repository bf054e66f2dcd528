"""How is a foreign config read whole? Keys are taken one by one, and what is left over is an error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from model.choices import Activation, Head

GENERIC = frozenset(
    "_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path architectures attn_implementation auto_map bos_token_id "
    "chunk_size_feed_forward decoder_start_token_id dtype eos_token_id finetuning_task gradient_checkpointing id2label initializer_range "
    "is_decoder is_encoder_decoder label2id model_type output_attentions output_hidden_states pad_token_id prefix "
    "problem_type return_dict sep_token_id task_specific_params tie_encoder_decoder tokenizer_class torch_dtype "
    "torchscript transformers_version transformers.js_config unk_token_id unsloth_fixed unsloth_version use_cache".split()
)
"""Config keys of every Hugging Face family that do not change what a forward pass computes."""

GENERATION = frozenset(
    "bad_words_ids do_sample early_stopping forced_bos_token_id forced_eos_token_id force_bos_token_to_be_generated length_penalty "
    "max_length min_length no_repeat_ngram_size num_beams num_return_sequences repetition_penalty temperature top_k top_p".split()
)
"""Keys that only say how text is generated."""

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh", "quick_gelu": "gelu_quick",
    "relu": "relu", "silu": "silu", "swish": "silu", "tanh": "tanh",
}
"""Hugging Face's names of activations, and ours."""


class Keys:
    """A foreign config that must be understood whole."""

    def __init__(self, config: Mapping[str, Any], *, headless_class: str = "", tensors: Mapping[str, Tensor] | None = None) -> None:
        self.family = config.get("model_type", "?")
        self._all = config
        self._left = {key: value for key, value in config.items() if key not in GENERIC | GENERATION}
        self._headless = (config.get("architectures") or [""])[0] == headless_class
        self._tensors = tensors or {}

    def take(self, key: str, default: Any = ...) -> Any:
        """The value of a key. Raises ValueError if it is missing and has no default."""
        if key not in self._left and default is ...:
            raise ValueError(f"config of a {self.family} model lacks {key!r}")
        return self._left.pop(key, default)

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of a key, which stays to be taken; those that are generic can only be looked at."""
        return self._left.get(key, self._all.get(key, default) if key in GENERIC else default)

    def ignore(self, *keys: str) -> None:
        """Keys that only matter in training, or that repeat another."""
        for key in keys:
            self._left.pop(key, None)

    def expect(self, key: str, *allowed: Any) -> None:
        """A key that may be absent or hold one of these values; anything else would compute something that we do not."""
        value = self._all.get(key, allowed[0])
        self._left.pop(key, None)
        if value not in allowed:
            raise ValueError(f"{self.family} config {key}={value!r} is not supported, only {' or '.join(map(repr, allowed))}")

    def activation(self, key: str, default: Any = ...) -> Activation:
        """The activation that a key names. Raises ValueError for one that is not known."""
        name = self.take(key, default)
        if name not in ACTIVATIONS:
            raise ValueError(f"{self.family} config {key}={name!r} is not supported, only {', '.join(ACTIVATIONS)}")
        return ACTIVATIONS[name]

    def split(self, d_model: int, n_heads: int) -> int:
        """The width of a head where the heads share d_model evenly. Raises ValueError if they cannot."""
        if d_model % n_heads:
            raise ValueError(f"{self.family} splits the width evenly among the heads, got a width of {d_model} and {n_heads} heads")
        return d_model // n_heads

    def head(self, kind: Head) -> Head:
        """That head, or none for a checkpoint of the headless class."""
        return "none" if self._headless else kind

    def holds_apart(self, name: str, other: str) -> bool:
        """Does the checkpoint hold `name` as a tensor of its own, not as a second name of `other`?"""
        if name not in self._tensors or other not in self._tensors:
            return name in self._tensors
        one, two = self._tensors[name], self._tensors[other]
        return one is not two and not (one.shape == two.shape and bool((one == two).all()))

    def holds(self, name: str) -> bool:
        """Does the checkpoint hold a tensor of that name?"""
        return name in self._tensors

    def done(self) -> None:
        """Raise ValueError that names a key which nobody took."""
        if self._left:
            key, value = next(iter(self._left.items()))
            raise ValueError(
                f"{self.family} config key {key!r} (value {value!r}) is not understood; ignoring it could compute something else"
            )
