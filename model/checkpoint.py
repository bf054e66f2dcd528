"""How are weights kept? Reading a folder of others, writing and reading one of our own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from model.adapters import Adapter, merge_adapter
from model.architectures import Architecture, architecture_for
from model.config import EncoderDecoderConfig, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.files import read_json, read_tensors, weight_files
from model.lstm import LSTMConfig, LSTMLanguageModel
from model.projection import HeadProjection
from model.source import Source
from model.tokenizer import Tokenizer, default_template, special_ids
from model.transformer import Transformer

NATIVE = "prosect"
"""`model_type` of a folder in our own layout: config.json, model.safetensors, tokenizer.json"""


Model = Transformer | EncoderDecoder | LSTMLanguageModel
Config = TransformerConfig | EncoderDecoderConfig | LSTMConfig


def build(config: Config, *, generator: torch.Generator | None = None) -> Model:
    """A freshly initialised model of that config: one stack, an encoder and a decoder, or a recurrent one."""
    kinds = {TransformerConfig: Transformer, EncoderDecoderConfig: EncoderDecoder, LSTMConfig: LSTMLanguageModel}
    return kinds[type(config)](config, generator=generator)


def assemble(config: Config, weights: Mapping[str, Tensor]) -> Model:
    """A model around existing tensors: none is copied, a Parameter stays the same object.

    Raises ValueError that names a tensor which is missing, not known, or of another shape.
    """
    with torch.device("meta"):
        model = build(config)
    names: dict[int, list[str]] = {}  # a tied parameter has several
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    expected = dict(model.named_parameters()) | dict(model.named_buffers())
    if missing := sorted(set(expected) - set(weights)):
        raise ValueError(f"the weights lack {missing[0]!r}")
    if unknown := sorted(set(weights) - set(expected)):
        raise ValueError(f"the weights hold {unknown[0]!r}, which a model of this config has no use for")
    for name, tensor in weights.items():
        owner, _, leaf = name.rpartition(".")
        if tensor.shape != expected[name].shape and not _per_head(model.get_submodule(owner), leaf, tensor):
            raise ValueError(f"{name} must have shape {tuple(expected[name].shape)} by the config, got {tuple(tensor.shape)}")
        value = as_parameter(tensor) if isinstance(expected[name], nn.Parameter) else tensor
        for same in names.get(id(expected[name]), [name]):
            owner, _, leaf = same.rpartition(".")
            setattr(model.get_submodule(owner), leaf, value)
    return model.eval()


def _per_head(owner: nn.Module, leaf: str, tensor: Tensor) -> bool:
    """Is this a view of a fused matrix, head by head?"""
    return isinstance(owner, HeadProjection) and owner.fits(leaf, tensor.shape)


def as_parameter(tensor: Tensor) -> nn.Parameter:
    """The tensor itself if it is a parameter, else a parameter that shares its memory and whether it wants gradients."""
    if isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)


def load_folder(folder: Path, device: str | torch.device, dtype: torch.dtype, source: Source, adapter: Adapter | None = None) -> Model:
    """A Hugging Face folder, with an adapter merged where one is given, or a folder that `save_model` wrote."""
    foreign = read_json(folder / "config.json")
    read = _read_native if foreign.get("model_type") == NATIVE else partial(_read_foreign, architecture=_architecture(foreign))
    files = weight_files(folder)
    model = read(foreign, read_tensors(files, device, dtype), adapter=adapter)
    model.source = replace(source, files=source.files or files, steps=model.source.steps)
    if adapter is not None:
        model.source = model.source.then(adapter.step, adapter.files)
    model.tokenizer = load_tokenizer(folder, foreign)
    if isinstance(model, EncoderDecoder) and "target_tokenizer" in foreign:
        model.target_tokenizer = load_tokenizer(folder, foreign["target_tokenizer"], "target_tokenizer.json")
    return model


def _read_native(foreign: Mapping[str, Any], tensors: dict[str, Tensor], *, adapter: Adapter | None) -> Model:
    if adapter is not None:
        raise ValueError(f"the adapter {adapter.name} fits a Hugging Face checkpoint, and this is one that save_model wrote")
    fields = foreign["config"]  # which kind of config it is shows in them
    kind = EncoderDecoderConfig if "encoder" in fields else TransformerConfig if "n_heads" in fields else LSTMConfig
    model = assemble(kind.from_dict(fields), tensors)
    model.source = replace(model.source, steps=tuple(foreign.get("steps", ())))
    return model


def _read_foreign(foreign: Mapping[str, Any], tensors: dict[str, Tensor], *, architecture: Architecture, adapter: Adapter | None) -> Model:
    if adapter is not None:
        tensors = merge_adapter(tensors, adapter, architecture)
    config = architecture.read_config(foreign, tensors)
    return assemble(config, architecture.read_weights(config, tensors))


def _architecture(foreign: Mapping[str, Any]) -> Architecture:
    """The family that a config names; code that comes with a checkpoint is never run."""
    if "model_type" not in foreign:
        raise ValueError("config.json lacks 'model_type', the name of the model's family")
    try:
        return architecture_for(str(foreign["model_type"]))
    except ValueError as error:
        own = "; the code that comes with the checkpoint (auto_map) is never run" if foreign.get("auto_map") else ""
        raise ValueError(f"{error}{own}") from None


def load_tokenizer(folder: Path, config: Mapping[str, Any], name: str = "tokenizer.json") -> Tokenizer | None:
    """The tokenizer of a folder, None if it has none. Roles that neither config.json nor tokenizer_config.json tells are those of
    generation_config.json.
    """
    path = folder / name
    if not path.is_file():
        return None
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise ValueError(f"{path} cannot be read as a tokenizer: {error}") from None
    defaults = folder / "generation_config.json"
    roles = special_ids(backend, read_json(defaults)) if defaults.is_file() else {}
    roles |= special_ids(backend, dict(config))
    settings = folder / "tokenizer_config.json"
    if settings.is_file():
        roles |= special_ids(backend, read_json(settings))
    return Tokenizer(backend, **roles, chat_template=_chat_template(folder) if name == "tokenizer.json" else None)


def _chat_template(folder: Path) -> str | None:
    """chat_template.jinja, else what tokenizer_config.json has: one template, or several with names, of which `default` is taken."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    return default_template(read_json(settings).get("chat_template")) if settings.is_file() else None


