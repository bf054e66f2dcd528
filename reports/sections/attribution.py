"""Which tokens of the input carry the answer? Several methods on the same text, and whether they agree."""

from __future__ import annotations

from reports.sections._parts import section_of

SECTION = section_of(
    "attribution",
    title="Attribution",
    order=60,
    see="Red tokens push towards the answer, blue ones away from it. A method is worth what it shares with the exact effect of taking "
    "the token out, and its completeness gap is what it leaves unexplained.",
)
