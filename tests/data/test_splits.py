"""Splits: shares as asked, groups whole, artists in train, earlier decisions kept."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from bottega.data.splits import SPLITS, Member, assign

FRACTIONS = (0.8, 0.1, 0.1)


@st.composite
def members(draw: st.DrawFn) -> list[Member]:
    count = draw(st.integers(0, 60))
    return [
        Member(f"p{k}", draw(st.integers(0, count)), f"a{draw(st.integers(0, 6))}", f"s{draw(st.integers(0, 3))}")
        for k in range(count)
    ]


@settings(max_examples=60)
@given(members(), st.integers(0, 5), st.randoms())
def test_groups_stay_whole_and_artists_are_in_train_whatever_the_order(pictures, seed, random):
    splits = assign(pictures, fractions=FRACTIONS, seed=seed)
    assert set(splits) == {member.id for member in pictures}
    for group in {member.group for member in pictures}:
        assert len({splits[member.id] for member in pictures if member.group == group}) == 1
    trained = {member.artist for member in pictures if splits[member.id] == "train"}
    assert trained == {member.artist for member in pictures}
    random.shuffle(pictures)
    assert assign(pictures, fractions=FRACTIONS, seed=seed) == splits


@settings(max_examples=40)
@given(members(), members())
def test_what_was_decided_stands_when_pictures_are_added(first, more):
    before = assign(first, fractions=FRACTIONS, seed=0)
    shifted = [Member(f"q{m.id}", 1000 + m.group, f"new{m.artist}", m.style) for m in more]
    after = assign([*first, *shifted], fractions=FRACTIONS, seed=0, previous=before)
    assert {identity: after[identity] for identity in before} == before


def test_a_new_link_between_splits_moves_the_whole_group_to_train():
    linked = [Member("a", 0), Member("b", 0), Member("c", 1), Member("d", 2)]
    previous = {"a": "test", "b": "val", "c": "train", "d": "test"}
    splits = assign(linked, fractions=FRACTIONS, seed=0, previous=previous)
    assert splits == {"a": "train", "b": "train", "c": "train", "d": "test"}


def test_every_artist_and_style_is_spread_as_the_whole_is():
    pictures = [Member(f"p{k}", k, f"artist{k % 10}", f"style{k // 10 % 2}") for k in range(1000)]
    splits = assign(pictures, fractions=FRACTIONS, seed=3)
    assert Counter(splits.values()) == {"train": 800, "val": 100, "test": 100}
    for artist in range(10):
        counts = Counter(splits[m.id] for m in pictures if m.artist == f"artist{artist}")
        assert abs(counts["train"] - 80) <= 2
        assert abs(counts["test"] - 10) <= 2
    styles = Counter(m.style for m in pictures if splits[m.id] == "test")
    assert abs(styles["style0"] - 50) <= 6


def test_three_pictures_fill_three_splits():
    assert set(assign([Member(name, k) for k, name in enumerate("abc")], fractions=FRACTIONS, seed=0).values()) == set(
        SPLITS
    )


def test_another_seed_gives_other_splits():
    pictures = [Member(f"p{k}", k) for k in range(100)]
    assert assign(pictures, fractions=FRACTIONS, seed=0) != assign(pictures, fractions=FRACTIONS, seed=1)


def test_pictures_that_only_one_split_may_have_all_go_there():
    pictures = [Member(f"p{k}", k) for k in range(10)]
    assert set(assign(pictures, fractions=(0, 0, 1), seed=0).values()) == {"test"}
