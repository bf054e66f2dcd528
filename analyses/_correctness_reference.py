"""What does the checkpoint's own implementation say? The family's class in transformers, where it is installed and can read the same files."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn

from analyses._anatomy import Model, sides
from model.architectures import architectures
from model.folding import STEP as FOLDED

Own = Callable[..., Tensor]
"""(tokens) or (source, target) of one example without padding → logits, or final states without a head"""


def own_implementation(model: Model, largest: int) -> Own | str:
    """The checkpoint's own implementation, read from the same files and in the same number format; or the reason why there is none.

    Norms that were folded change nothing that it could tell. `largest` is the number of parameters above which it is not loaded: it
    needs the memory of the model a second time.
    """
    if reason := _reason(model, largest):
        return reason
    import transformers

    path = model.source.files[0]
    family = architectures()[_family(path, model)]
    name = family.headless_class if sides(model)[-1].config.head == "none" else family.transformers_class
    options = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    try:
        with _quiet():
            read = getattr(transformers, name).from_pretrained(
                str(path.parent), dtype=model.dtype, attn_implementation="eager", local_files_only=True, **options
            )
    except Exception as error:  # whatever another library raises: this gate is then not checked, and says why
        return f"transformers {transformers.__version__} could not read it: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return _asked(read.to(model.device).eval())


def _reason(model: Model, largest: int) -> str:
    """Why there is nothing to compare with; empty where there is."""
    source, size = model.source, sum(parameter.numel() for parameter in model.parameters())
    if source.kind == "initialised":
        return "the model was not loaded from a checkpoint"
    if source.kind == "wrapped":
        return "the object that was wrapped is not kept; compare with its own output"
    if steps := [step for step in source.steps if step != FOLDED]:
        return f"the weights are no longer the checkpoint's: {'; '.join(steps)}"
    if not source.files or _family(source.files[0], model) not in architectures():
        return "the checkpoint has no implementation in transformers"
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed"
    return "" if size <= largest else f"{size / 1e9:.1f} billion parameters would be loaded a second time, allowed are {largest / 1e9:.1f}"


def _family(path: Path, model: Model) -> str:
    """The family that the files name; empty for files that only prosect reads."""
    if path.suffix == ".gguf":
        return sides(model)[-1].config.family
    config = path.parent / "config.json"
    if not config.is_file():
        return ""
    return str(json.loads(config.read_text(encoding="utf-8")).get("model_type", ""))


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice of transformers inside the block."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(level)


def _asked(theirs: nn.Module) -> Own:
    """A function of one example, as ours is called."""
    theirs.config.use_cache = False

    @torch.no_grad()
    def answer(*sequences: Tensor) -> Tensor:
        named = dict(zip(("input_ids", "decoder_input_ids"), sequences, strict=False))
        got = theirs(**named, attention_mask=torch.ones_like(sequences[0]))
        return got.logits if hasattr(got, "logits") else got.last_hidden_state

    return answer
