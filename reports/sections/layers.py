"""What happens from layer to layer? The residual stream, what is written to it, and how sharp attention is, on one axis."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "layers",
    title="Layer overview",
    order=30,
    see="One axis for all: the blocks, from the first to the last. A kink at one block in several pictures is where to look next. "
    "Where a line with the sink and one without it part, the sink makes the statistic.",
)
