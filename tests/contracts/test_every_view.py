"""Does every interactive view keep the contract: data that is plain JSON for any figure, a script of its own that only writes text?"""

from __future__ import annotations

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import reports.views
from reports import KINDS
from reports.views import as_json, discover, view_of
from tests.reports.samples import HOSTILE, any_figure, figures

FOLDER = Path(reports.views.__file__).parent
SCRIPTS = FOLDER.parent / "assets" / "views"
VIEWS = discover()
FORBIDDEN = (
    "innerHTML",
    "outerHTML",
    "insertAdjacentHTML",
    "document.write",
    "eval(",
    "new Function",
    'setAttribute("style"',
    "localStorage",
    "fetch(",
    "import(",
)


def test_every_kind_has_one_view_at_most_and_every_view_its_files():
    assert len({view.kind for view in VIEWS}) == len({view.name for view in VIEWS}) == len(VIEWS)
    files = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
    assert [import_module(f"reports.views.{name}").VIEW for name in files] == list(VIEWS)
    for view in VIEWS:
        assert view.kind in KINDS and re.search(rf"views\.{view.name}\b", (SCRIPTS / f"{view.name}.js").read_text())


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.js")), ids=lambda path: path.stem)
def test_a_script_writes_text_and_leaves_no_name_behind(script):
    text = script.read_text()
    assert not [word for word in FORBIDDEN if word in text]
    assert text.startswith("//") and text.split("\n", 1)[1].startswith("{\n") and text.rstrip().endswith("}")


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_figure_gives_plain_json_or_nothing(view, data):
    found = view.data(data.draw(any_figure(view.kind)))
    assert found is None or json.loads(as_json(found)) == json.loads(json.dumps(found))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_cannot_be_seen_is_made_visible_and_no_markup_is_left(text):
    for figure in figures(text):
        view = view_of(figure)
        found = view and view.data(figure)
        if found:
            written = as_json(found)
            assert written.isascii() and not set("<>&") & set(written)
            assert not any(hidden in str(json.loads(written)) for hidden in ("\u202e", "\x00", "\ud800", "\u2028"))
