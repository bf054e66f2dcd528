"""How is a metric seen as a function of one intermediate value? The value is put in place of what the model computed.

Captum's plain classes take any callable of a tensor; with this one they work at every site. Its Layer* and Neuron* classes
are not used: they give wrong numbers without a warning where a layer is shared (captum #904, #466).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.edits import Edit
from probes.errors import SiteError
from probes.inputs import mask_at
from probes.intervene import intervene
from probes.metrics import Metric, Readout
from probes.observable import Observable, Steppable, find
from probes.record import record


@dataclass(frozen=True, eq=False)
class SiteFunction:
    """f(values): the metric of every example, had the site had these values.

    `value` is what the site has in the unedited run. A call takes the values of `examples` (None: all of the batch, in order; one may come
    more than once), or several such stacks one after another, as captum gives them, and returns one number for each.
    """

    model: Observable
    inputs: tuple[Tensor, ...]
    site: str
    value: Float[Tensor, "batch pos ..."]
    clean: Float[Tensor, "batch read answers"]
    readout: Readout

    def __call__(self, values: Tensor, examples: Sequence[int] | None = None) -> Float[Tensor, "rows"]:
        chosen = (
            torch.arange(len(self.value), device=self.value.device)
            if examples is None
            else torch.as_tensor(examples, device=self.value.device)
        )
        if not len(chosen) or len(values) % len(chosen) or values.shape[1:] != self.value.shape[1:]:
            raise SiteError(
                f"values of {self.site} must be stacks of {len(chosen)} examples of shape {tuple(self.value.shape[1:])}, got {tuple(values.shape)}"
            )
        copies = len(values) // len(chosen)
        inputs = tuple(x if x is None else x[chosen].repeat(copies, *[1] * (x.dim() - 1)) for x in self.inputs)
        with intervene(self.model, Edit(self.site, lambda value: values)):
            logits = logits_read(self.model, inputs, self.readout.rows(chosen).repeat(copies))
        return torch.cat([self._measure(part, chosen) for part in logits.split(len(chosen))])

    def _measure(self, logits: Tensor, chosen: Int[Tensor, "rows"]) -> Tensor:
        """The metric of some examples: the readout knows the whole batch, so they are put in their places in it, each example once at a time."""
        earlier = (chosen[:, None] == chosen).tril(-1).sum(1)  # how often the example of this row came before
        measured = []
        for turn in range(int(earlier.max()) + 1):
            rows = (earlier == turn).nonzero()[:, 0]
            batch = self.clean.index_copy(0, chosen[rows], logits[rows].to(self.clean))
            measured.append(self.readout.measure(batch, self.clean)[chosen[rows]])
        order = torch.cat([(earlier == turn).nonzero()[:, 0] for turn in range(len(measured))]).argsort()
        return torch.cat(measured)[order]


def site_function(model: Observable, inputs: tuple[Tensor, ...], metric: Metric, site: str = "embed") -> SiteFunction:
    """The metric as a function of the value of one site, with the unedited run at hand.

    Raises SiteError for a name that is not one site.

    >>> from model import Transformer, TransformerConfig; from probes import logit_difference
    >>> model = Transformer(TransformerConfig(n_layers=1, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> f = site_function(model, (torch.tensor([[1, 2, 3], [4, 5, 6]]),), logit_difference(7, 8))
    >>> f(f.value).shape, f(torch.cat([f.value[1:]] * 3), [1]).shape
    (torch.Size([2]), torch.Size([3]))
    """
    names = find(site, model.sites())
    if len(names) != 1:
        raise SiteError(f"attribution is to one site, {site!r} matches {len(names)}: {', '.join(names[:3])}, …")
    readout = metric.on(model, inputs)
    with torch.no_grad(), record(model, names) as activations:
        clean = logits_read(model, inputs, readout)
    return SiteFunction(model, inputs, names[0], activations[names[0]], clean, readout)


def logits_read(model: Observable, inputs: tuple[Tensor, ...], readout: Readout) -> Tensor:
    """The logits that are read, and where the model can do so, no others."""
    if not isinstance(model, Steppable):
        return readout.of(model(*inputs))
    state = model.start(*inputs)
    for i in range(model.n_layers):
        state = model.step(state, i)
    return readout.finish(model, state)


def real_tokens_only(attribution: Float[Tensor, "batch pos"], function: SiteFunction) -> Float[Tensor, "batch pos"]:
    """The same with exactly 0 at padding, whose value nothing reads."""
    mask = mask_at(function.site, function.inputs)
    return attribution if mask is None else torch.where(mask, attribution, 0.0)
