"""How are weights kept? Reading safetensors of others, writing and reading a folder of our own."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.architectures import architecture_for
from model.config import EncoderDecoderConfig, TransformerConfig
from model.encoder_decoder import EncoderDecoder
from model.projection import HeadProjection
from model.source import Source
from model.tokenizer import Tokenizer, special_ids
from model.transformer import Transformer

NATIVE = "prosect"
"""`model_type` of a folder in our own layout: config.json, model.safetensors, tokenizer.json"""


Model = Transformer | EncoderDecoder
Config = TransformerConfig | EncoderDecoderConfig


def build(config: Config, *, generator: torch.Generator | None = None) -> Model:
    """A freshly initialised model of that config: one stack, or an encoder and a decoder."""
    return (EncoderDecoder if isinstance(config, EncoderDecoderConfig) else Transformer)(config, generator=generator)


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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ValueError that names the file if it is not there or not one."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def safetensors_files(folder: Path) -> tuple[Path, ...]:
    """The weight files of a folder: model.safetensors, or the shards that its index names."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return (single,)
    if index.is_file():
        return tuple(folder / name for name in sorted(set(read_json(index)["weight_map"].values())))
    others = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.pt"))
    found = f", only {others[0]}, which is not loaded because a pickle can run code" if others else ""
    raise ValueError(f"{folder} holds no model.safetensors{found}")


def read_safetensors(files: tuple[Path, ...], device: str | torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """All tensors of the files; floating ones in `dtype`. Raises ValueError that names a file which cannot be read."""
    tensors = {}
    for path in files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():
                    tensor = file.get_tensor(name)
                    tensors[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read as safetensors: {error}") from None
    return tensors


def load_folder(folder: Path, device: str | torch.device, dtype: torch.dtype, source: Source) -> Model:
    """A Hugging Face folder, or one that `save_model` wrote."""
    foreign = read_json(folder / "config.json")
    files = safetensors_files(folder)
    tensors = read_safetensors(files, device, dtype)
    if foreign.get("model_type") == NATIVE:
        config = (EncoderDecoderConfig if "encoder" in foreign["config"] else TransformerConfig).from_dict(foreign["config"])
        weights: Mapping[str, Tensor] = tensors
    else:
        architecture = architecture_for(foreign.get("model_type", "without a model_type"))
        config = architecture.read_config(foreign, tensors)
        weights = architecture.read_weights(config, tensors)
    model = assemble(config, weights)
    model.source = source
    model.tokenizer = load_tokenizer(folder, foreign)
    if isinstance(model, EncoderDecoder) and "target_tokenizer" in foreign:
        model.target_tokenizer = load_tokenizer(folder, foreign["target_tokenizer"], "target_tokenizer.json")
    return model


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
    return Tokenizer(backend, **roles)


def save_model(model: Model, folder: str | Path) -> Path:
    """Write config.json, model.safetensors and tokenizer.json; `load_model(folder)` gives the same logits to the bit.

    Each file is written beside its place and renamed, the config last, so that a folder with a config is whole.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.device("meta"):
        plain = build(model.config)  # in which no matrix is a view of a fused one
    shapes = {name: tensor.shape for name, tensor in (*plain.named_parameters(), *plain.named_buffers())}
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    weights = {name: tensor.detach().reshape(shapes[name]).contiguous() for name, tensor in named.items()}
    values: dict[str, Any] = {"model_type": NATIVE, "config": model.config.to_dict()}
    with renamed_when_whole(folder / "model.safetensors") as path:
        save_file(weights, path)
    if model.tokenizer is not None:
        values |= model.tokenizer.roles()
        with renamed_when_whole(folder / "tokenizer.json") as path:
            model.tokenizer.save(path)
    if (target := getattr(model, "target_tokenizer", None)) is not None:
        values["target_tokenizer"] = target.roles()
        with renamed_when_whole(folder / "target_tokenizer.json") as path:
            target.save(path)
    with renamed_when_whole(folder / "config.json") as path:
        path.write_text(json.dumps(values, indent=1, sort_keys=True), encoding="utf-8")
    return folder


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
