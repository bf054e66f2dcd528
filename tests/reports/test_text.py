"""Is everything that is shown visible, and every number honest?"""

import unicodedata

import pytest
from hypothesis import given

from reports.text import first_sentence, format_number, shortened, visible_label, visible_text, visible_token, with_minus, with_unit
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


@pytest.mark.parametrize(("claim", "first"), [
    ("No activation is massive. Away from the sinks it grows.", "No activation is massive."),
    ("It rests on 0.5 of 3.2 heads", "It rests on 0.5 of 3.2 heads"),
    ("One sentence.", "One sentence."),
    ("By +0.11 [0.07, 0.17); 1 of 36 differ.", "By +0.11 [0.07, 0.17)."),
    ("Best “a. B; c” (see e.g. Fig. 3; then. So) wins! Then", "Best “a. B; c” (see e.g. Fig. 3; then. So) wins!"),
    ("See Gu et al. 2024 and vs. Others. Next", "See Gu et al. 2024 and vs. Others."),
    ("An open bracket ( is never closed. Still whole", "An open bracket ( is never closed. Still whole"),
    ("Ends at a line?\nNext", "Ends at a line?"),
])
def test_the_first_sentence_ends_where_a_reader_would_end_it(claim, first):
    assert first_sentence(claim) == first


@given(TEXT)
def test_a_first_sentence_invents_nothing(text):
    first = first_sentence(text)
    assert text.startswith(first) or text.startswith(first[:-1]) and first.endswith(".")
    assert first_sentence(first) == first


@pytest.mark.parametrize(("plain", "shown"), [
    ("by -0.29 to -.5", "by −0.29 to −.5"), ("(-2.75 at", "(−2.75 at"), ("1e-5, 2E-7", "1e−5, 2E−7"), ("[-1, 2]", "[−1, 2]"), ("+0.1 / -3%", "+0.1 / −3%"),
    ("L2-3, 5-95 %, a-1, x.-2", "L2-3, 5-95 %, a-1, x.-2"), ("log-probability", "log-probability"), ("token “-5” by -5", "token “-5” by −5"), ("2024-01-02", "2024-01-02"),
])
def test_one_minus_sign(plain, shown):
    assert with_minus(plain) == shown and with_minus(shown) == shown


def test_shortened_text_says_so():
    assert shortened("abcdef", 4) == "abc…"
    assert len(shortened("a" * 50, 10)) == 10