def shapes(config: Config) -> dict[str, torch.Size]:
    """Every parameter and buffer of a model of that config, in which no matrix is a view of a fused one: name → shape."""
    with torch.device("meta"):
        plain = build(config)
    return {name: tensor.shape for name, tensor in (*plain.named_parameters(), *plain.named_buffers())}


def plain_weights(model: Model) -> dict[str, Tensor]:
    """The tensors of a model in the shapes of its config, views where they can be: name → tensor."""
    named, shape = {**dict(model.named_parameters()), **dict(model.named_buffers())}, shapes(model.config)
    return {name: tensor.detach().reshape(shape[name]) for name, tensor in named.items()}


def save_model(model: Model, folder: str | Path) -> Path:
    """Write config.json, model.safetensors, tokenizer.json and its chat template; `load_model(folder)` gives the same logits to the bit.

    Each file is written beside its place and renamed, the config last, so that a folder with a config is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {"model_type": NATIVE, "config": model.config.to_dict(), "steps": list(model.source.steps)}
    with renamed_when_whole(folder / "model.safetensors") as path:
        save_file({name: tensor.contiguous() for name, tensor in plain_weights(model).items()}, path)
    if model.tokenizer is not None:
        values |= model.tokenizer.roles()
        _write(folder / "tokenizer.json", model.tokenizer.backend.to_str())
        if model.tokenizer.chat_template is not None:
            _write(folder / "chat_template.jinja", model.tokenizer.chat_template)
    if (target := getattr(model, "target_tokenizer", None)) is not None:
        values["target_tokenizer"] = target.roles()
        _write(folder / "target_tokenizer.json", target.backend.to_str())
    _write(folder / "config.json", json.dumps(values, indent=1, sort_keys=True))
    return folder


def _write(target: Path, text: str) -> None:
    with renamed_when_whole(target) as path:
        path.write_text(text, encoding="utf-8")


@contextmanager
def renamed_when_whole(target: Path) -> Iterator[Path]:
    """A temporary path beside `target` that takes its place if the block ends well, and is gone if it does not."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    path = Path(name)
    try:
        yield path
        path.chmod(0o644)
        path.replace(target)
    finally:
        path.unlink(missing_ok=True)
