"""Train, val and test: near-identical pictures stay together, no artist is only in test, earlier decisions stand."""

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

    The groups are walked sorted by artist, then style, then a hash of their ids and the seed; each goes to the split
    that is furthest behind its fraction, so that each artist, and each style of an artist, is spread as the whole is.
    An artist's first group goes to train. With three groups or more no split with a fraction stays empty, unless
    its only candidates are an artist's only pictures.

    Args:
        members: the pictures, in any order; only ids, groups, artists and styles matter.
        fractions: of train, val and test; they sum to 1.
        seed: another seed, other splits.
        previous: splits of an earlier, smaller run. They stand, so that a picture trained on never becomes a test
            picture. Where new pictures join groups of several splits, the whole group goes to train.
    """
    groups = _gather(members, seed)
    chosen = _walk(groups, fractions, previous or {})
    _fill_empty(groups, chosen, fractions, previous or {})
    _keep_artists_in_train(groups, chosen)
    by_id = {identity: split for group, split in zip(groups, chosen, strict=True) for identity in group.ids}
    return dict(sorted(by_id.items()))


def _gather(members: Sequence[Member], seed: int) -> list[_Group]:
    together: dict[int, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda member: member.id):
        together[member.group].append(member)
    groups = []
    for same in together.values():
        order = hashlib.sha256(f"{seed}:{same[0].id}".encode()).hexdigest()
        key = (_most_common([m.artist for m in same]), _most_common([m.style for m in same]), order)
        groups.append(_Group(key, tuple(m.id for m in same), frozenset(m.artist for m in same)))
    return sorted(groups, key=lambda group: group.key)


def _most_common(names: list[str]) -> str:
    return min(Counter(names).items(), key=lambda item: (-item[1], item[0]))[0]


def _walk(groups: list[_Group], fractions: Sequence[float], previous: Mapping[str, str]) -> list[str]:
    chosen: list[str] = []
    counts: Counter[str] = Counter()
    trained = {a for g in groups if _earlier(g, previous) == "train" for a in g.artists}
    for group in groups:
        total = counts.total() + len(group.ids)
        behind = {s: f * total - counts[s] for s, f in zip(SPLITS, fractions, strict=True) if f > 0}
        split = _earlier(group, previous)
        if not split:
            first = not group.artists <= trained
            split = "train" if first and "train" in behind else max(behind, key=lambda name: behind[name])
        if split == "train":
            trained |= group.artists
        chosen.append(split)
        counts[split] += len(group.ids)
    return chosen


def _earlier(group: _Group, previous: Mapping[str, str]) -> str:
    found = {previous[identity] for identity in group.ids if identity in previous}
    return found.pop() if len(found) == 1 else "train" if found else ""


def _fill_empty(
    groups: list[_Group], chosen: list[str], fractions: Sequence[float], previous: Mapping[str, str]
) -> None:
    """Small sets: take a group from train for each split that got none, where an artist keeps one in train."""
    for split, fraction in zip(SPLITS, fractions, strict=True):
        if fraction == 0 or split in chosen or len(groups) < 3:
            continue
        trained = (group for group, where in zip(groups, chosen, strict=True) if where == "train")
        held = Counter(artist for group in trained for artist in group.artists)
        for place in sorted(range(len(groups)), key=lambda place: groups[place].key[2]):
            spare = all(held[artist] > 1 for artist in groups[place].artists)
            if chosen[place] == "train" and spare and not _earlier(groups[place], previous):
                chosen[place] = split
                break


def _keep_artists_in_train(groups: list[_Group], chosen: list[str]) -> None:
    """Move to train what leaves an artist only in val or test; moving to train hurts no other artist."""
    trained = {a for group, where in zip(groups, chosen, strict=True) if where == "train" for a in group.artists}
    if not trained:
        return  # no train split was asked for
    for place, group in enumerate(groups):
        if not group.artists <= trained:
            chosen[place] = "train"
            trained |= group.artists
