"""How does a model that is already in memory become observable? Its parameters are shared, the given object is left as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from model.architectures import architecture_for
from model.bridge import Bridged, is_bridge, wrap_bridge
from model.checkpoint import Model, assemble
from model.source import Source
from model.tokenizer import Tokenizer, default_template, special_ids


def wrap(hugging_face_model: nn.Module, *, tokenizer: Any = None) -> Model | Bridged:
    """Our model around the parameters of a Hugging Face model: a decoder, an encoder, or both, with its head or without.

    No weight is copied: a change of a parameter in one is seen by the other. The given object keeps its modules, its
    state dict and whether its parameters want gradients. `tokenizer` may be a Hugging Face fast tokenizer, one of the
    `tokenizers` library, or ours.

    A `TransformerBridge` of TransformerLens is not rebuilt: it runs itself, and its hooks get our names. Each is checked; a
    warning names those that are left out.

    A model without a head gives its final states. Raises ValueError for an object without a Hugging Face config, a family
    that is not known, and a head that is not known: its tensors would have no use.
    """
    if is_bridge(hugging_face_model):
        foreign, own = hugging_face_model.original_model.config, hugging_face_model.tokenizer
        given = own if tokenizer is None and hasattr(own, "backend_tokenizer") else tokenizer
        return wrap_bridge(hugging_face_model, as_tokenizer(given, foreign.to_dict()))
    foreign = getattr(hugging_face_model, "config", None)
    if not isinstance(hugging_face_model, nn.Module) or not hasattr(foreign, "to_dict"):
        raise ValueError(
            f"wrap takes a Hugging Face model, got {type(hugging_face_model).__name__}; for any other torch module use probes.observe"
        )
    architecture = architecture_for(foreign.model_type)
    tensors = hugging_face_model.state_dict(keep_vars=True)
    config = architecture.read_config({**foreign.to_dict(), "architectures": [type(hugging_face_model).__name__]}, tensors)
    model = assemble(config, architecture.read_weights(config, tensors))
    model.source = Source(name=foreign._name_or_path or architecture.model_type, kind="wrapped")
    defaults = getattr(getattr(hugging_face_model, "generation_config", None), "decoder_start_token_id", None)
    model.tokenizer = as_tokenizer(tokenizer, {"decoder_start_token_id": defaults} | foreign.to_dict())
    return model


def as_tokenizer(tokenizer: Any, config: dict) -> Tokenizer | None:
    """Our tokenizer around another library's. Raises ValueError for one that cannot be used."""
    start = config.get("decoder_start_token_id")
    if isinstance(tokenizer, Tokenizer) and start is not None and tokenizer.decoder_start_id is None:
        return replace(tokenizer, decoder_start_id=start)
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "encode_batch"):
        raise ValueError(f"tokenizer must be a fast tokenizer, got {type(tokenizer).__name__}")
    roles = {f"{role}_id": getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    roles = roles | {"decoder_start_id": start} if any(value is not None for value in roles.values()) else special_ids(backend, config)
    template = default_template(getattr(tokenizer, "chat_template", None))
    return Tokenizer(type(backend).from_str(backend.to_str()), **roles, chat_template=template)
