"""The bytes of a log as text of one kind: UTF-8, lines that end in a line feed, Chinese words in English."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import BinaryIO

LONGEST_LINE = 1 << 16
"""Bytes of a line; a longer one is no line of a log, and is left out. bottega's own have some thousand."""

COLOUR = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
"""A terminal's escape sequence."""

_PUNCTUATION = {
    "：": ": ",
    "，": ", ",
    "。": ". ",
    "；": "; ",
    "（": " (",
    "）": ") ",
    "【": " [",
    "】": "] ",
    "｜": " | ",
}
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
_TRANSLATIONS = {word: f" {english} " for word, english in _WORDS.items()} | _PUNCTUATION
_LONGEST_FIRST = sorted(map(re.escape, _TRANSLATIONS), key=len, reverse=True)
_FOREIGN = re.compile("步长|" + "|".join(_LONGEST_FIRST))  # 步长 is a step size and no step: it stays as it is
_ORDINAL = re.compile(
    r"第\s*(\d+)\s*(?:[/／]\s*(\d+)\s*)?个?\s*(轮次?|輪|epoch|步|次迭代)(?:\s*[/／,，(（]?\s*共\s*(\d+)\s*[轮步輪])?"
)
_LOSS_WORDS = ("损失".encode(), "損失".encode())
_LOSS_IN_GBK = "损失".encode("gbk")


def chunks(stream: BinaryIO, size: int) -> Iterator[bytes]:
    """A file by pieces of about `size` bytes: UTF-8 where it was UTF-16 (as Windows' PowerShell redirects output), a
    line feed for each carriage return, and no NUL, which a crash leaves where blocks were not written."""
    is_utf16 = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    stream.seek(0)
    decoder = codecs.getincrementaldecoder("utf-16")("replace") if is_utf16 else None
    while chunk := stream.read(size):
        if decoder is not None:
            chunk = decoder.decode(chunk).encode("utf-8", "replace")
        yield chunk.replace(b"\r", b"\n").replace(b"\0", b"")


class WholeLines:
    """Pieces of a file as whole lines, without those that are longer than `LONGEST_LINE`.

    num_overlong: how many of them there were. rest: what came after the last line feed.
    """

    def __init__(self) -> None:
        self.num_overlong = 0
        self.rest = b""
        self._is_inside_one = False

    def take(self, piece: bytes) -> bytes:
        """The whole lines that are known with this piece."""
        if self._is_inside_one:
            end = piece.find(b"\n")
            if end < 0:
                return b""
            self._is_inside_one = False
            piece = piece[end + 1 :]
        text = self.rest + piece
        end = text.rfind(b"\n") + 1
        self.rest = text[end:]
        if len(self.rest) > LONGEST_LINE:  # a file without line feeds must not fill the memory
            self.rest = b""
            self._is_inside_one = True
            self.num_overlong += 1
        return self._without_overlong(text[:end])

    def _without_overlong(self, text: bytes) -> bytes:
        """Whole lines; one is too long where no line feed is in the bytes that the longest may have."""
        kept = []
        begin = at = 0
        while len(text) - at > LONGEST_LINE:
            end = text.rfind(b"\n", at, at + LONGEST_LINE + 1)
            if end < 0:
                self.num_overlong += 1
                kept.append(text[begin:at])
                end = text.find(b"\n", at)
                begin = end + 1
            at = end + 1
        if not kept:
            return text
        return b"".join([*kept, text[begin:]])


def to_english(text: bytes) -> bytes:
    """Text with English words where a Chinese or Japanese one for the loss is in it; any other as it is."""
    if any(word in text for word in _LOSS_WORDS):
        foreign = text.decode("utf-8", "replace")
    elif _LOSS_IN_GBK in text:
        foreign = text.decode("gbk", "replace")
    else:
        return text
    with_ordinals = _ORDINAL.sub(_ordinal, foreign)
    return _FOREIGN.sub(lambda word: _TRANSLATIONS.get(word[0], word[0]), with_ordinals).encode()


def _ordinal(found: re.Match[str]) -> str:
    """`第 3/200 轮` in English."""
    unit = "step" if found[3] in ("步", "次迭代") else "epoch"
    total = found[2] or found[4]
    return f" {unit} {found[1]}/{total} " if total else f" {unit} {found[1]} "
