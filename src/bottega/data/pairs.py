"""Which content meets which style: pair lists that are balanced, free of repeats, and begin with their shorter versions.

A list is a function of its index, nothing is drawn in a loop. With L labels, n contents, m pictures of a label:

    pair i:   round r = i div L,  label l = i mod L                     labels differ by at most one at every prefix
              style  = (r mod m)-th picture of the label                 so do the pictures of a label
              content = (first(l) + r + r div lcm(m, n)) mod n           all n·m combinations before any comes twice

where labels, pictures and contents stand in an order shuffled by hashing their ids with the seed, and first(l) spreads
the labels evenly around the ring of contents, so that contents are used evenly too and each meets all labels in turn.
The content formula is the Chinese remainder theorem: r -> (r mod m, r mod n) repeats after lcm(m, n) steps, and each
further turn is shifted by one, which visits the residues not seen before.

A row depends on ids, the seed and its index alone, so the list is the same on any machine and for any length.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring
from math import lcm
from pathlib import Path
from typing import Any

from bottega.data.config import PairsConfig
from bottega.data.contents import relative
from bottega.data.splits import SPLITS
from bottega.data.wikiart import read_styles
from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.files import atomic_path, read_jsonl

_LINES_AT_ONCE = 4096


@dataclass(frozen=True)
class Places:
    """A balanced list's combinatorics: positions in the shuffled orders of contents, labels and a label's pictures."""

    contents: int
    pictures: tuple[int, ...]
    """Pictures of each label."""

    @property
    def capacity(self) -> int:
        """Pairs before the scarcest label would have to repeat one."""
        return len(self.pictures) * self.contents * min(self.pictures, default=0)

    def pair(self, index: int) -> tuple[int, int, int]:
        """(content, label, picture of the label) of pair number `index` < `capacity`."""
        turn, label = divmod(index, len(self.pictures))
        pictures = self.pictures[label]
        first = label * self.contents // len(self.pictures)
        return (first + turn + turn // lcm(pictures, self.contents)) % self.contents, label, turn % pictures


class Columns:
    """Rows of JSON fragments in one block of bytes: a hundred thousand contents with captions in 40 MB."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._ends = array("Q", [0])

    def add(self, fragment: str) -> None:
        """Append one fragment."""
        self._bytes += fragment.encode()
        self._ends.append(len(self._bytes))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, row: int) -> str:
        return self._bytes[self._ends[row] : self._ends[row + 1]].decode()


class Side:
    """Contents of one split, in their shuffled order, as JSON fragments: ids, paths, and captions."""

    def __init__(self) -> None:
        self.ids, self.paths, self.captions = Columns(), Columns(), Columns()
        self.first_caption = array("Q", [0])
        self.order: Sequence[int] = ()

    def add(self, identity: str, path: str, captions: Sequence[str] = ()) -> None:
        """Append a picture."""
        self.ids.add(identity)
        self.paths.add(encode_basestring(path))
        for caption in captions:
            self.captions.add(encode_basestring(caption))
        self.first_caption.append(len(self.captions))

    def shuffle(self, seed: int, what: str) -> None:
        """Order by a keyed hash of the ids: adding a picture inserts it and moves no other."""
        keys = [_hash(seed, what, self.ids[row]) for row in range(len(self.ids))]
        self.order = array("L", sorted(range(len(keys)), key=lambda row: (keys[row], self.ids[row])))


class Material:
    """The contents and styles of one split that pairs are made of."""

    def __init__(self, split: str, seed: int) -> None:
        self.split, self.seed = split, seed
        self.contents = Side()
        self._by_label: dict[str, Side] = defaultdict(Side)
        self.labels: list[str] = []

    @property
    def styles(self) -> list[Side]:
        """The style pictures by label, in the order of `labels`."""
        return [self._by_label[label] for label in self.labels]

    def add_style(self, label: str, identity: str, path: str) -> None:
        """Append a style picture under its label."""
        self._by_label[label].add(identity, path)

    def shuffle(self) -> None:
        """Fix all orders; call once when everything is added."""
        self.contents.shuffle(self.seed, "content")
        self.labels = sorted(self._by_label, key=lambda label: (_hash(self.seed, "label", label), label))
        for side in self.styles:
            side.shuffle(self.seed, "style")

    def places(self) -> Places:
        """The combinatorics of a balanced list."""
        return Places(len(self.contents.ids), tuple(len(side.ids) for side in self.styles))


def read_material(data_root: Path, seed: int, contents: Path, styles: Path) -> dict[str, Material]:
    """Read the contents and styles of every split, as streams.

    Args:
        data_root: what paths in the rows become relative to.
        seed: of the pair lists.
        contents: `contents.jsonl`.
        styles: folder of `meta.csv`.

    Raises:
        MissingError: one of them has not been prepared.
    """
    if not contents.is_file():
        raise MissingError(f"there is no {contents}; prepare the contents: bottega data coco, or bottega data folder")
    found = {split: Material(split, seed) for split in SPLITS}
    for row in read_jsonl(contents):
        if row["split"] in found:
            found[row["split"]].contents.add(row["content_id"], row["content_path"], row["captions"])
    prefix = relative(styles, data_root)
    for style in read_styles(styles):
        found[style.split].add_style(style.style, style.id, f"{prefix}/{style.path}")
    for material in found.values():
        material.shuffle()
    return found


def balanced_lines(material: Material, count: int, seeds: Sequence[int]) -> Iterator[str]:
    """The first `count` pairs of the balanced list as JSON lines, without line ends.

    Raises:
        RequestError: the split cannot give so many different pairs.
    """
    places = material.places()
    check_count(material, count)
    return _lines(material, map(places.pair, range(count)), seeds)


