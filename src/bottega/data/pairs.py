"""Which content meets which style: pair lists that are balanced, free of repeats, and begin with shorter ones.

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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from json.encoder import encode_basestring
from math import lcm
from pathlib import Path
from typing import Any

from bottega.data.config import ListConfig, PairsConfig
from bottega.data.contents import relative
from bottega.data.records import read_contents, read_styles
from bottega.data.splits import SPLITS
from bottega.runtime.errors import RequestError
from bottega.runtime.files import atomic_path

_LINES_AT_ONCE = 4096


@dataclass(frozen=True)
class BalancedOrder:
    """A balanced list's combinatorics: positions in the shuffled orders of contents, labels and a label's pictures."""

    contents: int
    pictures: tuple[int, ...]
    """Pictures of each label."""

    @property
    def capacity(self) -> int:
        """Pairs before the scarcest label would have to repeat one."""
        return len(self.pictures) * self.contents * min(self.pictures, default=0)

    def walk(self, count: int) -> Iterator[tuple[int, int, int]]:
        """(content, label, picture of the label) of the pairs 0 … `count` - 1; `count` is at most the capacity."""
        labels, contents = len(self.pictures), self.contents
        first = [label * contents // labels for label in range(labels)]
        period = [lcm(pictures, contents) for pictures in self.pictures]
        for turn in range(-(-count // labels) if count else 0):
            for label in range(min(labels, count - turn * labels)):
                content = (first[label] + turn + turn // period[label]) % contents
                yield content, label, turn % self.pictures[label]


class Side:
    """Contents, or the style pictures of one label, as fragments of JSON in UTF-8; once shuffled, in their order."""

    def __init__(self) -> None:
        self.ids: list[bytes] = []
        self.rows: list[bytes] = []
        """What of a row does not depend on the partner: path, and a style's label."""
        self.captions: list[bytes] = []
        """A content's captions as JSON strings, one a line: one object for all of them saves half of the memory."""
        self.draws = array("Q")
        """A number from the id and the seed: a content's and a style's together draw the caption."""

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, identity: str, row: str, captions: Sequence[str] = ()) -> None:
        """Append a picture."""
        self.ids.append(identity.encode())
        self.rows.append(row.encode())
        self.captions.append("\n".join(map(encode_basestring, captions or ("",))).encode())

    def shuffle(self, seed: int, what: str) -> None:
        """Order by a keyed hash of the ids: adding a picture inserts it and moves no other."""
        keys = [_hash(seed, what, identity) for identity in self.ids]
        order = sorted(range(len(keys)), key=keys.__getitem__)
        self.draws = array("Q", (int.from_bytes(keys[row][8:]) for row in order))
        for column in (self.ids, self.rows, self.captions):
            column[:] = [column[row] for row in order]


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
        row = f'"style_path": {encode_basestring(path)}, "style": {encode_basestring(label)}, '
        self._by_label[label].add(identity, row)

    def add_content(self, identity: str, path: str, captions: Sequence[str]) -> None:
        """Append a content."""
        self.contents.add(identity, f'"content_path": {encode_basestring(path)}, ', captions)

    def shuffle(self) -> None:
        """Fix all orders; call once when everything is added."""
        self.contents.shuffle(self.seed, "content")
        self.labels = sorted(self._by_label, key=lambda label: _hash(self.seed, "label", label.encode()))
        for side in self.styles:
            side.shuffle(self.seed, "style")

    def places(self) -> BalancedOrder:
        """The combinatorics of a balanced list."""
        return BalancedOrder(len(self.contents), tuple(map(len, self.styles)))


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
    found = {split: Material(split, seed) for split in SPLITS}
    for content in read_contents(contents):
        if content.split in found:
            found[content.split].add_content(content.content_id, content.content_path, content.captions)
    prefix = relative(styles, data_root)
    for style in read_styles(styles):
        found[style.split].add_style(style.style, style.id, f"{prefix}/{style.path}")
    for material in found.values():
        material.shuffle()
    return found


def balanced_lines(material: Material, count: int, seeds: Sequence[int]) -> Iterator[bytes]:
    """The first `count` pairs of the balanced list as JSON lines.

    Raises:
        RequestError: the split cannot give so many different pairs.
    """
    check_count(material, count)
    return _lines(material, material.places().walk(count), seeds)


def crossed_lines(material: Material, contents: int, styles: int, seeds: Sequence[int]) -> Iterator[bytes]:
    """All combinations of `contents` contents and `styles` style pictures, the latter balanced over labels to ±1.

    Ordered so that every prefix spreads over contents and styles alike.

    Raises:
        RequestError: the split holds fewer.
    """
    have = (len(material.contents), sum(map(len, material.styles)))
    if contents > have[0] or styles > have[1]:
        raise RequestError(
            f"a crossed list of {contents} contents x {styles} styles needs that many in split {material.split}, which "
            f"has {have[0]} and {have[1]}; ask for fewer (pairs.crossed), or prepare more pictures"
        )
    chosen = list(islice(_styles_by_turns(material), styles))
    cells = BalancedOrder(contents, (styles,)).walk(contents * styles)
    return _lines(material, ((content, *chosen[style]) for content, _, style in cells), seeds)


