"""Where in the written sequence is a pass? Sites that are observed while text is generated know which places they compute."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from model.checkpoint import Model
from model.sites import Site, Window

OF_SOURCE = re.compile(r"^encoder\.|\.cross_attn\.(k|v|ln_k\.\w+)$")
"""Sites whose positions are those of an encoder-decoder's source, which is read whole."""


@dataclass(frozen=True)
class Windows:
    """The observed sites of a model that compute every place of a pass (`body`), and those that compute only the last (`tail`)."""

    body: tuple[Site, ...]
    tail: tuple[Site, ...]
    size: int
    """places of the padded prompt and of all new tokens but the last, which is never read"""

    @classmethod
    def of(cls, model: Model, size: int) -> Windows:
        """Of the sites that are observed now."""
        sites = {name: site for name, site in model.sites().items() if site.observed and not OF_SOURCE.search(name)}
        tail = {name for name in sites if model.step_of(name) == model.n_layers}
        return cls(tuple(sites[name] for name in sites if name not in tail), tuple(sites[name] for name in tail), size)

    @contextmanager
    def at(self, places: Int[Tensor, "rows pos"], last: Int[Tensor, "rows 1"]) -> Iterator[None]:
        """Let the sites know that these places are computed, and in the end `last` only."""
        for sites, seen in ((self.body, places), (self.tail, last)):
            for site in sites:
                site.window = Window(seen, self.size)
        try:
            yield
        finally:
            for site in (*self.body, *self.tail):
                site.window = None
