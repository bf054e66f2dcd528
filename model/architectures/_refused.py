"""Which checkpoints of a known family are no language models of it? Those with another task's head, and those whose weights are packed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

HEADS = frozenset(
    "classification_head classifier lm_classifier multiple_choice_head pre_classifier qa_outputs score seq_classifier".split()
)
"""What the first word of a head's tensors is, of sequences, tokens, answers and choices."""


def check_head(names: Iterable[str]) -> None:
    """Raise ValueError that names the tensors of a head for another task."""
    if found := sorted(name for name in names if name.partition(".")[0] in HEADS):
        raise ValueError(
            f"the checkpoint has a head for another task ({', '.join(found)}); "
            "prosect loads language-model and masked-language-model heads, and models without a head"
        )


def check_quantised(config: Mapping[str, Any]) -> None:
    """Raise ValueError for weights that are packed in a way that is not undone here."""
    if packed := config.get("quantization_config"):
        method = packed.get("quant_method", "an unknown method") if isinstance(packed, Mapping) else packed
        raise ValueError(
            f"the checkpoint is quantised by {method}, which cannot be undone here; take one in floating point, or a .gguf file"
        )
