"""What must a model offer to be watched and changed? Named sites. And how does a name, a glob or an alias find them?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from probes.errors import UnknownSiteError

Tap = Callable[[Tensor], Any]


@runtime_checkable
class SiteLike(Protocol):
    """One observable value. `edit` and `watch` return a function that takes the tap away; watchers see the value after all edits."""

    axes: tuple[str, ...]

    def edit(self, change: Tap) -> Callable[[], None]: ...

    def watch(self, look: Tap) -> Callable[[], None]: ...


@runtime_checkable
class Observable(Protocol):
    """Anything with named sites that turns inputs into logits, Float[batch pos d_vocab]."""

    def sites(self) -> Mapping[str, SiteLike]: ...

    def __call__(self, *inputs: Any) -> Tensor: ...


@runtime_checkable
class Steppable(Observable, Protocol):
    """An observable whose forward pass can be resumed between any two of its `n_layers` blocks.

    `start(*inputs)` gives the state that enters block 0, `step(state, i)` runs block i, `finish(state, positions)`
    gives the logits, at Int[batch read] positions only where given. `state.repeat(n)` is n copies of the batch.
    `step_of(site)` is the step that an edit of a site changes first: −1 for what `start` computes, `n_layers` for `finish`.
    """

    n_layers: int

    def start(self, *inputs: Any) -> Any: ...

    def step(self, state: Any, i: int) -> Any: ...

    def step_of(self, site: str) -> int: ...

    def finish(self, state: Any, positions: Tensor | None = None) -> Tensor: ...


ALIASES = (
    (re.compile(r"(^|\.)hook_attn_scores$"), r"\1scores"),
    (re.compile(r"(^|\.)hook_"), r"\1"),
    (re.compile(r"^(encoder|decoder)\.(\d+|\*)\."), r"\1.blocks.\2."),
    (re.compile(r"^(encoder|decoder)_blocks\."), r"\1.blocks."),
    (re.compile(r"\.self_attn\."), ".attn."),
)
"""The TransformerLens spellings that are understood wherever a name is taken, each with ours."""


def canonical(name: str) -> str:
    """Our spelling of a site's name.

    >>> canonical("blocks.3.attn.hook_attn_scores"), canonical("decoder.1.hook_resid_pre"), canonical("encoder_blocks.0.self_attn.hook_z")
    ('blocks.3.attn.scores', 'decoder.blocks.1.resid_pre', 'encoder.blocks.0.attn.z')
    """
    for pattern, ours in ALIASES:
        name = pattern.sub(ours, name)
    return name


def find(names: Iterable[str] | str, known: Iterable[str]) -> list[str]:
    """The known names that match, each once, in the order in which they are known. Globs match across dots.

    Raises UnknownSiteError for a name or glob that matches nothing.

    >>> find("blocks.*.attn.hook_z", ["embed", "blocks.0.attn.z", "blocks.1.attn.z"])
    ['blocks.0.attn.z', 'blocks.1.attn.z']
    """
    known = list(known)
    patterns = [names] if isinstance(names, str) else list(names)
    if not patterns:
        raise UnknownSiteError("", known)
    chosen: set[str] = set()
    for pattern in patterns:
        ours = canonical(pattern)
        hits = [ours] if ours in known else [name for name in known if fnmatchcase(name, ours)]
        if not hits:
            raise UnknownSiteError(pattern, known)
        chosen.update(hits)
    return [name for name in known if name in chosen]


def select(model: Observable, names: Iterable[str] | str) -> dict[str, SiteLike]:
    """The sites of a model that match, by name. Raises UnknownSiteError as `find` does."""
    sites = model.sites()
    return {name: sites[name] for name in find(names, sites)}


def layer_of(name: str) -> int | None:
    """The number of the block that a site stands in, None outside blocks.

    >>> layer_of("decoder.blocks.3.attn.z"), layer_of("embed")
    (3, None)
    """
    found = re.search(r"(?:^|\.)blocks\.(\d+)\.", name)
    return int(found.group(1)) if found else None
