"""Who writes the answer? What each layer adds to the logit of the target, up to the sum."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "contributions",
    title="Residual contributions",
    order=80,
    see="Bars add up to the answer, from the embedding to the last block; the closing bar holds their sum against what the model "
    "says. What is added directly is not all that a layer does: later layers read it too.",
)
