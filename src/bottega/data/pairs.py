"""Which content meets which style: pair lists that are balanced, free of repeats, and begin with shorter ones.

A list is a function of its index, nothing is drawn in a loop. With L labels, n contents, m pictures of a label:

    pair i:   round r = i div L,  label l = i mod L                     labels differ by at most one at every prefix
              style  = (r mod m)-th picture of the label                 so do the pictures of a label
              content = (first(l) + r + r div lcm(m, n)) mod n           all n·m combinations before any comes twice

where labels, pictures and contents are in an order shuffled by hashing their ids with the seed, and first(l) spreads
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

from bottega.data.config import ListConfig, PairsConfig
from bottega.data.contents import relative
from bottega.data.records import read_contents, read_styles
from bottega.data.splits import SPLITS
from bottega.runtime.errors import RequestError
from bottega.runtime.files import atomic_path
from bottega.runtime.locks import LOCK, lock
from bottega.runtime.trust import renew, seal

_LINES_AT_ONCE = 4096  # lines a write: a megabyte or so
ListSizes = dict[str, int | tuple[int, ...]]
"""Counts of one list; `asked` is what was asked for where it was too many."""

Position = tuple[int, int, int]
"""(content, label, picture of the label), each its position in a shuffled order."""


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

    def positions(self, count: int) -> Iterator[Position]:
        """Positions of the pairs 0 … `count` - 1; `count` is at most the capacity. See the head."""
        if count == 0:
            return
        labels, contents = len(self.pictures), self.contents
        first = [label * contents // labels for label in range(labels)]
        period = [lcm(pictures, contents) for pictures in self.pictures]
        rounds = -(-count // labels)  # rounded up: the last round may be cut
        for number in range(rounds):
            for label in range(min(labels, count - number * labels)):
                content = (first[label] + number + number // period[label]) % contents
                yield content, label, number % self.pictures[label]


class Fragments:
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
        # From the half of the hash that hardly ever decides the order, so that neighbours draw independently.
        self.draws = array("Q", (int.from_bytes(keys[row][8:]) for row in order))
        for column in (self.ids, self.rows, self.captions):
            column[:] = [column[row] for row in order]


class Material:
    """The contents and styles of one split that pairs are made of."""

    def __init__(self, split: str, seed: int) -> None:
        self.split, self.seed = split, seed
        self.contents = Fragments()
        self._by_label: dict[str, Fragments] = defaultdict(Fragments)
        self.labels: list[str] = []

    @property
    def styles(self) -> list[Fragments]:
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

        def place(label: str) -> bytes:
            return _hash(self.seed, "label", label.encode())

        self.labels = sorted(self._by_label, key=place)
        for side in self.styles:
            side.shuffle(self.seed, "style")

    def order(self) -> BalancedOrder:
        """The combinatorics of a balanced list."""
        return BalancedOrder(len(self.contents), tuple(map(len, self.styles)))

    def sizes(self) -> dict[str, int]:
        """How many contents, style pictures and labels there are, for a summary."""
        return {
            "contents": len(self.contents),
            "styles": sum(map(len, self.styles)),
            "labels": len(self.labels),
        }


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
    # Both tables are streamed into fragments of JSON: rows as objects would take several times the memory.
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
    return _lines(material, material.order().positions(count), seeds)


def crossed_lines(material: Material, contents: int, styles: int, seeds: Sequence[int]) -> Iterator[bytes]:
    """All combinations of `contents` contents and `styles` style pictures, the latter balanced over labels to ±1.

    Ordered so that every prefix spreads over contents and styles alike.

    Raises:
        RequestError: the split holds fewer.
    """
    sizes = material.sizes()
    if contents > sizes["contents"] or styles > sizes["styles"]:
        raise RequestError(
            f"a crossed list of {contents} contents x {styles} styles needs that many in split {material.split}, which "
            f"has {sizes['contents']} and {sizes['styles']}; ask for fewer (pairs.crossed), or prepare more pictures"
        )
    return _lines(material, _crossed_positions(material, contents, styles), seeds)


def _crossed_positions(material: Material, contents: int, styles: int) -> Iterator[Position]:
    """The combinations in the order of a balanced list of one label, which all chosen style pictures share."""
    chosen = list(islice(_styles_by_turns(material), styles))
    for content, _, number in BalancedOrder(contents, (styles,)).positions(contents * styles):
        label, picture = chosen[number]
        yield content, label, picture


def _styles_by_turns(material: Material) -> Iterator[tuple[int, int]]:
    """(label, picture), one of each label in turn; a label that has no more is passed over."""
    sizes = material.order().pictures
    for picture in range(max(sizes, default=0)):
        for label, size in enumerate(sizes):
            if picture < size:
                yield label, picture


def check_count(material: Material, count: int) -> None:
    """Raise RequestError where a split cannot give `count` different balanced pairs."""
    order = material.order()
    if count > order.capacity:
        raise RequestError(
            f"{count} different pairs, balanced over styles, were asked of split {material.split}, which can give "
            f"{order.capacity} ({order.contents} contents, {len(order.pictures)} style labels with at least "
            f"{min(order.pictures, default=0)} pictures each); ask for fewer or prepare more pictures"
        )


def write_pairs(path: Path, lines: Iterable[bytes]) -> int:
    """Write JSON lines whole or not at all, as a stream; returns their number."""
    count = 0
    lines = iter(lines)
    with lock(path.parent / LOCK, "writing pairs"), atomic_path(path) as draft, draft.open("wb") as stream:
        while block := list(islice(lines, _LINES_AT_ONCE)):
            stream.write(b"".join(block))
            count += len(block)
    return count


def run(config: PairsConfig, directory: Path, *, data_root: Path) -> dict[str, ListSizes]:
    """Write `train.jsonl`, `val.jsonl` and `test.jsonl` in `directory` from what stage `data` prepared.

    Returns:
        Counts of each split; with `config.clip`, also what was asked for where it was too many.

    Raises:
        MissingError: the data root has not been prepared.
        RequestError: a split cannot give as many pairs, and `config.clip` is off.
    """
    material = read_material(data_root, config.seed, data_root / "coco" / "contents.jsonl", data_root / "wikiart")
    summary: dict[str, ListSizes] = {}
    for split, count in (("train", config.train), ("val", config.val), ("test", config.test)):
        if split == "test" and config.crossed is not None:
            lines, too_many = _crossed(material[split], config.crossed, config)
        else:
            lines, too_many = _balanced(material[split], count, config)
        written = write_pairs(directory / f"{split}.jsonl", lines)
        summary[split] = {"pairs": written, **material[split].sizes()}
        if too_many:
            summary[split]["asked"] = too_many
    seal(directory, {directory / f"{split}.jsonl": "result" for split in summary})
    return summary


def write_list(
    config: ListConfig, output: Path, *, data_root: Path, contents: Path | None = None, styles: Path | None = None
) -> dict[str, int]:
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
    contents = contents or data_root / "coco" / "contents.jsonl"
    styles = styles or data_root / "wikiart"
    material = read_material(data_root, config.seed, contents, styles)[config.split]
    if config.crossed is not None:
        lines = crossed_lines(material, *config.crossed, config.seeds)
    else:
        lines = balanced_lines(material, config.num_pairs, config.seeds)
    count = write_pairs(output, lines)
    renew(output)
    return {"pairs": count, **material.sizes()}


def _balanced(material: Material, count: int, config: PairsConfig) -> tuple[Iterator[bytes], tuple[int, ...]]:
    """The lines and, with `config.clip`, the number that was too many; else nothing."""
    possible = min(count, material.order().capacity) if config.clip else count
    lines = balanced_lines(material, possible, config.seeds)
    return lines, () if possible == count else (count,)


def _crossed(
    material: Material, crossed: tuple[int, int], config: PairsConfig
) -> tuple[Iterator[bytes], tuple[int, ...]]:
    """The lines and, with `config.clip`, the numbers that were too many; else nothing."""
    possible = crossed
    if config.clip:
        sizes = material.sizes()
        contents, styles = crossed
        possible = (min(contents, sizes["contents"]), min(styles, sizes["styles"]))
    lines = crossed_lines(material, *possible, config.seeds)
    return lines, () if possible == crossed else crossed


def _lines(material: Material, positions: Iterable[Position], seeds: Sequence[int]) -> Iterator[bytes]:
    """Rows as text, with every key of `records.Pair`."""
    # Put together from prepared fragments: json.dumps would take most of the time of a million pairs.
    contents, styles = material.contents, material.styles
    end = f'"seeds": [{", ".join(map(str, seeds))}], "split": "{material.split}"}}\n'.encode()
    for row, label, picture in positions:
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
