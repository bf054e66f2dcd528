"""How does a name, a folder, a .gguf file or a hub id become a model?"""

from __future__ import annotations

import dataclasses
import difflib
import re
from pathlib import Path

import torch

from model.checkpoint import Model, load_folder
from model.gguf_cache import read_gguf_cached
from model.source import Source
from model.zoo import zoo

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_SECONDS = 10
HUB_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer.json", "tokenizer_config.json")


def load_model(source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """A model with exactly the checkpoint's own logits, in evaluation mode, its parameters not asking for gradients.

    `source` is a name (`smollm2`, `minilm`, …), a folder with config.json and safetensors, a .gguf file, or a hub id
    `owner/name`. Names, folders and files come first; a hub is asked only for what looks like an id, once, for at
    most 10 s.

    Raises ValueError in one sentence for a source that is none of these, and for a checkpoint that cannot be loaded
    exactly: an unknown family or config key, a missing or superfluous tensor, a damaged file.

    >>> load_model("smolm2")
    Traceback (most recent call last):
    ...
    ValueError: unknown model 'smolm2': not a name (annalog, glasslm, minilm, planted-induction, smollm2), not a folder, not a .gguf file, and not a hub id of the form owner/name; did you mean smollm2?
    """
    name = str(source)
    path = Path(source).expanduser()
    if name in zoo():
        model = _from_zoo(name, device, dtype)
    elif path.is_dir():
        model = load_folder(path, device, dtype, Source(name=name, kind="folder"))
        model.source = Source(name=name, kind="folder", files=tuple(sorted(path.glob("*.safetensors"))))
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        model = read_gguf_cached(path, device, dtype)
        model.source = Source(name=name, kind="gguf", files=(path,))
    elif path.is_file():
        raise ValueError(f"{name} is a file, but not a .gguf file; load_model takes a folder with config.json and model.safetensors")
    elif HUB_ID.fullmatch(name):
        model = _from_hub(name, device, dtype)
    else:
        near = difflib.get_close_matches(name, zoo(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"unknown model {name!r}: not a name ({', '.join(zoo())}), not a folder, not a .gguf file, and not a hub id of the form "
            f"owner/name{hint}"
        )
    return model.requires_grad_(False)


def _from_zoo(name: str, device: str | torch.device, dtype: torch.dtype) -> Model:
    entry = zoo()[name]
    path = entry.path()
    if entry.package is None:
        return entry.read(None, device, dtype)
    if path is None:
        raise ValueError(f"the weights of {name} are not installed; get them with: {entry.install}")
    model = entry.read(path, device, dtype)
    model.source = Source(name=name, kind="package", files=(path,), package=entry.package, licence=entry.licence)
    return model


def _from_hub(name: str, device: str | torch.device, dtype: torch.dtype) -> Model:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    tried = f"unknown model {name!r}: not a name, not a folder here, and the hub gave nothing"
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES), etag_timeout=HUB_SECONDS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{tried} ({reason})") from None
    model = load_folder(folder, device, dtype, Source(name=name, kind="hub"))
    model.source = dataclasses.replace(model.source, files=tuple(sorted(folder.glob("*.safetensors"))))
    return model
