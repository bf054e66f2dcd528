"""How are activations of a whole corpus kept for later? Shards of tensors in a folder, with an index of tokens beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from probes.errors import SiteError, check_evaluating
from probes.extract_folder import (
    agree_on_parameters,
    digest_of,
    digest_of_weights,
    digest_there,
    is_there,
    name_of,
    place_of,
    read_parameters,
    write,
    write_shard,
)
from probes.inputs import Inputs, sequence_at
from probes.observable import Observable, find
from probes.record import record
from probes.stream import run_to

Pool = Literal["mean", "last", "first"]
FORMAT = 2


@dataclass(frozen=True)
class Extracted:
    """Activations of many tokens: `values` by site, Float[row *axes d], and what each row is.

    Columns of `index`: `shard` and `row` (where it is kept), `example`, `position` (among the real tokens, missing for a mean over
    them), `token`, `text` (missing without a tokenizer), `label` (missing without labels).
    """

    values: Mapping[str, np.ndarray]
    index: pd.DataFrame
    parameters: Mapping[str, Any]
    complete: bool
    """False while batches are missing: run `extract` again and it goes on"""


def extract(
    model: Observable,
    batches: Iterable[Inputs],
    sites: str | Sequence[str],
    folder: str | Path,
    *,
    pool: Pool | None = None,
    labels: Sequence[Any] | None = None,
    progress: bool = True,
) -> Path:
    """Write the values of some sites at every real token into `folder`, a shard per batch, and give the folder.

    With `pool` there is one row per example: the mean over its real tokens, or the last or the first of them. `labels`, one for
    each example of all batches, are kept in the index. A folder of a run that was killed is continued: shards that are whole are
    not made again, damaged ones are, and files are written beside their place and renamed. `load_extracted` reads it.

    Raises ValueError for a folder with other parameters, weights, batches or labels, another number of labels than examples, labels
    that are not of one kind, or no batch; UnknownSiteError and SiteError for sites without a position axis, or of two sequences,
    and for a model in training mode with dropout or batch norm.

    >>> import tempfile; from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = load_extracted(extract(model, [(torch.tensor([[1, 2, 3]]),)], "blocks.1.resid_post", folder, labels=["a"]))
    >>> found.values["blocks.1.resid_post"].shape, found.index["token"].tolist(), found.complete
    ((3, 8), [1, 2, 3], True)
    """
    check_evaluating(model)
    folder, names = Path(folder), _checked_sites(model, sites)
    if pool not in (None, "mean", "last", "first"):
        raise ValueError(f"pool is 'mean', 'last', 'first' or None, got {pool!r}")
    labels = None if labels is None else _checked_labels(labels)
    wanted = {"format": FORMAT, "model": name_of(model), "weights": digest_of_weights(model), "sites": names, "pool": pool, "labelled": labels is not None}
    agree_on_parameters(folder, wanted)
    (folder / "complete.json").unlink(missing_ok=True)
    n_examples, shard = 0, -1
    for shard, batch in enumerate(tqdm(batches, desc="extract", unit="batch", disable=None if progress else True, leave=False)):
        batch = batch if isinstance(batch, tuple) else tuple(batch) if isinstance(batch, list) else (batch,)
        index, rows = _index(model, names, batch, pool, n_examples, labels)
        index.insert(0, "shard", shard)
        if not is_there(folder, shard, index, digest := digest_of(batch)):
            write_shard(folder, shard, _values(model, batch, names, rows, pool), index, digest)
        n_examples += len(batch[0])
    if shard < 0:
        raise ValueError("there must be at least one batch to extract from, got none")
    if labels is not None and len(labels) != n_examples:
        raise ValueError(f"there must be a label for each example, got {len(labels)} for {n_examples} examples")
    if (n_kept := len(list(folder.glob("index-*.parquet")))) > shard + 1:
        raise ValueError(f"{folder} holds {n_kept} shards, but these batches make {shard + 1}; choose another folder")
    write(folder / "complete.json", json.dumps({"shards": shard + 1, "examples": n_examples}).encode())
    return folder


def load_extracted(folder: str | Path, sites: str | Sequence[str] | None = None) -> Extracted:
    """What `extract` wrote: the shards that are whole, one after another; of some sites only, where named.

    Values in formats that numpy does not have (bf16) come as float32. Raises ValueError for a folder that holds none,
    UnknownSiteError for a site that was not kept.
    """
    from safetensors.torch import load_file

    folder = Path(folder)
    indices = sorted(folder.glob("index-*.parquet"))
    if not (folder / "parameters.json").exists() or not indices:
        raise ValueError(f"{folder} holds no activations: extract(model, batches, sites, folder) writes them")
    parameters = read_parameters(folder)
    names = parameters["sites"] if sites is None else find(sites, parameters["sites"])
    numbers = [int(path.stem.rpartition("-")[2]) for path in indices]
    if damaged := [n for n in numbers if digest_there(folder, n) is None]:
        raise ValueError(f"{place_of(folder, damaged[0])} is missing or damaged: run extract again and it is made anew")
    shards = [load_file(place_of(folder, n)) for n in numbers]
    values = {name: np.concatenate([_as_array(shard[name]) for shard in shards]) for name in names}
    index = pd.concat([pd.read_parquet(path) for path in indices], ignore_index=True)
    return Extracted(values, index, parameters, (folder / "complete.json").exists())


def _checked_sites(model: Observable, sites: str | Sequence[str]) -> list[str]:
    known = model.sites()
    names = find(sites, known)
    if wrong := [name for name in names if known[name].axes[:2] != ("batch", "pos")]:
        raise SiteError(f"extract keeps sites with axes batch pos …, but {wrong[0]} has {' '.join(known[wrong[0]].axes)}")
    return names


def _checked_labels(labels: Sequence[Any]) -> list[Any]:
    """In their order, as plain values. Raises ValueError for what a column cannot hold."""
    listed = labels.tolist() if hasattr(labels, "tolist") else list(labels)
    try:
        pa.array(listed)
    except (pa.ArrowException, OverflowError, UnicodeError) as error:
        raise ValueError(f"labels must be of one kind, text, numbers or truth values, that a table can hold: {error}") from None
    return listed


def _index(
    model: Observable, names: Sequence[str], batch: Inputs, pool: Pool | None, first: int, labels: Sequence[Any] | None
) -> tuple[pd.DataFrame, Bool[Tensor, "batch pos"]]:
    """What each row of a batch is, and which tokens make rows."""
    tokens, mask = sequence_at(names[0], batch)
    if other := next((name for name in names if sequence_at(name, batch)[0] is not tokens), None):
        raise SiteError(f"{names[0]} and {other} stand over two sequences; extract them into two folders")
    mask = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
    if not bool(mask.any(1).all()):
        raise ValueError(f"example {first + int((~mask.any(1)).nonzero()[0])} has no real token")
    if labels is not None and first + len(tokens) > len(labels):
        raise ValueError(f"there must be a label for each example, got {len(labels)} for at least {first + len(tokens)} examples")
    rows, place = mask, mask.long().cumsum(1) - 1
    if pool in ("last", "first"):
        rows = mask & (place == (place[:, -1:] if pool == "last" else 0))
    example, at = rows.nonzero(as_tuple=True)
    index = pd.DataFrame({"example": first + example.cpu(), "position": place[example, at].cpu(), "token": tokens[example, at].cpu()})
    index["text"] = _texts(model, names[0], index["token"].tolist())
    if pool == "mean":
        index = index.groupby("example", sort=False, as_index=False).first().assign(position=pd.NA, token=pd.NA, text=None)
    index["label"] = [None if labels is None else labels[i] for i in index["example"]]
    index.insert(0, "row", np.arange(len(index)))
    return index.astype({"position": "Int64", "token": "Int64"}), rows


def _texts(model: Observable, site: str, ids: list[int]) -> list[str | None]:
    tokenizer = getattr(model, "tokenizer", None)
    if not site.startswith("encoder."):
        tokenizer = getattr(model, "target_tokenizer", None) or tokenizer
    return [None] * len(ids) if tokenizer is None else list(tokenizer.to_str_tokens(ids))


def _values(
    model: Observable, batch: Inputs, names: Sequence[str], rows: Bool[Tensor, "batch pos"], pool: Pool | None
) -> dict[str, Float[Tensor, "row *axes d"]]:
    with torch.no_grad(), record(model, names) as activations:
        run_to(model, batch, names)
    if pool != "mean":
        return {name: activations[name][rows.to(activations[name].device)] for name in names}
    return {name: _mean(activations[name], rows) for name in names}


def _mean(value: Float[Tensor, "batch pos *axes d"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch *axes d"]:
    wide = value.to(torch.promote_types(value.dtype, torch.float32))
    real = mask.to(value.device).view(*mask.shape, *[1] * (value.dim() - 2))
    return (wide.where(real, 0.0).sum(1) / real.sum(1)).to(value.dtype)


def _as_array(value: Tensor) -> np.ndarray:
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
