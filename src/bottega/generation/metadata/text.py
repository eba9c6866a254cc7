"""The texts in a picture's file, read without decoding a pixel and without trusting a length.

PNG: tEXt, zTXt and iTXt. JPEG and WebP: EXIF's UserComment and the fields that ComfyUI and Fooocus use. The file's own
kind decides, not its name. A compressed text is unpacked up to a limit, so that a kilobyte cannot become a gigabyte.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from bottega.runtime.errors import MissingError, PictureError
from bottega.runtime.paths import open_file

MAX_TEXT = 4 << 20
"""Bytes of one text: ten times the largest ComfyUI workflow that people publish."""

MAX_TEXTS = 16 << 20
"""Bytes of all texts of a file."""

_MAX_CHUNKS = 200_000  # of a PNG; a picture of 300 MB in pieces of 8 KB has 40 000
_MAX_KEYWORDS = 256
_PNG = b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\x00\x00"
_EXIF_POINTER, _USER_COMMENT, _MAKER_NOTE = 0x8769, 0x9286, 0x927C
_COMFY_TAGS = (0x010E, 0x010F, 0x0110)  # ComfyUI puts "workflow:{…}" and "prompt:{…}" into description, make and model
_SOFTWARE = 0x0131


@dataclass
class Texts:
    """A file's texts by keyword, and what was left out of them."""

    by_keyword: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _bytes: int = 0

    def add(self, keyword: str, text: str) -> None:
        """Keep a text. Of two with one keyword the first counts: one that is appended does not replace it unseen."""
        self._bytes += len(text)
        if self._bytes > MAX_TEXTS or len(self.by_keyword) >= _MAX_KEYWORDS:
            self.note("the file holds more text than is read; the rest was left out")
            return
        if keyword in self.by_keyword and self.by_keyword[keyword] != text:
            self.note(f"the text {keyword[:40]!r} is there twice, and differs; the first was read")
            return
        self.by_keyword[keyword] = text

    def note(self, note: str) -> None:
        """Say once what was left out."""
        if note not in self.notes and len(self.notes) < 20:
            self.notes.append(note)


def read_texts(path: Path) -> Texts:
    """The texts of a PNG, JPEG or WebP file; none of any other.

    Raises:
        MissingError: there is no such file.
        PictureError: it cannot be read.
    """
    texts = Texts()
    try:
        with open_file(path) as stream:
            head = stream.read(12)
            if head.startswith(_PNG):
                _read_png(stream, texts)
            elif head.startswith(b"\xff\xd8"):
                _read_jpeg(stream, texts)
            elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
                _read_webp(stream, texts)
    except FileNotFoundError as error:
        raise MissingError(f"{path}: there is no such file; name another") from error
    except OSError as error:
        raise PictureError(f"{path} can't be read ({error.strerror or error}); copy it again") from error
    return texts


# --- PNG -------------------------------------------------------------------------------------------------------------


def _read_png(stream: BinaryIO, texts: Texts) -> None:
    stream.seek(len(_PNG))
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return  # torn: what the pixels lack is said where they are decoded
        length, kind = struct.unpack(">I4s", head)
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            if kind == b"IEND":
                return
            stream.seek(length + 4, 1)
            continue
        if length > MAX_TEXT:
            texts.note(f"a text of {length} bytes was left out: at most {MAX_TEXT} are read")
            stream.seek(length + 4, 1)
            continue
        data = stream.read(length)
        checksum = stream.read(4)
        if len(checksum) < 4:
            texts.note("the file ends within a text")
            return
        if zlib.crc32(kind + data) != int.from_bytes(checksum, "big"):
            texts.note("a text with a wrong checksum was left out")
        elif kind == b"eXIf":
            _read_exif(data, texts)
        else:
            _read_png_text(kind, data, texts)
    texts.note(f"the file has more than {_MAX_CHUNKS} chunks; the rest was left out")


def _read_png_text(kind: bytes, data: bytes, texts: Texts) -> None:
    keyword_bytes, separator, rest = data.partition(b"\x00")
    keyword = keyword_bytes.decode("latin-1")
    if not separator or not 1 <= len(keyword) <= 79:
        texts.note("a text without a keyword was left out")
        return
    if kind == b"tEXt":
        texts.add(keyword, rest.decode("latin-1"))
        return
    if kind == b"zTXt":
        unpacked = _unpacked(rest[1:], keyword, texts)
        if unpacked is not None:
            texts.add(keyword, unpacked.decode("latin-1"))
        return
    if len(rest) < 2:
        texts.note(f"the text {keyword!r} is torn")
        return
    is_compressed = rest[0] == 1
    parts = rest[2:].split(b"\x00", 2)  # language, translated keyword, text
    if len(parts) < 3:
        texts.note(f"the text {keyword!r} is torn")
        return
    body: bytes | None = parts[2]
    if is_compressed:
        body = _unpacked(parts[2], keyword, texts)
    if body is not None:
        texts.add(keyword, body.decode("utf-8", "replace"))


