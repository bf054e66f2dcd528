"""How does a name, a folder, a .gguf file or a hub id become a model?"""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import torch

from model.adapters import Adapter, read_adapter
from model.checkpoint import Model, load_folder
from model.gguf import read_gguf
from model.gguf_cache import read_gguf_cached
from model.source import Source
from model.zoo import zoo

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_SECONDS = 10
HUB_FILES = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)


def load_model(
    source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, adapter: str | Path | None = None
) -> Model:
    """A model with exactly the checkpoint's own logits, in evaluation mode, its parameters not asking for gradients.

    `source` is a name (`smollm2`, `minilm`, …), a folder with config.json and safetensors, a .gguf file, or a hub id
    `owner/name`. Names, folders and files come first; a hub is asked only for what looks like an id, once, for at
    most 10 s. `adapter` is a folder with a LoRA adapter of the peft library, which is merged into the weights; the
    model's source says so. A folder may also hold pytorch_model.bin, if it is a pickle of tensors and nothing else.

    Raises ValueError in one sentence for a source that is none of these, and for a checkpoint that cannot be loaded
    exactly: an unknown family or config key, a missing or superfluous tensor, a damaged file, an adapter that does not fit.

    >>> load_model("smolm2")
    Traceback (most recent call last):
    ...
    ValueError: unknown model 'smolm2': not a name (annalog, chars, g2p, glasslm, induction, lstm, minilm, mlm, planted-induction, smollm2), not a folder, not a .gguf file, and not a hub id of the form owner/name; did you mean smollm2?
    """
    name, path = str(source), Path(source).expanduser()
    lora = None if adapter is None else read_adapter(adapter, device)
    if name in zoo():
        model = _from_zoo(name, device, dtype, lora)
    elif path.is_dir():
        model = load_folder(path, device, dtype, Source(name=name, kind="folder"), lora)
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise ValueError(f"{name} is missing")
        model = _from_gguf(path, device, dtype, Source(name=name, kind="gguf", files=(path,)), lora)
    elif path.is_file():
        raise ValueError(f"{name} is a file, but not a .gguf file; load_model takes a folder with config.json and model.safetensors")
    elif HUB_ID.fullmatch(name):
        model = _from_hub(name, device, dtype, lora)
    else:
        near = difflib.get_close_matches(name, zoo(), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"unknown model {name!r}: not a name ({', '.join(zoo())}), not a folder, not a .gguf file, and not a hub id of the form "
            f"owner/name{hint}"
        )
    return model.requires_grad_(False)


def _from_zoo(name: str, device: str | torch.device, dtype: torch.dtype, adapter: Adapter | None) -> Model:
    entry = zoo()[name]
    path = entry.path()
    if entry.has_weights and path is None:
        raise ValueError(f"the weights of {name} are not installed; get them with: {entry.install}")
    source = None if path is None else Source(name=name, kind="package", files=(path,), package=entry.package or "", licence=entry.licence)
    if adapter is not None:
        if path is None or path.suffix != ".gguf":
            raise ValueError(f"an adapter is merged into a Hugging Face folder or a .gguf file, and {name} is neither")
        return _from_gguf(path, device, dtype, source, adapter)
    model = entry.read(path, device, dtype)
    model.source = source or model.source
    return model


def _from_gguf(path: Path, device: str | torch.device, dtype: torch.dtype, source: Source, adapter: Adapter | None) -> Model:
    if adapter is None:
        model = read_gguf_cached(path, device, dtype)
        model.source = source
    else:
        model = read_gguf(path, device, dtype, adapter)
        model.source = source.then(adapter.step, adapter.files)
    return model


def _from_hub(name: str, device: str | torch.device, dtype: torch.dtype, adapter: Adapter | None) -> Model:
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    tried = f"unknown model {name!r}: not a name, not a folder here, and the hub gave nothing"
    try:
        folder = Path(snapshot_download(name, allow_patterns=list(HUB_FILES), etag_timeout=HUB_SECONDS))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"{tried} ({reason})") from None
    return load_folder(folder, device, dtype, Source(name=name, kind="hub"), adapter)
