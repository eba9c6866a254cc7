"""Tables of losses, rewritten so that each row becomes a line of `name=value` as other logs have it.

Two forms are known: a header above rows (CSV, a notebook's or fastai's table), and a name beside each value, over
several lines (guided-diffusion: `| loss | 0.01 |`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from bottega.doctor.logs.lines import LossKind, loss_kind
from bottega.doctor.logs.sides import LONGEST_NAME, is_rate, side_of

HEAD = 1 << 16
"""Bytes of a chunk in which the header of a table is looked for, as long as no loss was found."""

MAX_PAIRS = 100
"""Cells of one record whose names are beside them: more lines without a rule between are no record."""

_NAME = re.compile(rb"[A-Za-z_][\w /.()@%-]{0,60}")
_WANTED = re.compile(rb"loss|epoch|step|iter", re.I)
_BOUNDS = (b"__MIN", b"__MAX")  # of a column that Weights & Biases exports, over the lines that it made one
_CELL = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\d+/\d+|[-+]?(?:nan|inf(?:inity)?)|none|", re.I)
_PAIR = re.compile(rb"\|\s*([A-Za-z_][\w/]*)\s*\|\s*(\S*)\s*\|\s*")
_PAIRED_LOSS = re.compile(rb"^\|\s*(?:\w+/)?loss\s*\|\s*[\d.-]", re.M)
_OF_TENSORBOARD = re.compile(rb"\"?wall time\"?,\"?step\"?,\"?value\"?\s*", re.I)
_SEPARATORS = (b",", b";", b"\t", None)  # None: any number of spaces

Cells = list[tuple[bytes, bytes]]
"""(name, value) of a row."""


class TableRewriter:
    """Rewrites the rows of a table; what it found in the first lines holds for the later ones.

    Args:
        path: of the log; its name holds the tag that TensorBoard exported.

    Attributes:
        notes: what was taken for a loss without being called one.
    """

    def __init__(self, path: Path) -> None:
        self.notes: list[str] = []
        self._path = path
        self._separator: bytes | None = None
        self._names: list[bytes] = []  # of the columns, once a header was found
        self._is_paired = False  # a name is beside each value
        self._pairs: Cells = []  # of the record that is being read

    def rewrite(self, text: bytes, *, search: bool) -> bytes:
        """Whole lines, rows of a table rewritten. search: a table may begin here."""
        if search and not self._names and not self._is_paired:
            self._look_for_a_table(text)
        if self._is_paired:
            return b"\n".join(self._join_pairs(text.split(b"\n")))
        if self._names:
            return b"\n".join(map(self._rewrite_row, text.split(b"\n")))
        return text

    def _look_for_a_table(self, text: bytes) -> None:
        self._is_paired = _PAIRED_LOSS.search(text, 0, HEAD) is not None
        head = [line for line in text[:HEAD].split(b"\n") if line.strip()]
        if head and _OF_TENSORBOARD.fullmatch(head[0]):
            self._separator = b","
            self._names = [b"Wall time", b"Step", self._exported_tag().encode()]
            return
        for line, below in pairwise(head):
            if self._is_header(line, below):
                return

    def _exported_tag(self) -> str:
        """What TensorBoard's CSV is of: `run-x-tag-train_loss.csv`. A file of another name is taken for a loss's."""
        _, mark, tag = self._path.stem.rpartition("-tag-")
        kind = loss_kind(tag or self._path.stem)
        if mark and kind is LossKind.NONE:
            return tag[:LONGEST_NAME].encode("ascii", "replace").decode()
        if kind is LossKind.NONE:
            self.notes.append("TensorBoard's CSV does not say what it is of, nor does the file's name: read as a loss")
        elif kind is LossKind.VALIDATION:
            self.notes.append("by the file's name the losses are those of a validation")
        return "loss"

    def _is_header(self, line: bytes, below: bytes) -> bool:
        """Whether a line is a header, which the one below it proves; if so, its names are kept."""
        if b"oss" not in line and b"OSS" not in line:
            return False
        for separator in _SEPARATORS:
            self._separator = separator
            self._names = self._split(line)
            all_are_names = all(map(_NAME.fullmatch, self._names))
            has_loss = any(b"loss" in name.lower() for name in self._names)
            if not all_are_names or not has_loss or len(self._names) < 2:
                continue
            # words in a sentence are names too: parted by spaces alone, the row below must be one of numbers
            if separator is not None or self._rewrite_row(below) != below:
                self._names = list(map(_without_run, self._names))
                return True
        self._names = []
        return False

    def _split(self, line: bytes) -> list[bytes]:
        line = line.strip(b"\n " if self._separator else None)
        return [cell.strip(b" \"'") for cell in line.split(self._separator)]

    def _rewrite_row(self, line: bytes) -> bytes:
        """A row with as many cells as names (where spaces part them, a bar may follow); any other line as it is."""
        cells = self._split(line)
        has_surplus = self._separator is not None and len(cells) > len(self._names)
        if len(cells) < len(self._names) or has_surplus:
            return line
        wanted = self._wanted_cells(cells)
        # a sentence of as many words as there are columns is no row
        are_values = all(_CELL.fullmatch(cell) for _, cell in wanted)
        has_number = any(cell[:1].isdigit() for _, cell in wanted)
        if not are_values or not has_number:
            return line
        return _as_line(wanted)

    def _wanted_cells(self, cells: list[bytes]) -> Cells:
        """The cells of a row that say something of the training."""
        wanted = []
        for name, cell in zip(self._names, cells, strict=False):
            if _is_beside(name):
                is_wanted = _CELL.fullmatch(cell) is not None  # a time of 00:12 is no reason to drop the row
            else:
                is_wanted = _WANTED.search(name) is not None and not name.endswith(_BOUNDS)
            if is_wanted:
                wanted.append((name, cell))
        return wanted

    def _join_pairs(self, lines: list[bytes]) -> Iterator[bytes]:
        """Neighbouring lines `| name | value |` as one."""
        for line in lines[:-1]:
            pair = _PAIR.fullmatch(line)
            if pair is not None and len(self._pairs) < MAX_PAIRS:
                self._pairs.append((pair[1], pair[2]))
                continue
            if self._pairs:
                yield self._take_record()
            yield line
        yield lines[-1]

    def _take_record(self) -> bytes:
        """The pairs that were read so far as one line; the next pair begins another record."""
        wanted = []
        for name, cell in self._pairs:
            is_wanted = _WANTED.search(name) is not None or _is_beside(name)
            if is_wanted and _CELL.fullmatch(cell):
                wanted.append((name, cell))
        self._pairs = []
        return _as_line(wanted)


def _without_run(name: bytes) -> bytes:
    """Without the name of the run, which Weights & Biases puts before that of a column."""
    return name.rsplit(b" - ", 1)[-1]


def _as_line(cells: Cells) -> bytes:
    """`step=3 loss=0.1`; blank cells are left out."""
    pairs = []
    for name, cell in cells:
        if cell and cell.lower() != b"none":
            pairs.append(_as_pair(name, cell))
    return b" ".join(filter(None, pairs))


def _as_pair(name: bytes, cell: bytes) -> bytes:
    """`loss=0.1`: the name as a word, without its group unless it is a loss; empty for a step that no run reaches."""
    name = re.sub(rb"[^\w/]+", b"_", name)
    side = _side(name)
    if side is not None:  # under one name, so that seconds_per_step is not taken for a step
        return side.encode() + b"=" + cell
    if b"loss" in name.lower():
        return name + b"=" + cell
    if _is_rate(name):
        return b"lr=" + cell
    name = name.rsplit(b"/", 1)[-1]
    if b"step" in name.lower() and b"e" in cell.lower():
        cell = _whole_number(cell)
        if not cell:
            return b""
    return name + b"=" + cell


@lru_cache(512)
def _side(name: bytes) -> str | None:
    """Which column beside the loss a name stands for."""
    return side_of(name.lower().rsplit(b"/", 1)[-1].decode("ascii", "replace"))


@lru_cache(512)
def _is_rate(name: bytes) -> bool:
    return is_rate(name.lower().decode("ascii", "replace"))


def _is_beside(name: bytes) -> bool:
    """Whether a name is that of a rate, or of another column beside the loss."""
    return _side(name) is not None or _is_rate(name)


def _whole_number(cell: bytes) -> bytes:
    """A step of `1.2e+04` in digits; empty for one that no run reaches."""
    number = float(cell)
    return str(int(number)).encode() if number < 1e15 else b""
