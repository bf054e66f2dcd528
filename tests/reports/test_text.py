"""Is everything that is shown visible, and every number honest?"""

import unicodedata

import pytest
from hypothesis import given

from reports.text import format_number, shortened, visible_label, visible_text, visible_token, with_unit
from tests.reports.samples import TEXT

HIDDEN = {"Cc", "Cf", "Cs", "Cn", "Zl", "Zp"}


@given(TEXT)
def test_a_shown_token_has_no_hidden_character_and_no_space(token):
    shown = visible_token(token)
    assert shown
    assert not any(unicodedata.category(c) in HIDDEN | {"Zs"} for c in shown)
    shown.encode("utf-8")


@given(TEXT)
def test_prose_keeps_its_spaces_and_can_be_written(text):
    shown = visible_text(text)
    shown.encode("utf-8")
    assert not any(unicodedata.category(c) in HIDDEN for c in shown if c not in "\n\t\u200c\u200d")
    assert shown.count(" ") == text.count(" ")
    assert "\n" not in visible_label(text)


@pytest.mark.parametrize(("token", "shown"), [
    (" the", "·the"), ("\n\n", "⏎⏎"), ("\t", "⇥"), ("", "∅"), ("\u200b", "\\u{200b}"), ("\u202e", "\\u{202e}"), ("\ud83d", "\\u{d83d}"),
    ("\x00", "\\u{0}"), ("\u00a0", "\\u{a0}"), ("\u2028", "\\u{2028}"), ("\u0301", "◌\u0301"), ("日本", "日本"), ("😀", "😀"), ("\r", "\\u{d}"),
])
def test_tokens(token, shown):
    assert visible_token(token) == shown


@pytest.mark.parametrize(("value", "shown"), [
    (0.0001234567, "0.0001235"), (0.00001234567, "1.235e−5"), (123456.7, "123,457"), (1e6, "1e6"), (-0.5, "−0.5"), (99999.9, "100,000"), (9999, "9999"),
    (10_000, "10,000"), (2.0, "2"), (float("inf"), "∞"), (1e-300, "1e−300"), (100.0, "100"), (1200.0, "1,200"),
])
def test_numbers(value, shown):
    assert format_number(value) == shown


def test_missing_numbers_have_no_unit():
    assert with_unit(float("nan"), "nats") == "NaN"
    assert with_unit(3, "heads") == "3 heads"


def test_shortened_text_says_so():
    assert shortened("abcdef", 4) == "abc…"
    assert len(shortened("a" * 50, 10)) == 10
