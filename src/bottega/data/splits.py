"""Train, val and test: near-identical pictures stay together, no artist is only in test, earlier decisions are kept."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Member:
    """One picture that needs a split. `group`: pictures with the same number must share a split."""

    id: str
    group: int
    artist: str = ""
    style: str = ""


@dataclass(frozen=True)
class _Group:
    key: tuple[str, str, str]
    ids: tuple[str, ...]
    artists: frozenset[str]


def assign(
    members: Sequence[Member], *, fractions: Sequence[float], seed: int, previous: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A split for each picture, in id order.

    Groups are taken in the order of artist, then style, then a hash of their ids and the seed; each goes to the split
    that is furthest behind its fraction, so that each artist, and each style of an artist, is spread as the whole is.
    An artist's first group goes to train. With three groups or more no split with a fraction stays empty, unless
    its only candidates are an artist's only pictures.

    Args:
        members: the pictures, in any order; only ids, groups, artists and styles matter.
        fractions: of train, val and test; they sum to 1.
        seed: another seed, other splits.
        previous: splits of an earlier, smaller run. They are kept, so that a picture trained on never becomes a test
            picture. Where new pictures join groups of several splits, the whole group goes to train.
    """
    earlier = previous or {}
    groups = _gather(members, seed)
    chosen = _divide(groups, fractions, earlier)
    _fill_empty(groups, chosen, fractions, earlier)
    _keep_artists_in_train(groups, chosen)
    by_id: dict[str, str] = {}
    for group, split in zip(groups, chosen, strict=True):
        by_id |= dict.fromkeys(group.ids, split)
    return dict(sorted(by_id.items()))


def _gather(members: Sequence[Member], seed: int) -> list[_Group]:
    by_number: dict[int, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda member: member.id):
        by_number[member.group].append(member)
    groups = []
    for same in by_number.values():
        artists = [member.artist for member in same]
        styles = [member.style for member in same]
        order = hashlib.sha256(f"{seed}:{same[0].id}".encode()).hexdigest()
        key = (_most_common(artists), _most_common(styles), order)
        groups.append(_Group(key, tuple(member.id for member in same), frozenset(artists)))
    return sorted(groups, key=lambda group: group.key)


def _most_common(names: list[str]) -> str:
    """The most frequent name."""
    # Of equally frequent ones the first in the alphabet, so that no order of the pictures matters.
    counts = Counter(names)
    return min(counts, key=lambda name: (-counts[name], name))


def _divide(groups: list[_Group], fractions: Sequence[float], previous: Mapping[str, str]) -> list[str]:
    """The split of each group, in their order."""
    in_train: set[str] = set()  # artists
    for group in groups:
        if _earlier_split(group, previous) == "train":
            in_train |= group.artists
    share = {split: fraction for split, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0}
    chosen: list[str] = []
    counts: Counter[str] = Counter()
    for group in groups:
        split = _earlier_split(group, previous)
        if not split:
            new_artist = not group.artists <= in_train
            split = "train" if new_artist and "train" in share else _furthest_behind(share, counts, len(group.ids))
        if split == "train":
            in_train |= group.artists
        chosen.append(split)
        counts[split] += len(group.ids)
    return chosen


def _furthest_behind(share: Mapping[str, float], counts: Counter[str], size: int) -> str:
    """The split that lacks most pictures once `size` more are given out; of equals the first of `SPLITS`."""
    total = counts.total() + size
    return max(share, key=lambda split: share[split] * total - counts[split])


def _earlier_split(group: _Group, previous: Mapping[str, str]) -> str:
    """What an earlier run decided, train where its pictures were in several splits; "" for a new group."""
    found = {previous[identity] for identity in group.ids if identity in previous}
    if len(found) > 1:
        return "train"
    return found.pop() if found else ""


def _fill_empty(
    groups: list[_Group], chosen: list[str], fractions: Sequence[float], previous: Mapping[str, str]
) -> None:
    """Small sets: take a group from train for each split that got none, where an artist keeps one in train."""
    if len(groups) < 3:
        return
    by_hash = sorted(range(len(groups)), key=lambda number: groups[number].key[2])  # no artist is preferred
    for split, fraction in zip(SPLITS, fractions, strict=True):
        if fraction == 0 or split in chosen:
            continue
        in_train = _train_groups_by_artist(groups, chosen)
        for number in by_hash:
            group = groups[number]
            can_be_spared = all(in_train[artist] > 1 for artist in group.artists)
            if chosen[number] == "train" and can_be_spared and not _earlier_split(group, previous):
                chosen[number] = split
                break


def _train_groups_by_artist(groups: list[_Group], chosen: list[str]) -> Counter[str]:
    """How many groups each artist has in train."""
    counts: Counter[str] = Counter()
    for group, split in zip(groups, chosen, strict=True):
        if split == "train":
            counts.update(group.artists)
    return counts


def _keep_artists_in_train(groups: list[_Group], chosen: list[str]) -> None:
    """Move to train what leaves an artist only in val or test."""
    # One pass does it: moving a group to train hurts no other artist.
    in_train: set[str] = set()
    for group, where in zip(groups, chosen, strict=True):
        if where == "train":
            in_train |= group.artists
    if not in_train:
        return  # no train split was asked for
    for number, group in enumerate(groups):
        if not group.artists <= in_train:
            chosen[number] = "train"
            in_train |= group.artists
