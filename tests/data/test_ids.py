"""Ids can be read back from a target's name, and no two are the same."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bottega.data.ids import LONGEST, Ids, clean_id
from bottega.teacher.items import target_name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("000000000139", "000000000139"),
        ("m.c.-escher_day and night", "m.c.-escher-day-and-night"),
        ("joaquín sorolla", "joaqu-n-sorolla"),
        ("../..", "x"),
        ("", "x"),
        ("_a_", "a"),
    ],
)
def test_other_characters_become_dashes(text, expected):
    assert clean_id(text) == expected


@given(st.lists(st.text(max_size=6), max_size=40))
def test_ids_are_clean_and_differ_even_where_case_is_folded(texts):
    ids = Ids()
    given_ids = [ids.give(text) for text in texts]
    assert len({identity.lower() for identity in given_ids}) == len(texts)
    assert all(re.fullmatch("[A-Za-z0-9.-]+", identity) for identity in given_ids)


@given(st.text(), st.text(), st.integers(0, 10**6))
def test_a_target_name_can_be_read_back(content, style, seed):
    content, style = clean_id(content), clean_id(style)
    parts = re.fullmatch(r"([^_]+)_([^_]+)_seed(\d+)", target_name(content, style, seed))
    assert parts is not None
    assert parts.groups() == (content, style, str(seed))


def test_a_clash_gets_a_suffix_that_was_not_taken_before():
    ids = Ids(["sea", "sea-2"])
    assert [ids.give("sea"), ids.give("SEA"), ids.give("sea-3")] == ["sea-3", "SEA-4", "sea-3-2"]


def test_ten_thousand_clashes_take_no_time():
    ids = Ids()
    assert [ids.give("image") for _ in range(10_000)][-1] == "image-10000"


def test_a_long_name_is_cut_and_two_that_begin_alike_stay_different():
    one, other = clean_id("a" * 300 + "-one"), clean_id("a" * 300 + "-two")
    assert len(one) == len(other) == LONGEST
    assert one != other
    assert clean_id("a" * LONGEST) == "a" * LONGEST
