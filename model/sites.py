"""What can be observed, and along which axes? The glossary of sites, and the identity module that marks one in a network.

Axes, spelled out once:

| axis | counts |
|---|---|
| `batch` | examples |
| `pos` | positions of the (padded) sequence |
| `query`, `key` | positions that attend, positions that are attended to |
| `head` | query heads |
| `kv_head` | key and value heads; query head h reads kv_head h // (n_heads / n_kv_heads) |
| `d_model` `d_head` `d_mlp` `d_vocab` | coordinates |
| `1` | a single number, kept for broadcasting |
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

AXES: dict[str, tuple[str, ...]] = {
    "embed": ("batch", "pos", "d_model"),
    "pos_embed": ("batch", "pos", "d_model"),
    "resid_pre": ("batch", "pos", "d_model"),
    "resid_mid": ("batch", "pos", "d_model"),
    "resid_post": ("batch", "pos", "d_model"),
    "resid_mid_cross": ("batch", "pos", "d_model"),
    "segment_embed": ("batch", "pos", "d_model"),
    "attn_out": ("batch", "pos", "d_model"),
    "cross_attn_out": ("batch", "pos", "d_model"),
    "out": ("batch", "pos", "d_model"),
    "mlp_out": ("batch", "pos", "d_model"),
    "scale": ("batch", "pos", "1"),
    "normalized": ("batch", "pos", "d_model"),
    "q": ("batch", "pos", "head", "d_head"),
    "k": ("batch", "pos", "kv_head", "d_head"),
    "v": ("batch", "pos", "kv_head", "d_head"),
    "rot_q": ("batch", "pos", "head", "d_head"),
    "rot_k": ("batch", "pos", "kv_head", "d_head"),
    "scores": ("batch", "head", "query", "key"),
    "pattern": ("batch", "head", "query", "key"),
    "z": ("batch", "pos", "head", "d_head"),
    "result": ("batch", "pos", "head", "d_model"),
    "pre": ("batch", "pos", "d_mlp"),
    "pre_linear": ("batch", "pos", "d_mlp"),
    "post": ("batch", "pos", "d_mlp"),
    "logits": ("batch", "pos", "d_vocab"),
}
"""The last word of a site's name → its axes; a norm inside attention (QK-norm) has those of what it norms."""

Tap = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True, kw_only=True)
class Window:
    """The part of a longer sequence that a pass computes (generation): the places from `first` on, among `size`.

    `run` is one and the same object for all passes that write one text. There are `n_beams` rows for each example, which
    change places between passes where there are several.
    """

    first: int
    size: int
    run: object
    n_beams: int = 1


def _tapped(site: Site, value: Tensor) -> Tensor:
    for change in tuple(site._edits.values()):
        value = change(value)
    for look in tuple(site._watchers.values()):
        look(value)
    return value


@cache
def _untraced() -> Callable[[Site, Tensor], Tensor]:
    """The same, run between two compiled parts: torch.compile would trace every tap, and compile anew for the next."""
    return torch.compiler.disable(_tapped)


class Site(nn.Module):
    """An identity that gives one intermediate value a name and axes; it costs nothing while nobody looks.

    `edit(f)` replaces the value by f(value), in the order in which edits were added; `watch(f)` shows f the value with
    which the model goes on, after all edits. Both return a function that takes f away again. Torch's own
    `register_forward_hook` works too and comes last. `window` is None while the value holds the whole sequence.

    >>> import torch
    >>> site = Site("pattern")
    >>> site.axes
    ('batch', 'head', 'query', 'key')
    >>> remove = site.edit(lambda pattern: pattern * 2)
    >>> site(torch.ones(1, 1, 1, 1)).item(), site.observed
    (2.0, True)
    >>> remove(); site(torch.ones(1, 1, 1, 1)).item(), site.observed
    (1.0, False)
    """

    _run = staticmethod(_tapped)

    def __init__(self, word: str, axes: tuple[str, ...] | None = None) -> None:
        super().__init__()
        self.axes = axes or AXES[word]
        self.window: Window | None = None
        self._edits: dict[object, Tap] = {}
        self._watchers: dict[object, Tap] = {}

    @property
    def observed(self) -> bool:
        """Does anybody look at this value, or change it? Values that only serve observation are computed only then."""
        return bool(self._edits or self._watchers or self._forward_hooks or self._forward_pre_hooks)

    def edit(self, change: Tap) -> Callable[[], None]:
        """Replace the value by `change(value)` until the returned function is called."""
        return _add(self._edits, change)

    def watch(self, look: Tap) -> Callable[[], None]:
        """Show `look` every value until the returned function is called."""
        return _add(self._watchers, look)

    def __call__(self, value: Tensor) -> Tensor:
        """The value after all edits. While nobody looks, torch's own call, which asks for hooks of every kind, is not made."""
        return super().__call__(value) if self.observed else value

    def forward(self, value: Tensor) -> Tensor:
        return self._run(self, value) if self._edits or self._watchers else value

    def extra_repr(self) -> str:
        return " ".join(self.axes)


@contextmanager
def unobserved(module: nn.Module) -> Iterator[None]:
    """Inside, a part of a model can be computed once more without anybody seeing it, or changing it: its sites are mere identities.

    >>> site = Site("embed"); remove = site.edit(lambda value: value + 1)
    >>> with unobserved(site):
    ...     site(torch.zeros(1, 1, 1)).item()
    0.0
    >>> site(torch.zeros(1, 1, 1)).item()
    1.0
    """
    sites = [part for part in module.modules() if isinstance(part, Site)]
    taps = [(site._edits, site._watchers) for site in sites]
    for site in sites:
        site._edits, site._watchers = {}, {}
    try:
        yield
    finally:
        for site, (edits, watchers) in zip(sites, taps, strict=True):
            site._edits, site._watchers = edits, watchers


def _add(taps: dict[object, Tap], tap: Tap) -> Callable[[], None]:
    if "torch._dynamo" in sys.modules:  # something may be compiled; importing it for that takes seconds
        Site._run = staticmethod(_untraced())
    key = object()
    taps[key] = tap
    return lambda: taps.pop(key, None) and None