def check_count(material: Material, count: int) -> None:
    """Raise RequestError where a split cannot give `count` different balanced pairs."""
    capacity = material.places().capacity
    if count > capacity:
        raise RequestError(
            f"{count} different pairs, balanced over styles, were asked of split {material.split}, which can give "
            f"{capacity} ({len(material.contents)} contents, {len(material.labels)} style labels with at least "
            f"{min(material.places().pictures, default=0)} pictures each); ask for fewer or prepare more pictures"
        )


def write_pairs(path: Path, lines: Iterable[bytes]) -> int:
    """Write JSON lines whole or not at all, as a stream; returns their number."""
    count = 0
    lines = iter(lines)
    with atomic_path(path) as draft, draft.open("wb") as stream:
        while block := list(islice(lines, _LINES_AT_ONCE)):
            stream.write(b"".join(block))
            count += len(block)
    return count


def run(config: PairsConfig, directory: Path, *, data_root: Path) -> dict[str, Any]:
    """Write `train.jsonl`, `val.jsonl` and `test.jsonl` in `directory` from what stage `data` prepared.

    Returns:
        The number of pairs, contents and styles of each split; with `config.clip`, what was asked in vain.

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
            "contents": len(material[split].contents),
            "styles": sum(map(len, material[split].styles)),
            "labels": len(material[split].labels),
            **({"asked": clipped} if clipped else {}),
        }
    return summary


def write_list(
    config: ListConfig, output: Path, *, data_root: Path, contents: Path | None = None, styles: Path | None = None
) -> dict[str, Any]:
    """Write one pair list of one split, as `bottega data pairs` does.

    Args:
        config: how many pairs, of which split.
        output: the JSON lines file.
        data_root: what the paths in it are relative to.
        contents: `contents.jsonl`, if not `coco/contents.jsonl` of the data root.
        styles: folder of `meta.csv`, if not `wikiart/` of the data root.

    Raises:
        MissingError: contents or styles have not been prepared.
        RequestError: the split cannot give as many pairs.
    """
    contents, styles = contents or data_root / "coco" / "contents.jsonl", styles or data_root / "wikiart"
    material = read_material(data_root, config.seed, contents, styles)[config.split]
    if config.crossed is not None:
        lines = crossed_lines(material, *config.crossed, config.seeds)
    else:
        lines = balanced_lines(material, config.num_pairs, config.seeds)
    return {
        "pairs": write_pairs(output, lines),
        "contents": len(material.contents),
        "styles": sum(map(len, material.styles)),
        "labels": len(material.labels),
    }


Made = tuple[Iterator[bytes], Sequence[int]]


def _balanced(material: Material, asked: Sequence[int], config: PairsConfig) -> Made:
    count = min(asked[0], material.places().capacity) if config.clip else asked[0]
    return balanced_lines(material, count, config.seeds), [] if count == asked[0] else asked


def _crossed(material: Material, asked: Sequence[int], config: PairsConfig) -> Made:
    contents, styles = asked
    if config.clip:
        contents = min(contents, len(material.contents))
        styles = min(styles, sum(map(len, material.styles)))
    lines = crossed_lines(material, contents, styles, config.seeds)
    return lines, [] if (contents, styles) == tuple(asked) else asked


def _styles_by_turns(material: Material) -> Iterator[tuple[int, int]]:
    """(label, picture) a label at a time; a label that has no more is passed over."""
    sizes = material.places().pictures
    for picture in range(max(sizes, default=0)):
        yield from ((label, picture) for label, size in enumerate(sizes) if picture < size)


def _lines(material: Material, places: Iterable[tuple[int, int, int]], seeds: Sequence[int]) -> Iterator[bytes]:
    """Rows as text. Put together from prepared fragments: json.dumps would take most of the time of a million."""
    contents, styles = material.contents, material.styles
    end = f'"seeds": [{", ".join(map(str, seeds))}], "split": "{material.split}"}}\n'.encode()
    for row, label, picture in places:
        side = styles[label]
        content_id, style_id = contents.ids[row], side.ids[picture]
        captions = contents.captions[row].split(b"\n")
        index = (contents.draws[row] ^ side.draws[picture]) % len(captions)
        yield (
            b'{"pair_id": "%b_%b", "content_id": "%b", %b"style_id": "%b", %b"prompt": %b, "caption_index": %d, %b'
            % (
                content_id,
                style_id,
                content_id,
                contents.rows[row],
                style_id,
                side.rows[picture],
                captions[index],
                index,
                end,
            )
        )


def _hash(seed: int, what: str, name: bytes) -> bytes:
    return hashlib.sha256(b"%d:%b:%b" % (seed, what.encode(), name)).digest()[:16]
