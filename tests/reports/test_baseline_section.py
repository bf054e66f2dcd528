"""Does the page tell what has changed since the baseline, whatever texts and numbers there are?"""

from __future__ import annotations

import pytest

from reports import page
from reports.text import visible_text
from tests.reports.samples import HOSTILE, result
from tests.reports.test_page import checked


def baseline(text: str = "word", **changes):
    """What `prosect … --baseline` keeps in a run."""
    evidence = [{"name": text, "unit": text, "was": 0.5, "now": float("nan")}, {"name": "new", "unit": "1", "was": None, "now": 2.0}]
    verdicts = [
        {"analysis": text, "title": text, "was": "pass", "now": "warn", "claim_was": text, "evidence": evidence},
        {"analysis": "b", "title": "b", "was": None, "now": "pass", "claim_was": "", "evidence": []},
    ]
    cells = [{"row": text, "column": text, "was": 1.0, "now": float("inf")}]
    tables = [
        {
            "analysis": text,
            "table": text,
            "outcome": "differs",
            "detail": text,
            "only_before": 2,
            "only_now": 1,
            "n_changed": 1,
            "changed": cells,
        },
        {
            "analysis": "b",
            "table": "t",
            "outcome": "measured",
            "detail": text,
            "only_before": 0,
            "only_now": 0,
            "n_changed": 0,
            "changed": [],
        },
    ]
    settings = [{"name": f"parameters {text}", "was": text, "now": text}]
    told = {
        "title": text,
        "command": text,
        "same": False,
        "settings": settings,
        "n_verdicts": 2,
        "verdicts": verdicts,
        "n_tables": 3,
        "tables": tables,
    }
    return {**told, **changes}


def test_what_was_and_what_is():
    parsed = checked(page([result()], title="t", run={"baseline": baseline()}))
    rows = [" ".join(one.split()) for one in parsed.text["tr"]]
    assert {"word ✓ pass ! warn", "word 0.5 word NaN", "new not there 2", "b not asked ✓ pass"} <= set(rows)
    said = " ".join(next(one for one in parsed.text["p"] if "Against" in one).split())
    assert said == "Against word (word): 2 of 2 verdicts and 1 of 3 tables differ, and so do the parameters."
    tables = [" ".join(one.split()) for one in parsed.text["dd"]]
    assert (
        "differs; 2 rows only before, 1 only now; 1 number changed, the largest:word, word: was 1, is ∞" in tables
        and "measured: word" in tables
    )
    assert "#baseline" in {a["href"] for a in parsed.all("a")}


def test_nothing_new_is_said_in_one_sentence():
    same = baseline(same=True, verdicts=[], tables=[], settings=[])
    html = page([result()], title="t", run={"baseline": same})
    assert "the same questions, and the same answers." in " ".join(html.split())
    assert "Since the baseline" not in page([result()], title="t", run={}) and 'id="baseline"' not in page([result()], title="t", run={})


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text):
    of = [checked(page([result(figures=())], title="t", run={"baseline": baseline(one)})) for one in (text, "word")]
    tags = [{tag for tag, _ in parsed.elements} for parsed in of]
    assert tags[0] == tags[1]
    assert any(visible_text(text).replace("\n", " ") in one for one in of[0].text["li"])
