"""Text from data is shown on one line, steers no terminal and has a stated length."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.runtime.escape import (
    LONGEST,
    LONGEST_CELL,
    LONGEST_MESSAGE,
    csv_cell,
    escaped,
    escaped_lines,
    from_csv_cell,
    one_line,
    shown,
)

TEXTS = st.text(st.characters(codec=None, exclude_categories=()), max_size=60)
STEERING = ("Cc", "Cs", "Zl", "Zp")
BIDI = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a plain name.png", "a plain name.png"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\u009b31m"),
        ("one\ntwo\rthree\tfour", r"one\x0atwo\x0dthree\x09four"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("\u2066a\u2069 \u200fb", r"\u2066a\u2069 \u200fb"),
        ("a\u2028b\x85c", r"a\u2028b\u0085c"),
        ("\ud800", r"\ud800"),
        ("\U000e0041", r"\udb40\udc41"),
        ("画家 — Ω, 👩\u200d🎨", "画家 — Ω, 👩\u200d🎨"),
    ],
)
def test_what_steers_a_terminal_is_written_out_and_letters_of_every_script_stay(text, expected):
    assert escaped(text) == expected


@given(TEXTS)
def test_no_character_that_steers_or_turns_is_left(text):
    for result in (escaped(text), shown(text), one_line(text), str(csv_cell(text))):
        kinds = {unicodedata.category(character) for character in result}
        assert not kinds & set(STEERING)
        assert not BIDI & set(result)


@given(TEXTS)
def test_lines_and_tabs_stay_in_an_output_of_several_lines_and_nothing_else_does(text):
    plain = escaped_lines(text)
    assert plain.count("\n") == text.count("\n")
    assert not {unicodedata.category(character) for character in plain if character not in "\n\t"} & set(STEERING)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "\x1b" * 1_000_000, "\u202e" * 201])
def test_a_value_is_cut_at_a_stated_length(text):
    assert len(escaped(text)) < LONGEST + 30
    assert str(len(text)) in escaped(text)
    assert len(shown(text)) < 6 * LONGEST + 30
    assert len(one_line(text)) <= 4 * LONGEST_MESSAGE + 60
    assert len(str(csv_cell(text))) < LONGEST_CELL + 30


def test_a_long_message_keeps_its_beginning_and_what_to_do():
    cut = one_line(f"the rule, received {'x' * 100_000}; do this")
    assert cut.startswith("the rule, received xxx")
    assert cut.endswith("xxx; do this")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "'=1", "''-a"])
def test_a_spreadsheet_runs_no_cell_and_reading_gives_the_text_back(text):
    assert str(csv_cell(text)).startswith("'")
    assert from_csv_cell(str(csv_cell(text))) == text


@pytest.mark.parametrize("text", ["", "'", "'tis a dog", "a = b", "images/a.png", "\\x1b"])
def test_a_cell_without_a_formula_is_written_as_it_is(text):
    assert csv_cell(text) == text
    assert from_csv_cell(text) == text


def test_numbers_in_a_table_stay_numbers():
    assert csv_cell(-1.5) == -1.5
    assert csv_cell(None) is None
