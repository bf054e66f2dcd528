"""What does length cost, and what does it buy? Time, memory, operations and loss against the length of the text."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "scaling",
    title="Length scaling",
    order=90,
    see="Look for the length at which attention begins to outweigh everything else, and whether more context still lowers the loss. "
    "Times and memory are measurements: they differ from run to run.",
)
