"""Where in the written sequence is a pass? Sites that are observed while text is generated know which places they compute."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from model.checkpoint import Model
from model.sites import Site, Window

OF_SOURCE = re.compile(r"\.cross_attn\.(k|v|ln_k\.\w+)$")
"""Sites of a decoder whose positions are those of an encoder-decoder's source, which every pass reads whole."""


@dataclass(frozen=True, eq=False)
class Windows:
    """The observed sites of a decoder: those that compute the new places of a pass, and those that compute the source's."""

    written: tuple[Site, ...]
    of_source: tuple[Site, ...]
    size: int
    """places of the padded prompt and of all new tokens but the last, which is never read"""
    n_source: int
    n_beams: int
    reads_end: bool
    """does somebody observe what follows the last block? Then it is computed at every place, else at the last alone"""

    @classmethod
    def of(cls, model: Model, size: int, *, n_source: int = 0, n_beams: int = 1) -> Windows:
        """Of the sites that are observed now. The encoder's are not among them: it runs once."""
        sites = {name: site for name, site in model.sites().items() if site.observed and not name.startswith("encoder.")}
        source = tuple(site for name, site in sites.items() if OF_SOURCE.search(name))
        written = tuple(site for name, site in sites.items() if not OF_SOURCE.search(name))
        reads_end = any(model.step_of(name) == model.n_layers for name in sites)
        return cls(written, source, size, n_source, n_beams, reads_end)

    @contextmanager
    def at(self, first: int) -> Iterator[None]:
        """Let the sites know that the places from `first` on are computed."""
        for sites, start, size in ((self.written, first, self.size), (self.of_source, 0, self.n_source)):
            for site in sites:
                site.window = Window(first=start, size=size, run=self, n_beams=self.n_beams)
        try:
            yield
        finally:
            for site in (*self.written, *self.of_source):
                site.window = None
