"""How does a figure become a picture? Each kind has one file in `reports/drawing/`; this is the door to all of them."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING

from reports.figures import KINDS, Figure

if TYPE_CHECKING:
    from reports.drawing.canvas import Picture


def draw(figure: Figure) -> str:
    """The figure as an SVG document: text, no scripts, no references to anywhere, the same bytes for the same figure.

    Its background is transparent and its ink follows a dark reader (`prefers-color-scheme`). Width and height are in CSS pixels.
    Missing values (NaN) are grey and named in the picture; a figure without any value says so.

    Raises:
        TypeError: for a kind of figure that is not in `reports.figures.KINDS`.

    >>> import numpy as np
    >>> from reports.figures import Histogram
    >>> draw(Histogram(name="h", title="t", caption="c", alt="a", counts=np.array([3, 1]), edges=np.array([0.0, 1.0, 2.0]), x_label="x"))[:4]
    '<svg'
    """
    from reports.drawing.outputs import as_svg  # here, for matplotlib takes longer to import than all of the rest

    return as_svg(picture(figure))


def picture(figure: Figure) -> Picture:
    """The figure laid out, not painted yet: `reports.drawing.outputs` makes any form of it.

    Raises:
        TypeError: for a kind of figure that is not in `reports.figures.KINDS`.
    """
    if type(figure) not in KINDS:
        raise TypeError(f"a figure must be one of {', '.join(kind.__name__ for kind in KINDS)}, got {type(figure).__name__}")
    snake_case = re.sub(r"(?<!^)(?=[A-Z])", "_", type(figure).__name__).lower()
    return import_module(f"reports.drawing.{snake_case}").picture(figure)
