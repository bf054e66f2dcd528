"""Which values drift in a lower precision? Every site of one and the same pass, in the model's own number format and in a shorter one."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from contextlib import ExitStack

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from probes.errors import SiteError
from probes.inputs import Inputs, mask_at
from probes.observable import Observable, find, layer_of, select
from probes.places import place_axis
from probes.record import record


@torch.no_grad()
def precision(
    model: Observable, inputs: Tensor | Inputs, dtype: torch.dtype = torch.bfloat16, *, names: Iterable[str] | str = "*"
) -> pd.DataFrame:
    """How far is every matching site of the model, run in `dtype`, from its value x in the model's own format?

    One row per site, in the order in which they fire: `layer`, `site`, and over all entries at real positions that are not
    masked (−inf) in both:

    * `relative_error`: ‖x̂ − x‖ / ‖x‖ (the normwise relative error, Higham 2002, section 1.2). Rounding alone costs up to 2⁻⁹ of
      every number in bf16, 2⁻¹² in fp16.
    * `local_error`: the same where every block is given the exact residual stream, rounded once: the error that the block
      adds by itself. What stands behind the last block then starts from there; NaN for a model without `resid_pre` sites.
    * `max_error`: the largest |x̂ − x|, in the unit of the site.
    * `nonfinite`: the share of entries that are infinite or NaN in x̂ but not in x.
    * `cosine`: x̂·x / (‖x̂‖ ‖x‖).

    An overflow leaves NaN or infinity in the errors of its site and of those that read it; they are kept. A ratio whose
    denominator is 0 is NaN. Patterns are written out, so that attention is not the fused kernel's.

    The model stays as it is: for the time there is a copy of it in `dtype`, and one value of each site in its own format.

    Raises SiteError for a `dtype` that has no fractions and for a model that is no torch module, UnknownSiteError for a name
    that matches nothing.

    >>> from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> table = precision(model, torch.tensor([[1, 2, 3]]), names="blocks.*.resid_post")
    >>> table["site"].tolist(), bool(table["relative_error"].between(1e-4, 0.02).all())
    (['blocks.0.resid_post', 'blocks.1.resid_post'], True)
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    if not dtype.is_floating_point:
        raise SiteError(f"dtype must be a floating-point format such as torch.bfloat16, got {dtype}")
    chosen = find(names, model.sites())
    entries = [name for name in model.sites() if name.rpartition(".")[2] == "resid_pre"]
    twin = _cast(model, dtype)
    with record(model, [*chosen, *entries]) as exact:
        model(*inputs)
    table = pd.DataFrame.from_dict(_drift(twin, inputs, dtype, exact, chosen, ()), orient="index").rename_axis("site").reset_index()
    local = _drift(twin, inputs, dtype, exact, chosen, entries) if entries else {}
    table.insert(2, "local_error", [local[name]["relative_error"] if local else float("nan") for name in table["site"]])
    table.insert(0, "layer", table["site"].map(layer_of).astype("Int64"))
    return table


def _cast(model: Observable, dtype: torch.dtype) -> Observable:
    """A copy in another format. Parameters are cast, not copied and then cast; shared ones stay shared."""
    module = model if isinstance(model, nn.Module) else getattr(model, "module", None)
    if not isinstance(module, nn.Module):
        kind = type(model).__name__
        raise SiteError(f"precision casts a copy of the model, which must be a torch module or hold one in `module`, got {kind}")
    held: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            value = tensor.detach().to(dtype, copy=True)
            held[id(tensor)] = nn.Parameter(value, requires_grad=False) if isinstance(tensor, nn.Parameter) else value
    return copy.deepcopy(model, held)


def _drift(
    twin: Observable, inputs: Inputs, dtype: torch.dtype, exact: Mapping[str, Tensor], names: Iterable[str], restored: Iterable[str]
) -> dict[str, dict[str, float]]:
    """The errors of each site, as they fire; the exact value takes the place of each restored one."""
    found: dict[str, dict[str, float]] = {}

    def compare(name: str, value: Tensor) -> None:
        found[name] = _errors(*(_real(x, twin.sites()[name].axes, mask_at(name, inputs)) for x in (exact[name], value)))

    with ExitStack() as taps:
        for name, site in select(twin, restored).items() if restored else ():
            taps.callback(site.edit(lambda value, name=name: exact[name].to(value)))
        for name, site in select(twin, names).items():
            taps.callback(site.watch(lambda value, name=name: compare(name, value)))
        twin(*(x.to(dtype) if x is not None and x.is_floating_point() else x for x in inputs))
    return found


def _real(value: Tensor, axes: tuple[str, ...], mask: Tensor | None) -> Float[Tensor, "entries"]:
    """The entries at real positions."""
    axis = place_axis(axes)
    if mask is not None and axis is not None:
        value = value.movedim(axis, 1)[mask]
    return value.double().flatten()


def _errors(x: Float[Tensor, "entries"], low: Float[Tensor, "entries"]) -> dict[str, float]:
    shown = ~(x.isneginf() & low.isneginf())
    x, low = x[shown], low[shown]
    difference, norm = low - x, x.norm()
    return {
        "relative_error": float(difference.norm() / norm),
        "max_error": float(difference.abs().max()) if len(x) else float("nan"),
        "nonfinite": float((x.isfinite() & ~low.isfinite()).double().mean()),
        "cosine": float(low @ x / (low.norm() * norm)),
    }
