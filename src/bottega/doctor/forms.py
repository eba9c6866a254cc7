"""A log's bytes in one spelling, so that all that follows knows one kind of line: text in UTF-8 without colours, the
words of Chinese logs in English, the rows of tables as `name=value`, a JSON document as one object a line.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from bottega.doctor.lines import real

HEAD = 1 << 16
"""Bytes of a chunk in which the header of a table is looked for, as long as no loss was found."""

DOCUMENT = 1 << 26
"""Bytes that a JSON document may have to be read whole; a longer one is read by lines."""

_COLOUR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_SIGNS = {"：": ": ", "，": ", ", "。": ". ", "；": "; ", "（": " (", "）": ") ", "【": " [", "】": "] ", "｜": " | "}
_WORDS = {
    **dict.fromkeys(("验证损失", "验证集损失", "验证集平均损失", "驗證損失"), "val_loss"),
    **dict.fromkeys(("测试损失", "测试集损失", "測試損失"), "test_loss"),
    **dict.fromkeys(("训练损失", "训练集损失", "訓練損失", "学習損失"), "train_loss"),
    **dict.fromkeys(("平均损失", "平均損失"), "avg_loss"),
    **dict.fromkeys(("损失值", "损失", "損失"), "loss"),
    **dict.fromkeys(("训练轮次", "训练轮数", "轮次", "轮数", "輪次", "エポック"), "epoch"),
    **dict.fromkeys(("迭代次数", "步数", "步骤", "步", "迭代", "ステップ"), "step"),
    **dict.fromkeys(("学习率", "學習率", "学習率"), "lr"),
}
_STRANGE = {word: f" {plain} " for word, plain in _WORDS.items()} | _SIGNS
_STRANGER = re.compile("步长|" + "|".join(sorted(map(re.escape, _STRANGE), key=len, reverse=True)))
_ORDINAL = re.compile(
    r"第\s*(\d+)\s*(?:[/／]\s*(\d+)\s*)?个?\s*(轮次?|輪|epoch|步|次迭代)(?:\s*[/／,，(（]?\s*共\s*(\d+)\s*[轮步輪])?"
)
_LOSS_WORDS = ("损失".encode(), "損失".encode())
_LOSS_IN_GBK = "损失".encode("gbk")

_NAME = re.compile(rb"[A-Za-z_][\w /.()@%-]{0,60}")
_WANTED = re.compile(rb"loss|epoch|step|iter|^lr|learning", re.I)
_CELL = re.compile(rb"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|\d+/\d+|[-+]?(?:nan|inf(?:inity)?)|none|", re.I)
_PAIR = re.compile(rb"\|\s*([A-Za-z_][\w/]*)\s*\|\s*(\S*)\s*\|\s*")
_PAIRED_LOSS = re.compile(rb"^\|\s*(?:\w+/)?loss\s*\|\s*[\d.-]", re.M)

_BAR = re.compile(rb"%\|[^|\n]{0,400}\| *(\d{1,12})/(\d{1,12}) \[[\d:]+<[\d:?]+, *([\d.]+)(s/it|it/s)\]")
_TAIL = 1 << 12
"""Bytes at the end of a block in which a bar without a loss is looked for."""

AGREES = 0.02
"""A bar is of the whole run where it stands as far as the epochs do, to this share of the plan."""


def chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """A file by pieces of about `size` bytes: UTF-8 where it was UTF-16 (as Windows' PowerShell redirects output), and
    a line feed for each carriage return."""
    wide = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-16")("replace") if wide else None
    while chunk := stream.read(size):
        if decoder is not None:
            chunk = decoder.decode(chunk).encode("utf-8", "replace")
        yield chunk.replace(b"\r", b"\n")


def document(path: Path) -> Iterator[bytes] | None:
    """The objects with losses in a JSON document, one a line, after what it says of the plan (transformers'
    trainer_state.json); None where the file is none."""
    with open(path, "rb") as stream:
        first = stream.readline(256).strip()
    if (path.suffix != ".json" and first not in (b"{", b"[")) or path.stat().st_size > DOCUMENT:
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None  # objects by lines may bear that suffix, too
    return _objects(found)


def _objects(found: Any) -> Iterator[bytes]:
    values = found.values() if isinstance(found, dict) else [found]
    for name in ("max_steps", "num_train_epochs"):
        if isinstance(found, dict) and isinstance(found.get(name), int):
            yield f"{name.replace('max_', 'max_train_')} = {found[name]}\n".encode()
    for rows in values:
        if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
            yield from (json.dumps(row).encode() + b"\n" for row in rows)
    if isinstance(found, dict) and isinstance(found.get("loss"), list):  # Keras' History: a list a name
        series = {name: values for name, values in found.items() if isinstance(values, list)}
        for place in range(len(found["loss"])):
            row = {name: values[place] for name, values in series.items() if place < len(values)}
            yield json.dumps({"epoch": place + 1, **row}).encode() + b"\n"


def _english(text: bytes) -> bytes:
    """Text with English words where a Chinese or Japanese one for the loss is in it; any other as it is."""
    if any(word in text for word in _LOSS_WORDS):
        strange = text.decode("utf-8", "replace")
    elif _LOSS_IN_GBK in text:
        strange = text.decode("gbk", "replace")
    else:
        return text
    return _STRANGER.sub(lambda m: _STRANGE.get(m[0], m[0]), _ORDINAL.sub(_ordinal, strange)).encode()


def _ordinal(m: re.Match[str]) -> str:
    """`第 3/200 轮` in English."""
    total = m[2] or m[4]
    return f" {'step' if m[3] in ('步', '次迭代') else 'epoch'} {m[1]}{f'/{total}' if total else ''} "


class Speller:
    """Brings whole lines into the one spelling; what it found in the first lines holds for the later ones.

    Rows of tables become lines of `name=value`, with the names of a header above them or of the cell beside them.
    """

    def __init__(self) -> None:
        self._foreign = False
        self._split: bytes | None = None
        self._names: list[bytes] = []
        self._paired = False
        self._pairs: list[bytes] = []

    def lines(self, text: bytes, *, search: bool) -> bytes:
        """Whole lines, rewritten where need be. search: no loss was found yet, so that a table or another language may
        begin here."""
        if b"\x1b" in text:
            text = _COLOUR.sub(b"", text)
        if (search or self._foreign) and not text.isascii():
            text, given = _english(text), text
            self._foreign = self._foreign or text is not given
        if search and not self._names and not self._paired:
            self._paired = _PAIRED_LOSS.search(text, 0, HEAD) is not None
            head = [line for line in text[:HEAD].split(b"\n") if line.strip()]
            any(self._begins(*two) for two in pairwise(head))
        if self._paired:
            return b"\n".join(self._join(text.split(b"\n")))
        if self._names:
            return b"\n".join(map(self._row, text.split(b"\n")))
        return text

    def _begins(self, line: bytes, below: bytes) -> bool:
        """Whether a line is a header, which the one below it proves."""
        if b"oss" not in line and b"OSS" not in line:
            return False
        for split in (b",", b";", b"\t", None):
            self._split = split
            self._names = self._cells(line)
            named = all(map(_NAME.fullmatch, self._names)) and any(b"loss" in name.lower() for name in self._names)
            if named and len(self._names) > 1 and (self._row(below) != below or split is not None):
                return True
        self._names = []
        return False

    def _cells(self, line: bytes) -> list[bytes]:
        return [cell.strip(b" \"'") for cell in line.strip(b"\n " if self._split else None).split(self._split)]

    def _row(self, line: bytes) -> bytes:
        """A row with as many cells as names (where spaces part them, a bar may follow); any other line as it is."""
        cells = self._cells(line)
        if len(cells) < len(self._names) or (self._split is not None and len(cells) > len(self._names)):
            return line
        wanted = [(n, c) for n, c in zip(self._names, cells, strict=False) if _WANTED.search(n)]
        if not all(_CELL.fullmatch(cell) for _, cell in wanted) or not any(cell[:1].isdigit() for _, cell in wanted):
            return line
        return _said(wanted)

    def _join(self, lines: list[bytes]) -> Iterator[bytes]:
        """Neighbouring lines `| name | value |` as one."""
        for line in lines[:-1]:
            pair = _PAIR.fullmatch(line)
            if pair is not None and len(self._pairs) < 200:
                self._pairs += [pair[1], pair[2]]
                continue
            if self._pairs:
                pairs = zip(self._pairs[::2], self._pairs[1::2], strict=True)
                yield _said([(n, c) for n, c in pairs if _WANTED.search(n) and _CELL.fullmatch(c)])
                self._pairs = []
            yield line
        yield lines[-1]


class Bars:
    """Progress bars between the lines with losses, as transformers' Trainer has them: step, steps, seconds a step."""

    def __init__(self) -> None:
        self._longest: tuple[int, int, float] | None = None
        self._begun = 0

    def see(self, block: bytes) -> None:
        """Take note of the longest bar, where it stands at the block's end."""
        for step, steps, pace, way in ((int(m[1]), int(m[2]), real(m[3]), m[4]) for m in _BAR.finditer(block[-_TAIL:])):
            if pace > 0 and steps >= (self._longest or (0, 1))[1]:
                self._begun += self._longest is None or steps > self._longest[1] or 2 * step < self._longest[0]
                self._longest = step, steps, 1 / pace if way == b"it/s" else pace

    def whole(self, epoch: float | None, epochs: int | None) -> tuple[int, int, float] | None:
        """That of the whole run: it stands where the epochs do, or never began anew where no plan is known."""
        if self._longest is None or not epoch:
            return None
        agrees = abs(self._longest[0] / self._longest[1] - epoch / epochs) < AGREES if epochs else self._begun == 1
        return self._longest if agrees else None


def marked(block: bytes, marks: tuple[bytes, ...]) -> Iterator[bytes]:
    """The lines of a block that have one of the marks, in their order."""
    if block.count(b"oss") * 160 > len(block):  # nearly every line: splitting is quicker than searching
        yield from (line for line in block.split(b"\n") if any(mark in line for mark in marks))
        return
    found: dict[int, bytes] = {}
    for mark in marks:
        at = block.find(mark)
        while at >= 0:
            begin, end = block.rfind(b"\n", 0, at) + 1, block.find(b"\n", at)
            found[begin] = block[begin : end if end >= 0 else len(block)]
            at = block.find(mark, end) if end >= 0 else -1
    yield from (found[begin] for begin in sorted(found))


def _said(cells: list[tuple[bytes, bytes]]) -> bytes:
    said = []
    for name, cell in cells:
        name = re.sub(rb"[^\w/]+", b"_", name)
        if b"loss" not in name.lower():
            name = name.rsplit(b"/", 1)[-1] if not name.startswith(b"lr") else name
            if b"step" in name.lower() and b"e" in cell.lower():
                cell = str(int(float(cell))).encode() if float(cell) < 1e15 else b""
        if cell and cell.lower() != b"none":
            said.append(name + b"=" + cell)
    return b" ".join(said)
