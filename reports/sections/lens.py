"""When does the model know the answer? The residual stream after every block, read as if it were the last."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "lens",
    title="Logit lens",
    order=70,
    see="Look for the block from which the answer stays. What early blocks seem to say is mostly a matter of basis: the head was "
    "trained to read the last one.",
)
