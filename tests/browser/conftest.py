"""Which browser opens the page? Debian's chromium, offline, with a fresh profile; what it requests and complains of is kept.

Nothing gets around the page's content security policy: scripts of the tests go through the debugging protocol, which it does not bind.
Without a browser these tests are skipped and one line says what to install; with PROSECT_REQUIRE_BROWSER=1, as in CI, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import whole_page
from tests.browser.visits import Visit, visits

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
REQUIRED = os.environ.get("PROSECT_REQUIRE_BROWSER") == "1"
MISSING = "browser tests need Debian's chromium on the PATH (apt-get install chromium)"
SCRIPT = "browser tests need playwright (pip install 'prosect[test]'); its own browsers are not needed"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Where a browser is required, a test that was skipped has failed."""
    report = yield
    if REQUIRED and report.skipped:
        report.outcome, report.longrepr = "failed", f"PROSECT_REQUIRE_BROWSER=1, but {item.nodeid} was skipped: {report.longrepr[2]}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line says why there were no browser tests."""
    skipped = [report for report in terminalreporter.stats.get("skipped", ()) if report.nodeid.startswith("tests/browser/")]
    if skipped:
        reason = skipped[0].longrepr[2].removeprefix("Skipped: ")
        terminalreporter.write_line(f"{len(skipped)} tests of the page were skipped: {reason}", yellow=True)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for all tests of this folder; it leaves with them, because its event loop would disturb later tests."""
    executable = next(filter(None, map(shutil.which, NAMES)), None)
    if executable is None:
        pytest.skip(MISSING)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        pytest.skip(SCRIPT)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield started
        started.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    """Open a page: see `visits`."""
    with visits(browser, tmp_path) as opened:
        yield opened


@pytest.fixture(scope="package")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as the command line leaves it: two stacks with cross-attention, and analyses with every kind of view."""
    from analyses import __main__ as command_line

    folder = tmp_path_factory.mktemp("runs") / "g2p"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "sys.argv",
            ["prosect", "report", "--model", "g2p", "--only", "attention", "attribution", "residual-stream", "--out", str(folder)],
        )
        assert command_line.main() == 0
    return folder


@pytest.fixture
def whole() -> str:
    """The page with everything in it."""
    return whole_page()
