"""How few bytes does a picture take? The same drawing without the groups, names, digits and repeated styles that nobody sees.

Matplotlib writes for people who edit the file: an indented group with a name around every stroke, six decimals, every style in full.
A page with forty pictures is three times smaller without them. Nothing that is drawn moves by more than a twentieth of a CSS pixel.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from markupsafe import Markup

_TAG = re.compile(r"(<[^>]*>)")
_STYLE = re.compile(r' style="([^"]*)"')
_DECIMALS = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
_NIGHT = re.compile(r'\[style\*="(fill|stroke): (#[0-9a-f]{6})"\]\{\1:(#[0-9a-f]{6}) !important\}')
_DARK = "@media (prefers-color-scheme: dark){"


def compact(svg: str) -> str:
    """The same picture in fewer bytes: an SVG document as Matplotlib writes it, with the dark style of `canvas`.

    Groups and names that nothing refers to are left out, and so are shapes without fill and stroke; a style becomes a class with its
    colour by day and by night; coordinates keep one decimal, shapes that are drawn many times two.

    >>> compact('<svg width="9"><style>@media (prefers-color-scheme: dark){[style*="fill: #1f2328"]{fill:#e6e8eb !important}}</style>\\n'
    ...         '<g id="text_1">\\n <text style="fill: #1f2328" x="1.23456">a</text>\\n</g></svg>')
    '<svg width="9"><style>.a{fill:#1f2328}@media (prefers-color-scheme: dark){.a{fill:#e6e8eb}}</style><text class="a" x="1.2">a</text></svg>'
    """
    tokens = [token for token in _TAG.split(svg) if token and not (token.isspace() and "\n" in token)]
    tokens = list(_shorter(_named(_seen(tokens))))
    classes = _classes(tokens)
    sheet = tokens.index("<style>") + 1
    tokens[sheet] = _by_day_and_night(tokens[sheet], classes)
    return "".join(_STYLE.sub(lambda found: f' class="{classes[found[1]]}"', token) if _styled(token) else token for token in tokens)


def as_address(svg: str) -> Markup:
    """The picture as a `data:` address for an attribute in double quotes: as text, which is a quarter shorter than base64.

    >>> print(as_address('<svg width="9"><text class="a">5 % "of" &amp; #1</text></svg>'))
    data:image/svg+xml;charset=utf-8,<svg width='9'><text class='a'>5 %25 %22of%22 &amp;amp; %231</text></svg>
    """
    quoted = _TAG.sub(lambda tag: tag[0] if "'" in tag[0] else tag[0].replace('"', "'"), svg)
    for sign, code in (("%", "%25"), ("#", "%23"), ('"', "%22"), ("\n", "%0A"), ("\t", "%09")):
        quoted = quoted.replace(sign, code)
    return Markup("data:image/svg+xml;charset=utf-8," + quoted.replace("&", "&amp;"))


def _by_day_and_night(sheet: str, classes: Mapping[str, str]) -> str:
    """The style sheet with every class, and for a dark reader with those whose colours change."""
    night = {(side, light): dark for side, light, dark in _NIGHT.findall(sheet)}
    day = "".join(f".{name}{{{_dense(style)}}}" for style, name in classes.items())
    dark = "".join(f".{name}{{{';'.join(rules)}}}" for style, name in classes.items() if (rules := list(_by_night(style, night))))
    return _NIGHT.sub("", sheet).replace(_DARK, day + _DARK + dark, 1)


def _styled(token: str) -> bool:
    """Is it a tag whose style becomes a class? That of a bitmap stays: it is its own."""
    return token.startswith("<") and not token.startswith("<image") and ' style="' in token


def _seen(tokens: Iterable[str]) -> Iterator[str]:
    """Without shapes that are neither filled nor stroked."""
    for token in tokens:
        if not (token.startswith("<path") and ' style="fill: none"' in token and " id=" not in token):
            yield token


def _named(tokens: Iterable[str]) -> Iterator[str]:
    """Without names that nothing refers to, the others short; without groups that then say nothing, and without empty ones."""
    tokens = list(tokens)
    used = dict.fromkeys(name for token in tokens if token.startswith("<") for name in re.findall(r'(?:href="#|url\(#)([^")]+)', token))
    short = {name: f"i{number}" for number, name in enumerate(used)}
    kept: list[str] = []
    open_groups: list[int | None] = []
    for token in tokens:
        if token.startswith("<") and not token.startswith("</"):
            token = re.sub(r' id="([^"]*)"', lambda found: f' id="{short[found[1]]}"' if found[1] in short else "", token)
            token = re.sub(r'(href="#|url\(#)([^")]+)', lambda found: found[1] + short[found[2]], token)
        if token == "<g/>":
            continue
        if token.startswith("<g") and not token.endswith("/>"):
            open_groups.append(None if token == "<g>" else len(kept))
            if token == "<g>":
                continue
        elif token == "</g>":
            start = open_groups.pop()
            if start is None:
                continue
            if start == len(kept) - 1:
                kept.pop()
                continue
        kept.append(token)
    return iter(kept)


def _shorter(tokens: Iterable[str]) -> Iterator[str]:
    """With fewer digits where a place is given, and paths on one line."""
    inside_defs = False
    for token in tokens:
        if token in ("<defs>", "</defs>"):
            inside_defs = token == "<defs>"
        if token.startswith(("<path", "<text", "<use", "<g", "<rect", "<tspan")):
            digits = 2 if inside_defs else 1
            token = re.sub(r' (d|x|y|width|height|transform)="([^"]*)"', lambda found: f' {found[1]}="{_rounded(found, digits)}"', token)
        yield token


def _rounded(found: re.Match[str], digits: int) -> str:
    if found[1] == "transform" and re.search("matrix|scale", found[2]):
        return found[2]
    text = _DECIMALS.sub(lambda number: _decimal(float(number[0]), digits), found[2])
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", text).replace("\n", " ").strip() if found[1] == "d" else text


def _decimal(value: float, digits: int) -> str:
    """The number with at most so many decimals.

    >>> [_decimal(value, 1) for value in (46.6, 460.0, -0.04, 0.25)]
    ['46.6', '460', '0', '0.2']
    """
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _classes(tokens: Iterable[str]) -> dict[str, str]:
    """Style → class, those that occur most often first; ties in the order of the picture."""
    styles = Counter(style for token in tokens if _styled(token) for style in _STYLE.findall(token))
    return {style: _letters(number) for number, (style, _) in enumerate(styles.most_common())}


def _letters(number: int) -> str:
    """0 → a, 25 → z, 26 → ba: a name made of letters alone."""
    rest, letter = divmod(number, 26)
    return (_letters(rest) if rest else "") + chr(ord("a") + letter)


def _dense(style: str) -> str:
    return style.replace("; ", ";").replace(": ", ":").strip(";")


def _by_night(style: str, night: Mapping[tuple[str, str], str]) -> Iterator[str]:
    """The declarations of a style that change for a dark reader."""
    for declaration in style.split(";"):
        side, _, value = declaration.strip().partition(": ")
        if (side, value) in night:
            yield f"{side}:{night[side, value]}"
