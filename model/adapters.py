"""How does a low-rank adapter become part of the weights? W ← W + scaling · B A for every matrix that it names (Hu et al. 2021)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.architectures import Architecture
from model.files import read_json, read_tensors, weight_files

PREFIX = "base_model.model."
"""what the peft library puts before the names of the model's own modules"""

WITHOUT_EFFECT = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path bias corda_config eva_config exclude_modules fan_in_fan_out inference_mode "
    "init_lora_weights layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout lora_ga_config megatron_core "
    "modules_to_save peft_type peft_version qalora_group_size r rank_pattern revision runtime_config target_modules task_type "
    "use_rslora".split()
)
"""Keys that are read below, that only matter in training, or that repeat what the tensors' names say (target_modules, bias,
modules_to_save, and fan_in_fan_out, which follows from the family). Any other that is switched on is refused."""

FROM_UNCHANGED_WEIGHTS = (True, False, "gaussian", "orthogonal", "eva")
"""`init_lora_weights` that leave the base model as it is; the others subtract the adapter's first value from it."""


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter as the peft library keeps it: factors A [rank, in] and B [out, rank] of some matrices, and tensors that replace
    the model's (biases, `modules_to_save`)."""

    name: str
    files: tuple[Path, ...]
    config: Mapping[str, Any]
    factors: Mapping[str, tuple[Tensor, Tensor]]
    """module → A and B; those of embeddings under the name of the module, too"""
    embeddings: frozenset[str]
    """modules that are embeddings, whose weight is [in, out]"""
    replaced: Mapping[str, Tensor]

    @property
    def step(self) -> str:
        """What merging it does, for the report."""
        settings = f"r={self.config['r']}, lora_alpha={self.config['lora_alpha']}, {len(self.factors)} matrices"
        return f"merged the LoRA adapter {self.name} ({settings})"

    def scaling(self, module: str) -> float:
        """alpha / rank, or alpha / √rank with `use_rslora` (Kalajdzievski 2023), by the patterns of the config.

        Raises ValueError where the factors have another rank than the config says.
        """
        rank = self._of(module, "rank_pattern", "r")
        if (got := self.factors[module][0].shape[0]) != rank:
            raise ValueError(f"the adapter's config gives {module} rank {rank}, its tensors have {got}")
        return self._of(module, "alpha_pattern", "lora_alpha") / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _of(self, module: str, pattern: str, default: str) -> float:
        """The value of the first pattern that the end of a module's name matches."""
        try:
            matching = (value for key, value in (self.config.get(pattern) or {}).items() if re.match(rf"(.*\.)?({key})$", module))
            return next(matching, self.config[default])
        except re.error as error:
            raise ValueError(f"the adapter's {pattern} holds an expression that cannot be read: {error}") from None


def read_adapter(folder: str | Path, device: str | torch.device = "cpu") -> Adapter:
    """The adapter in a folder with adapter_config.json and adapter_model.safetensors.

    Raises ValueError that names what is missing, and any setting under which the merged weights would be others.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"adapter must be a folder with adapter_config.json and adapter_model.safetensors, got {str(folder)!r}")
    path = folder / "adapter_config.json"
    config, files = read_json(path), weight_files(folder, ("adapter_model",))
    _check(config)
    tensors = read_tensors(files, device, torch.float32)
    factors, replaced = _sorted_out(tensors)
    modules = {name.rpartition(".lora_")[0] for name in factors}
    pairs = {module: _pair(factors, module) for module in sorted(modules)}
    embeddings = frozenset(name.rpartition(".lora_")[0] for name in factors if ".lora_embedding_" in name)
    return Adapter(name=folder.name, files=(path, *files), config=config, factors=pairs, embeddings=embeddings, replaced=replaced)


def merge_adapter(tensors: Mapping[str, Tensor], adapter: Adapter, architecture: Architecture) -> dict[str, Tensor]:
    """The tensors of a checkpoint, by its own names, with the adapter merged: new ones where it changes something.

    Sums are taken in fp32 at least. Raises ValueError for a matrix that the checkpoint lacks or that has another shape.
    """
    merged = {architecture.spelling(name): tensor for name, tensor in tensors.items()}
    for name, tensor in adapter.replaced.items():
        spelled = architecture.spelling(name)
        found = _found(merged, spelled)
        merged[found or spelled] = tensor.to(next(iter(merged.values())).dtype)
    for module, (a, b) in adapter.factors.items():
        name = architecture.spelling(f"{module}.weight")
        if (found := _found(merged, name)) is None:
            raise ValueError(f"the adapter {adapter.name} changes {name!r}, which the checkpoint has no tensor for")
        weight = merged[found]
        exact = torch.promote_types(weight.dtype, torch.float32)
        change = adapter.scaling(module) * (b.to(exact) @ a.to(exact))  # out in
        if module in adapter.embeddings or architecture.transposed(found):
            change = change.T
        if change.shape != weight.shape:
            raise ValueError(f"the adapter's change of {found} has shape {tuple(change.shape)}, the weight {tuple(weight.shape)}")
        merged[found] = (weight.to(exact) + change).to(weight.dtype)
    return merged


def _check(config: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting under which the merged weights would be others than those of `merge_adapter`."""
    if config.get("peft_type") != "LORA":
        raise ValueError(f"only LoRA adapters are merged (peft_type='LORA'), got peft_type={config.get('peft_type')!r}")
    if missing := [key for key in ("r", "lora_alpha") if key not in config]:
        raise ValueError(f"adapter_config.json lacks {missing[0]!r}")
    initial = config.get("init_lora_weights", True)
    if initial not in FROM_UNCHANGED_WEIGHTS:
        raise ValueError(
            f"adapter setting init_lora_weights={initial!r} is not supported: it changes the weights that the adapter is added to"
        )
    for key, value in config.items():
        if key not in WITHOUT_EFFECT and value:
            raise ValueError(f"adapter setting {key}={value!r} is not supported; ignoring it could compute something else")


def _sorted_out(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Factors and replacements, by the names that the base model has for them."""
    factors, replaced = {}, {}
    for name, tensor in tensors.items():
        ours = name.removeprefix(PREFIX)
        if ours == name:
            raise ValueError(f"the adapter holds {name!r}, whose name must begin with {PREFIX}")
        if re.search(r"\.lora_([AB]\.weight|embedding_[AB])$", ours):
            factors[ours] = tensor
        elif ".lora_" in ours:
            raise ValueError(f"the adapter holds {name!r}, which is neither A nor B of a matrix")
        elif ".original_module." not in ours:  # which is what a replaced module was before
            replaced[re.sub(r"\.(base_layer|modules_to_save(\.default)?)\.", ".", ours)] = tensor
    return factors, replaced


def _pair(factors: Mapping[str, Tensor], module: str) -> tuple[Tensor, Tensor]:
    for a, b in ((f"{module}.lora_A.weight", f"{module}.lora_B.weight"), (f"{module}.lora_embedding_A", f"{module}.lora_embedding_B")):
        if a in factors and b in factors:
            return factors[a], factors[b]
    raise ValueError(f"the adapter holds only one of the two factors of {module}")


def _found(tensors: Mapping[str, Tensor], name: str) -> str | None:
    """The checkpoint's name of a tensor: it may be saved with a prefix (`transformer.`, `bert.`) that the adapter has not, or without."""
    if name in tensors:
        return name
    near = [other for other in tensors if other.endswith(f".{name}") or name.endswith(f".{other}")]
    return near[0] if len(near) == 1 else None
