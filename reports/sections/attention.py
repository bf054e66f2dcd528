"""Where does every head look? The patterns themselves, one head or two at a time."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "attention",
    title="Attention explorer",
    order=50,
    see="Each row of a pattern is a token and what it looks at. Attention is not importance: a head may look somewhere and write "
    "nothing that matters; the effects of ablation, under Heads, decide.",
)