def crossed_lines(material: Material, contents: int, styles: int, seeds: Sequence[int]) -> Iterator[str]:
    """All combinations of `contents` contents and `styles` style pictures, the latter balanced over labels to ±1.

    Ordered so that every prefix spreads over contents and styles alike.

    Raises:
        RequestError: the split holds fewer.
    """
    have = (len(material.contents.ids), sum(len(side.ids) for side in material.styles))
    if contents > have[0] or styles > have[1]:
        raise RequestError(
            f"a crossed list of {contents} contents x {styles} styles needs that many in split {material.split}, which "
            f"has {have[0]} and {have[1]}; ask for fewer (pairs.crossed), or prepare more pictures"
        )
    chosen = list(islice(_styles_by_turns(material), styles))
    grid = Places(contents, (styles,))
    cells = (grid.pair(index) for index in range(contents * styles))
    return _lines(material, ((content, *chosen[style]) for content, _, style in cells), seeds)


def check_count(material: Material, count: int) -> None:
    """Raise RequestError where a split cannot give `count` different balanced pairs."""
    capacity = material.places().capacity
    if count > capacity:
        raise RequestError(
            f"{count} different pairs, balanced over styles, were asked of split {material.split}, which can give "
            f"{capacity} ({len(material.contents.ids)} contents, {len(material.labels)} style labels with at least "
            f"{min(material.places().pictures, default=0)} pictures each); ask for fewer or prepare more pictures"
        )


def write_pairs(path: Path, lines: Iterable[str]) -> int:
    """Write JSON lines whole or not at all, as a stream; returns their number."""
    count = 0
    lines = iter(lines)
    with atomic_path(path) as draft, draft.open("w", encoding="utf-8", newline="\n") as stream:
        while block := list(islice(lines, _LINES_AT_ONCE)):
            stream.write("\n".join(block) + "\n")
            count += len(block)
    return count


def read_pairs(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The pairs of a list, or its first `limit`.

    Raises:
        MissingError: there is no such list.
        StorageError: a line is no JSON object.
    """
    return list(islice(read_jsonl(path), limit))


def run(config: PairsConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Write `train.jsonl`, `val.jsonl` and `test.jsonl` in `directory` from what stage `data` prepared.

    Returns:
        The number of pairs, contents and styles of each split; with `config.clip`, what was asked for but not to be had.

    Raises:
        MissingError: the data root has not been prepared.
        RequestError: a split cannot give as many pairs, and `config.clip` is off.
    """
    material = read_material(data_root, config.seed, data_root / "coco" / "contents.jsonl", data_root / "wikiart")
    summary: dict[str, Any] = {}
    for split, asked in (("train", config.train), ("val", config.val), ("test", config.test)):
        crossed = config.crossed if split == "test" else None
        make = _crossed if crossed is not None else _balanced
        lines, clipped = make(material[split], crossed or (asked,), config)
        summary[split] = {
            "pairs": write_pairs(directory / f"{split}.jsonl", lines),
            "contents": len(material[split].contents.ids),
            "styles": sum(len(side.ids) for side in material[split].styles),
            "labels": len(material[split].labels),
            **({"asked": clipped} if clipped else {}),
        }
    return summary


Made = tuple[Iterator[str], Sequence[int]]


def _balanced(material: Material, asked: Sequence[int], config: PairsConfig) -> Made:
    count = min(asked[0], material.places().capacity) if config.clip else asked[0]
    return balanced_lines(material, count, config.seeds), [] if count == asked[0] else asked


def _crossed(material: Material, asked: Sequence[int], config: PairsConfig) -> Made:
    contents, styles = asked
    if config.clip:
        contents = min(contents, len(material.contents.ids))
        styles = min(styles, sum(len(side.ids) for side in material.styles))
    lines = crossed_lines(material, contents, styles, config.seeds)
    return lines, [] if (contents, styles) == tuple(asked) else asked


def _styles_by_turns(material: Material) -> Iterator[tuple[int, int]]:
    """(label, picture) a label at a time; a label that has no more is passed over."""
    sizes = material.places().pictures
    for picture in range(max(sizes, default=0)):
        yield from ((label, picture) for label, size in enumerate(sizes) if picture < size)


def _lines(material: Material, places: Iterable[tuple[int, int, int]], seeds: Sequence[int]) -> Iterator[str]:
    """Rows as text. Written by hand from prepared fragments: json.dumps would take most of the time of a million."""
    contents, styles = material.contents, material.styles
    labels = [encode_basestring(label) for label in material.labels]
    end = f'"seeds": [{", ".join(map(str, seeds))}], "split": "{material.split}"}}'
    draw = _caption_drawer(material.seed)
    for place, label, picture in places:
        row, side = contents.order[place], styles[label]
        style = side.order[picture]
        content_id, style_id = contents.ids[row], side.ids[style]
        first = contents.first_caption[row]
        index = draw(content_id, style_id) % (contents.first_caption[row + 1] - first)
        yield (
            f'{{"pair_id": "{content_id}_{style_id}", "content_id": "{content_id}", '
            f'"content_path": {contents.paths[row]}, "style_id": "{style_id}", "style_path": {side.paths[style]}, '
            f'"style": {labels[label]}, "prompt": {contents.captions[first + index]}, "caption_index": {index}, {end}'
        )


def _caption_drawer(seed: int) -> Callable[[str, str], int]:
    """A number a pair, from its ids and the seed alone: which caption it takes does not depend on the list's length."""
    begun = hashlib.sha256(f"{seed}:caption:".encode())

    def draw(content_id: str, style_id: str) -> int:
        state = begun.copy()
        state.update(f"{content_id}_{style_id}".encode())
        return int.from_bytes(state.digest()[:8], "big")

    return draw


def _hash(seed: int, what: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed}:{what}:{name}".encode()).digest()[:16]