def _unpacked(data: bytes, keyword: str, texts: Texts) -> bytes | None:
    """What was compressed; None, with a note, where it is damaged or too large."""
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(data, MAX_TEXT)
    except zlib.error:
        texts.note(f"the compressed text {keyword!r} is damaged and was left out")
        return None
    if unpacker.unconsumed_tail:
        texts.note(f"the compressed text {keyword!r} unpacks to more than {MAX_TEXT} bytes and was left out")
        return None
    return body


# --- JPEG and WebP ---------------------------------------------------------------------------------------------------


def _read_jpeg(stream: BinaryIO, texts: Texts) -> None:
    stream.seek(2)
    for _ in range(_MAX_CHUNKS):
        marker = stream.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] in (0xD9, 0xDA):
            return  # the end, or the start of the pixels, behind which there is no metadata
        length = int.from_bytes(stream.read(2), "big")
        if length < 2:
            return
        if marker[1] not in (0xE1, 0xFE):
            stream.seek(length - 2, 1)
            continue
        data = stream.read(length - 2)
        if marker[1] == 0xE1 and data.startswith(_EXIF):
            _read_exif(data, texts)
        elif marker[1] == 0xFE:
            texts.add("comment", data.decode("utf-8", "replace").rstrip("\x00"))


def _read_webp(stream: BinaryIO, texts: Texts) -> None:
    stream.seek(12)
    for _ in range(_MAX_CHUNKS):
        head = stream.read(8)
        if len(head) < 8:
            return
        kind, length = struct.unpack("<4sI", head)
        if kind == b"EXIF" and length <= MAX_TEXT:
            _read_exif(stream.read(length), texts)
            stream.seek(length & 1, 1)
        else:
            if kind == b"EXIF":
                texts.note(f"EXIF of {length} bytes was left out: at most {MAX_TEXT} are read")
            stream.seek(length + (length & 1), 1)


def _read_exif(data: bytes, texts: Texts) -> None:
    tags = _exif_tags(data.removeprefix(_EXIF))
    if tags is None:
        texts.note("the EXIF data is damaged and was left out")
        return
    if tags.get(_USER_COMMENT):
        texts.add("UserComment", decode_user_comment(tags[_USER_COMMENT]))
    for keyword, tag in (("MakerNote", _MAKER_NOTE), ("Software", _SOFTWARE)):
        if tags.get(tag):
            texts.add(keyword, _ended(tags[tag][:1000]))
    for tag in _COMFY_TAGS:
        keyword, separator, value = _ended(tags.get(tag, b"")).partition(":")
        if separator and keyword.lower() in ("prompt", "workflow"):
            texts.add(keyword.lower(), value.strip())


def _exif_tags(data: bytes) -> dict[int, bytes] | None:
    """The tags of the first directory and of the EXIF directory that hold bytes or text; None where there is neither.

    Not Pillow's: its parser warns of damage by way of the process's own filter of warnings, which threads share.
    """
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    tags: dict[int, bytes] = {}
    waiting = [struct.unpack_from(order + "I", data, 4)[0]]
    for place in waiting:  # the pointer to the EXIF directory is appended where it is met, and no other is followed
        if place + 2 > len(data):
            continue
        count = min(struct.unpack_from(order + "H", data, place)[0], (len(data) - place - 2) // 12)
        for entry in range(count):
            start = place + 2 + 12 * entry
            tag, kind, size = struct.unpack_from(order + "HHI", data, start)
            if tag == _EXIF_POINTER and len(waiting) == 1:
                waiting.append(struct.unpack_from(order + "I", data, start + 8)[0])
            if kind not in (1, 2, 7):  # bytes, text, undefined
                continue
            at = start + 8 if size <= 4 else struct.unpack_from(order + "I", data, start + 8)[0]
            tags.setdefault(tag, data[at : at + size])
    return tags


def _ended(value: bytes) -> str:
    return value.decode("utf-8", "replace").rstrip("\x00")


def decode_user_comment(comment: bytes) -> str:
    """The text of EXIF's UserComment, whose first 8 bytes name its encoding.

    UTF-16 comes in either byte order: A1111 writes big-endian whatever the file's own order is, others little-endian.
    """
    code, body = comment[:8], comment[8:]
    if code.startswith(b"UNICODE"):
        little = body.decode("utf-16-le", "replace")
        big = body.decode("utf-16-be", "replace")
        text = big if _latin_letters(big) >= _latin_letters(little) else little
        return text.removeprefix("\ufeff").rstrip("\x00")
    if code.startswith(b"ASCII") or code == bytes(8):
        return body.decode("utf-8", "replace").rstrip("\x00")
    return comment.decode("utf-8", "replace").rstrip("\x00")


def _latin_letters(text: str) -> int:
    """Characters below 128: parameters always have some, and in the wrong byte order they are none."""
    return sum(character < "\x80" for character in text)
