"""Where is the slope of a metric taken? At the clean run, at the corrupt run, at both, or along the line between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes.attribution.site_function import logits_read
from probes.edits import Change, Edit
from probes.errors import SiteError
from probes.inputs import Inputs
from probes.intervene import intervene
from probes.metrics import Metric, Readout
from probes.observable import Observable, Steppable
from probes.record import record


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """How an effect is estimated: difference of the values × slope of the metric.

    The slope is that of the `clean` run (Nanda 2023), of the `corrupt` run, the mean of `both`, or the mean over a `path`
    from one to the other, on which all embeddings move together: the integral by Gauss and Legendre with `n_steps` points
    (Hanna et al. 2024, who call it EAP-IG). With `qk_fix` the softmax is computed again for queries and keys, so that only
    what follows the pattern is taken to be linear (Kramár et al. 2024, AtP*).

    Raises ValueError for fewer than one step.

    >>> FirstOrder(gradients="both").points()
    [(0.0, 0.5), (1.0, 0.5)]
    """

    gradients: Literal["clean", "corrupt", "both", "path"] = "clean"
    n_steps: int = 16
    """points of a path"""
    qk_fix: bool = True

    def __post_init__(self) -> None:
        if self.gradients not in ("clean", "corrupt", "both", "path"):
            raise ValueError(f"gradients are taken at clean, corrupt, both or path, got {self.gradients!r}")
        if self.n_steps < 1:
            raise ValueError(f"a path has at least one step, got n_steps={self.n_steps}")

    def points(self) -> list[tuple[float, float]]:
        """Where on the line from clean (0) to corrupt (1) the slope is taken, and with what weight."""
        if self.gradients == "path":
            at, weight = np.polynomial.legendre.leggauss(self.n_steps)
            return list(zip(((at + 1) / 2).tolist(), (weight / 2).tolist(), strict=True))
        return {"clean": [(0.0, 1.0)], "corrupt": [(1.0, 1.0)], "both": [(0.0, 0.5), (1.0, 0.5)]}[self.gradients]

    def __str__(self) -> str:
        where = f"on a path of {self.n_steps} points" if self.gradients == "path" else f"at {self.gradients}"
        return f"first order, gradients {where}" + (", softmax exact for queries and keys" if self.qk_fix else "")


@dataclass(frozen=True, eq=False)
class Linearised:
    """A metric around two runs of a batch: values of some sites in both, and the slope of the metric there."""

    clean: Mapping[str, Tensor]
    corrupt: Mapping[str, Tensor]
    slopes: Mapping[str, Tensor]
    readout: Readout
    metric: Float[Tensor, "batch"]
    """of the clean run"""


def linearise(
    model: Observable, clean: Inputs, corrupt: Inputs, metric: Metric, *, values: Sequence[str], slopes: Sequence[str], rule: FirstOrder
) -> Linearised:
    """Values of some sites in both runs, and the slopes of the metric of each example at some.

    Examples do not see each other, so that one backward pass of the metric's sum gives the slopes of all.

    Raises SiteError for a metric without a gradient, and for a path in a model that has no site `embed`.
    """
    readout, points = metric.on(model, clean), rule.points()
    embeds = [name for name in model.sites() if name.rpartition(".")[2] == "embed"] if rule.gradients == "path" else []
    if rule.gradients == "path" and not embeds:
        raise SiteError("a path moves the site embed, which this model does not have; take gradients at clean, corrupt or both")
    watched = list(dict.fromkeys([*values, *embeds]))
    with torch.no_grad(), record(model, watched) as there:
        model(*corrupt)
    with record(model, watched) as here:
        first, found = _pass(model, clean, slopes, readout, None, metric, backward=points[0][0] == 0)
    total = {name: points[0][1] * gradient for name, gradient in found.items()}
    for at, weight in points[1:] if found else points:
        moved = [Edit(name, _between(here[name], there[name], at)) for name in embeds]
        with ExitStack() as edits:
            if moved:
                edits.enter_context(intervene(model, *moved))
            _, found = _pass(model, corrupt if at == 1 else clean, slopes, readout, first, metric)
        total = {name: weight * found[name] + total.get(name, 0.0) for name in slopes}
    return Linearised(here, there, total, readout, readout.measure(first, first))


def _pass(
    model: Observable,
    inputs: Inputs,
    names: Sequence[str],
    readout: Readout,
    clean: Tensor | None,
    metric: Metric,
    *,
    backward: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is read of the output, and the slopes at the named sites, none without a backward pass."""
    if not backward:
        with torch.no_grad():
            return _read(model, inputs, readout, names), {}
    with torch.enable_grad(), record(model, names, gradients=True) as activations:
        logits = _read(model, inputs, readout, names)
        total = readout.measure(logits, logits.detach() if clean is None else clean).sum()
    if not total.requires_grad:
        raise SiteError(f"{metric.name} has no gradient, so that there is no first-order estimate of it; sweep gives its exact effects")
    points = [activations[name] for name in names]
    found = torch.autograd.grad(total, points, allow_unused=True)
    slopes = [torch.zeros_like(value) if slope is None else slope for value, slope in zip(points, found, strict=True)]
    return logits.detach(), dict(zip(names, slopes, strict=True))


def _read(model: Observable, inputs: Inputs, readout: Readout, names: Sequence[str]) -> Tensor:
    """What is read of the output; all of it is computed where a named site is part of that."""
    if isinstance(model, Steppable) and any(model.step_of(name) == model.n_layers for name in names):
        return readout.of(model(*inputs))
    return logits_read(model, inputs, readout)


def _between(here: Tensor, there: Tensor, at: float) -> Change:
    return lambda value: (1 - at) * here + at * there


def wide(value: Tensor) -> Tensor:
    """The same in the widest numbers of its device."""
    return value.to(torch.float32 if value.device.type == "mps" else torch.float64)
