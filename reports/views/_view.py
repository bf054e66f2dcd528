"""What is an interactive view? A kind of figure, the name of its script, and a function from the figure to the script's data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reports.figures import Figure


@dataclass(frozen=True, kw_only=True)
class View:
    """One kind of figure that a reader can work with.

    `data(figure)` is made of None, bool, int, finite float, str, list and mapping with text keys: what cannot be seen in a text is made
    visible before (`reports.text`), numbers that are missing are None. It is None where a figure has nothing to work with.
    """

    kind: type[Figure]
    name: str
    data: Callable[[Any], Mapping[str, Any] | None]


@dataclass(frozen=True, kw_only=True)
class Placed:
    """A figure's view on a page: the name of its script, the id of its data, and the data."""

    name: str
    id: str
    json: Markup


def as_json(data: Mapping[str, Any]) -> Markup:
    r"""The data as the inside of a `<script type="application/json">`: ASCII, and no character that HTML could take for its own.

    Raises:
        ValueError: for a number that is not finite.

    >>> print(as_json({"token": "</script>é"}))
    {"token":"\u003c/script\u003e\u00e9"}
    """
    text = json.dumps(data, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
