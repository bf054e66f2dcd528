"""What were the intermediate values, and the gradients that reached them?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor

from probes.errors import SiteError, UnknownSiteError, did_not_fire
from probes.observable import Observable, canonical, select
from probes.places import Joined, Parts, window_of


class Activations(Mapping[str, Tensor]):
    """Recorded values by site name, read-only; TransformerLens spellings are understood.

    Raises UnknownSiteError for a name that was not recorded.
    """

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> Tensor:
        ours = canonical(name)
        if ours not in self._values:
            raise UnknownSiteError(name, self._values)
        return self._values[ours]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in list(self._values.items())[:3])
        return f"Activations({shapes}{', …' if len(self) > 3 else ''})"


@contextmanager
def record(model: Observable, names: Iterable[str] | str, *, gradients: bool = False) -> Iterator[Activations]:
    """Keep the values of the matching sites during one forward pass, or while one text is generated.

    Of generation they hold all places that were read, the padded prompt and behind it the new tokens but the last, as one
    forward pass over that sequence would show them; with or without a cache, each place as the pass had it that read it first.

    Values are detached copies: none shares memory with another or with the model. With `gradients=True` they stay in
    the graph instead: they are what the model goes on with, so that `torch.autograd.grad` with respect to them works.
    Values are those after all edits, whichever context was entered first.

    Raises UnknownSiteError for a name that matches nothing, SiteError for a second forward pass or text inside the block, for
    generation with several beams, and for a site that did not fire (unless the block itself raises).

    >>> import torch; from model import Transformer, TransformerConfig, generate
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> with record(model, "blocks.*.attn.pattern") as activations:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> activations["blocks.1.attn.hook_pattern"].shape, list(activations)
    (torch.Size([1, 2, 3, 3]), ['blocks.0.attn.pattern', 'blocks.1.attn.pattern'])
    >>> with record(model, "blocks.0.attn.pattern") as activations:
    ...     _ = generate(model, torch.tensor([[1, 2, 3]]), n_new=3)
    >>> activations["blocks.0.attn.pattern"].shape
    torch.Size([1, 2, 5, 5])
    """
    sites = select(model, names)
    kept = {name: Parts(name, site.axes) for name, site in sites.items()}

    def keep(name: str, value: Tensor) -> None:
        kept[name].add(value.detach(), window_of(sites[name]))

    def keep_in_graph(name: str, value: Tensor) -> Tensor:
        if window_of(sites[name]) is not None:
            raise SiteError(f"{name} is recorded with gradients, but generate computes none; record a forward pass over the finished text")
        value = _wanting_gradient(value)
        kept[name].hold(value)
        return value

    with ExitStack() as taps:
        for name, site in sites.items():
            if gradients:
                taps.callback(site.edit(lambda value, name=name: keep_in_graph(name, value)))
            else:
                taps.callback(site.watch(lambda value, name=name: keep(name, value)))
        yield Activations(Joined(kept))
    if missing := [name for name, parts in kept.items() if not parts.parts]:
        raise did_not_fire(missing)


@contextmanager
def record_gradients(model: Observable, names: Iterable[str] | str) -> Iterator[Activations]:
    """Keep the gradients that reach the matching sites when `backward` runs inside the block.

    Gradients add up over several backward passes, as torch's do.

    Raises UnknownSiteError for a name that matches nothing, SiteError where gradients are switched off, and for a site
    that no gradient reached (unless the block itself raises).

    >>> import torch; from model import Transformer, TransformerConfig
    >>> model = Transformer(TransformerConfig(n_layers=2, d_model=8, n_heads=2, d_head=4, d_mlp=16, d_vocab=10, n_ctx=5))
    >>> with record_gradients(model, "blocks.0.attn.z") as gradients:
    ...     model(torch.tensor([[1, 2, 3]]))[0, -1, 4].backward()
    >>> gradients["blocks.0.attn.z"].shape
    torch.Size([1, 3, 2, 4])
    """
    values: dict[str, Tensor] = {}
    sites = select(model, names)

    def keep(name: str, gradient: Tensor) -> None:
        gradient = gradient.detach()
        values[name] = values[name] + gradient if name in values else gradient.clone()

    def listen(name: str, value: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            raise SiteError("record_gradients needs gradients, but they are switched off here (torch.no_grad or inference_mode)")
        value = _wanting_gradient(value)
        value.register_hook(lambda gradient: keep(name, gradient))
        return value

    with ExitStack() as taps:
        for name, site in sites.items():
            taps.callback(site.edit(lambda value, name=name: listen(name, value)))
        yield Activations(values)
    if missing := [name for name in sites if name not in values]:
        raise SiteError(f"no gradient reached {missing[0]}: run backward inside the block, on a number that depends on it")


def _wanting_gradient(value: Tensor) -> Tensor:
    """A copy that the model can go on with and that autograd can differentiate with respect to."""
    value = value.clone()
    return value if value.requires_grad or not torch.is_grad_enabled() else value.requires_grad_(True)
