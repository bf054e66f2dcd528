"""What happens when a page is opened? What it asks for and complains of is kept, and nothing gets around its policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A page that was opened, and what was noticed since: requests, and complaints (console, exceptions, dialogs)."""

    page: Any
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> Visit:
        self.page.on("request", lambda request: self.requests.append(request.url.partition("#")[0]))
        self.page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("dialog", lambda dialog: self._dialog(dialog))
        return self

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    @property
    def elsewhere(self) -> list[str]:
        """Requests for anything but the page's own file."""
        return [url for url in self.requests if url != self.page.url.partition("#")[0]]

    @property
    def ran(self) -> bool:
        """Whether a planted script ran."""
        return any(complaint.startswith("dialog: ") for complaint in self.complaints)


@contextmanager
def visits(browser: Any, folder: Path) -> Iterator[Callable[..., Visit]]:
    """A function that opens a page, given as a file or as HTML, and waits until its script has done its work."""
    contexts = []

    def opened(
        page: Path | str, *, width: int = 1280, height: int = 900, dark: bool = False, script: bool = True, fragment: str = ""
    ) -> Visit:
        if isinstance(page, str):
            (folder / "page.html").write_text(page, encoding="utf-8")
            page = folder / "page.html"
        context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", java_script_enabled=script, offline=True
        )
        contexts.append(context)
        context.set_default_timeout(20_000)
        there = Visit(page=context.new_page()).listen()
        there.page.goto(page.as_uri() + fragment)
        if script:
            there.page.wait_for_selector("html[data-ready], iframe", state="attached")
        return there

    yield opened
    for context in contexts:
        context.close()
