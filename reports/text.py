"""How is foreign text and a number shown to a reader? Nothing invisible stays invisible, and no number says more than it knows."""

from __future__ import annotations

import math
import re
import unicodedata

_KEPT_IN_PROSE = "\n\t\u200c\u200d"
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"})
_TOKEN_SIGNS = {" ": "·", "\n": "⏎", "\t": "⇥"}
_HYPHEN = re.compile(r"(?<![\w.)\]-])-(?=\.?\d)|(?<=\d[eE])-(?=\d)")
_QUOTED = re.compile("(“[^”]*”)")
_ONE = {"heads": "head", "tokens": "token", "prompts": "prompt", "layers": "layer"}
_NO_END = ("e.g.", "i.e.", "vs.", "cf.", "approx.", "al.", "Fig.", "Eq.")


def _escaped(character: str) -> str:
    return f"\\u{{{ord(character):x}}}"


def visible_token(token: str) -> str:
    r"""A token as it is shown: every character leaves a mark, and nothing can reorder its neighbours.

    Spaces become `·`, newlines `⏎`, tabs `⇥`, the empty token `∅`. Controls, zero-width and bidirectional characters,
    other spaces, lone surrogates and unassigned code points become `\u{…}`. A combining mark at the start gets a dotted circle to stand on.

    >>> visible_token(" the"), visible_token("\n"), visible_token("")
    ('·the', '⏎', '∅')
    >>> print(visible_token("a\u202eb\x00\ud800"))
    a\u{202e}b\u{0}\u{d800}
    """
    if token == "":
        return "∅"
    signs = (_TOKEN_SIGNS.get(c) or (_escaped(c) if unicodedata.category(c) in _HIDDEN | {"Zs"} else c) for c in token)
    shown = "".join(signs)
    return "◌" + shown if unicodedata.category(shown[0]).startswith("M") else shown


def visible_text(text: str) -> str:
    r"""Prose as it is shown: spaces, newlines, tabs and joiners stay, everything else that cannot be seen becomes `\u{…}`.

    >>> print(visible_text("two words, \u202ethen\x00 one"))
    two words, \u{202e}then\u{0} one
    """
    return "".join(_escaped(c) if c not in _KEPT_IN_PROSE and unicodedata.category(c) in _HIDDEN else c for c in text)


def visible_label(text: str) -> str:
    """Text on one line, for axes, legends and table heads: as `visible_text`, with `⏎` and `⇥` for newline and tab.

    >>> visible_label("layer 3\\nhead 2")
    'layer 3⏎head 2'
    """
    return visible_text(text).replace("\n", "⏎").replace("\t", "⇥")


def shortened(text: str, limit: int) -> str:
    """The text, or its first `limit` − 1 characters and an ellipsis.

    >>> shortened("representation", 7), shortened("head", 7)
    ('repres…', 'head')
    """
    return text if len(text) <= limit else text[: limit - 1] + "…"


def with_minus(text: str) -> str:
    """Prose with the minus sign that `format_number` writes before a number, U+2212; quotations “…” stay as they are.

    >>> with_minus("-0.5 to 1e-5 (-2), L2-3, 1-2, “-1”")
    '−0.5 to 1e−5 (−2), L2-3, 1-2, “-1”'
    """
    return "".join(part if i % 2 else _HYPHEN.sub("−", part) for i, part in enumerate(_QUOTED.split(text)))


def first_sentence(text: str) -> str:
    """The text up to the end of its first sentence or to a semicolon, which becomes that end; brackets and quotations are whole.

    >>> first_sentence("All is well (0.3; n = 4. By head). The rest follows."), first_sentence("Loss falls by 0.5; attention takes 5%.")
    ('All is well (0.3; n = 4. By head).', 'Loss falls by 0.5.')
    """
    depth, quoted = 0, False
    for i, sign in enumerate(text):
        if sign in "“”":
            quoted = sign == "“"
        elif not quoted and sign in "([{":
            depth += 1
        elif not quoted and sign in ")]}":
            depth = max(0, depth - 1)
        elif not quoted and not depth and _ends(text, i):
            return text[:i].rstrip() + "." if sign == ";" else text[: i + 1]
    return text


def _ends(text: str, i: int) -> bool:
    """Does the sign there end a sentence that another one follows?"""
    rest = text[i + 1 :]
    if text[i] not in ".!?;" or not rest[:1].isspace() or not rest.strip():
        return False
    return text[i] == ";" or not (rest.lstrip()[0].islower() or text[: i + 1].endswith(_NO_END))


def format_number(value: float | int | bool | None) -> str:
    """A number in four significant digits; whole numbers in full, missing ones by their name.

    >>> [format_number(v) for v in (0.12345, 30, 1234567, 3e-7, float("nan"), float("-inf"), -0.0, True, None)]
    ['0.1235', '30', '1,234,567', '3e−7', 'NaN', '−∞', '0', 'yes', 'none']
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return (f"{value:,}" if abs(value) >= 10_000 else str(value)).replace("-", "−")
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    return _four_digits(value).replace("-", "−")


def _four_digits(value: float) -> str:
    mantissa, exponent = f"{value:.3e}".split("e")
    if -4 <= int(exponent) < 6:
        plain = f"{value:,.{max(0, 3 - int(exponent))}f}"
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def with_unit(value: float, unit: str) -> str:
    """A number and its unit; not after NaN, and not the unit "1" (ratios, probabilities).

    >>> with_unit(0.5, "nats"), with_unit(0.5, "1"), with_unit(1, "heads")
    ('0.5 nats', '0.5', '1 head')
    """
    number = format_number(value)
    unit = _ONE.get(unit, unit) if number == "1" else unit
    return number if unit in ("", "1") or number == "NaN" else f"{number} {visible_label(unit)}"
