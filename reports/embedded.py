"""What does a page carry for programs, and how is it read back? Files, deflated, each in a script element that no browser runs.

    <script type="application/json" data-file="head-ablation-effects.csv">{"kind": "table", …, "sha256": …, "deflate": …}</script>

The page's own script makes downloads of them; `prosect verify` and `prosect diff` read them. Nothing of a page that is read is run,
and what was cut, changed or is no page of ours ends in one sentence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, get_args

from markupsafe import Markup

from reports.store import StoreError
from reports.text import visible_label
from reports.views import as_json

Kind = Literal["report", "table", "figure"]

PAGE_LIMIT = 64_000_000
"""Bytes of a page that is read back; ours are below 5 MB."""
FILE_LIMIT = 16_000_000
"""Bytes that one file of a page may inflate to."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """A file that a page carries: its name, what it belongs to, and of a table that was cut how many rows there are in all."""

    name: str
    kind: Kind
    content: bytes
    analysis: str = ""
    part: str = ""
    """the table or figure whose numbers it holds"""
    rows: int = 0
    rows_in_all: int = 0

    @property
    def element(self) -> Markup:
        """The file as an element of the page: ASCII, the same for the same content."""
        words = {key: getattr(self, key) for key in ("name", "kind", "analysis", "part", "rows", "rows_in_all")}
        deflated = base64.b64encode(zlib.compress(self.content, 9)).decode("ascii")
        data = {**words, "sha256": hashlib.sha256(self.content).hexdigest(), "deflate": deflated}
        return Markup('<script type="application/json" data-file="{}">{}</script>').format(self.name, as_json(data))


def read_embedded(path: str | Path) -> list[Embedded]:
    """The files that a page carries, in the order of the page.

    Raises:
        StoreError: in one sentence for a file that cannot be read, is too large, is no page of ours, or was cut or changed.
    """
    path = Path(path)
    try:
        if (size := path.stat().st_size) > PAGE_LIMIT:
            raise StoreError(f"{path} has {size:,} bytes; a page may have {PAGE_LIMIT:,}")
        html = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is no page of prosect's: it is not UTF-8 text") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    blocks = _Blocks()
    try:
        blocks.feed(html)
        blocks.close()
    except AssertionError as error:  # what Python's parser says of some broken declarations
        raise StoreError(f"{path} is no page of prosect's: {error}") from error
    if not blocks.texts:
        raise StoreError(f"{path} is no page of prosect's: it carries no files")
    if not html.rstrip().endswith("</html>"):
        raise StoreError(f"{path} is not whole: it does not end with </html>; copy it again")
    return [_decoded(name, text, path) for name, text in blocks.texts]


class _Blocks(HTMLParser):
    """Collects (name, text) of the elements that carry files."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[tuple[str, str]] = []
        self._name: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        here = dict(attrs)
        if tag == "script" and here.get("type") == "application/json" and here.get("data-file") is not None:
            self._name = here["data-file"]
            self.texts.append((self._name or "", ""))

    def handle_data(self, data: str) -> None:
        if self._name is not None:
            name, text = self.texts[-1]
            self.texts[-1] = (name, text + data)

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._name = None


def _decoded(name: str, text: str, path: Path) -> Embedded:
    where = f"{visible_label(name)[:80]!r} in {path}"
    try:
        data = json.loads(text)
        content = _inflated(base64.b64decode(data["deflate"], validate=True), where)
        found = Embedded(content=content, **{key: _kept(data, key, kind) for key, kind in _KINDS.items()})
    except StoreError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error) as error:
        raise StoreError(f"{where} was cut or changed: {type(error).__name__}") from error
    if found.kind not in get_args(Kind) or found.name != name:
        raise StoreError(f"{where} was cut or changed: it says that it is {visible_label(str(found.kind))[:80]!r}")
    if hashlib.sha256(content).hexdigest() != data.get("sha256"):
        raise StoreError(f"{where} was changed: its content has another SHA-256 than the page says")
    return found


_KINDS = {"name": str, "kind": str, "analysis": str, "part": str, "rows": int, "rows_in_all": int}


def _kept(data: Any, key: str, kind: type) -> Any:
    if type(data[key]) is not kind:
        raise TypeError(f"{key} must be {kind.__name__}")
    return data[key]


def _inflated(deflated: bytes, where: str) -> bytes:
    """The content, refused where it is not whole or would not end."""
    stream = zlib.decompressobj()
    content = stream.decompress(deflated, FILE_LIMIT)
    if stream.unconsumed_tail:
        raise StoreError(f"{where} inflates to more than {FILE_LIMIT:,} bytes")
    if not stream.eof:
        raise ValueError("the stream ends early")
    return content
