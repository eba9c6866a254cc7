"""A JSON document read as a stream: its top-level arrays item by item, in bounded memory.

COCO's captions are one object of 92 MB; parsed at once it takes more than half a gigabyte. Own code, because ijson
3.6 needs one pass for each array whose name is known beforehand (0.84 s of CPU against 1.05 s here for two), 1.7 s for
a single pass over whatever there is, and its errors name no place in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from bottega.data.text import open_text, wrong_encoding
from bottega.runtime.errors import RequestError
from bottega.runtime.escape import shown

CHUNK = 1 << 16  # characters
_SPACE = " \t\n\r"
_AFTER = frozenset(_SPACE + ",]}:")


def iter_items(path: Path, *, chunk: int = CHUNK) -> Iterator[tuple[str, Any]]:
    """The items of a document's top level, in file order.

    For an object: (key, item) for each item of an array value, (key, value) for any other value. For an array:
    ("", item). No more than one item and one chunk of `chunk` characters are in memory.

    Raises:
        MissingError: there is no such file.
        RequestError: it is no complete JSON object or array; the message says where it breaks.
    """
    try:
        with open_text(path) as stream:
            yield from _Reader(stream, path, chunk).top()
    except UnicodeDecodeError as error:
        raise wrong_encoding(path) from error


def iter_objects(stream: IO[str], path: Path, *, chunk: int = CHUNK) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a list in any of its forms, each with the number of the line that it begins in.

    The forms are JSON lines; objects over several lines, with or without commas between them; one array of objects;
    and one object whose values are all objects, which are given its keys as `file_name`.

    Raises:
        RequestError: it is none of these; the message says where it breaks.
    """
    found = _Reader(stream, path, chunk, cure="mend it there").objects()
    first = next(found, None)
    if first is None:
        return
    line, values = first
    second = next(found, None)
    if second is None and values and all(isinstance(value, dict) for value in values.values()):
        for name, row in values.items():
            yield line, {"file_name": name, **row}
        return
    yield first
    if second is not None:
        yield second
        yield from found


class _Reader:
    """Reads one document. `_text` holds what is read and not yet used from `_at` on; `_before` characters are gone."""

    def __init__(self, stream: IO[str], path: Path, chunk: int, *, cure: str = "put a whole copy in its place") -> None:
        self._stream = stream
        self._path = path
        self._chunk = chunk
        self._cure = cure
        self._lines = 1
        self._text = ""
        self._at = 0
        self._before = 0
        self._ended = False
        self._decode = json.JSONDecoder().raw_decode

    def top(self) -> Iterator[tuple[str, Any]]:
        opening = self._peek()
        if opening == "[":
            for item in self._array():
                yield "", item
        elif opening == "{":
            yield from self._object()
        else:
            raise self._error("an object or an array must begin")
        if self._peek():
            raise self._error("the document must end")

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Objects one after the other, or those of one array."""
        in_array = self._peek() == "["
        if in_array:
            self._at += 1
        while self._peek() not in ("", "]"):
            line = self._line()
            value = self._value()
            if not isinstance(value, dict):
                raise self._error("only objects may be in a list")
            yield line, value
            if in_array:
                self._comma_or("]")
            elif self._peek() == ",":
                self._at += 1
        if in_array != (self._peek() == "]"):
            raise self._error('"]" must end the list' if in_array else "an object must come here")
        if in_array:
            self._at += 1
            if self._peek():
                raise self._error("the list must end")

    def _object(self) -> Iterator[tuple[str, Any]]:
        self._at += 1
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str) or self._peek() != ":":
                raise self._error('a key in quotes and ":" must come here')
            self._at += 1
            if self._peek() == "[":
                for item in self._array():
                    yield key, item
            else:
                yield key, self._value()
            self._comma_or("}")
        self._at += 1

    def _array(self) -> Iterator[Any]:
        self._at += 1
        while self._peek() != "]":
            yield self._value()
            self._comma_or("]")
        self._at += 1

    def _comma_or(self, end: str) -> None:
        following = self._peek()
        if following == ",":
            self._at += 1
            if self._peek() == end:
                raise self._error(f'no "{end}" may follow a comma')
        elif following != end:
            raise self._error(f'"," or "{end}" must come here')

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._read_on():
                    continue
                raise self._error(f"a value must come here ({error.msg})") from error
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets in brackets
                raise self._error(f"a value must be shorter ({error})") from error
            # A number may continue in the next chunk: "1" of "12", "0" of "0.5" cut after its point.
            if self._text[end : end + 1] in _AFTER or not self._read_on():
                self._at = end
                return value

    def _peek(self) -> str:
        """The next character that is no space, or "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read_on():
                return ""

    def _read_on(self) -> bool:
        """Read another piece."""
        if self._ended:
            return False
        pending = self._text[self._at :]
        # At least as much again as is pending, so that a long value, parsed again with each piece, costs linear time.
        piece = self._stream.read(max(self._chunk, len(pending)))
        self._before += self._at
        self._lines += self._text.count("\n", 0, self._at)
        self._text = pending + piece
        self._at = 0
        self._ended = not piece
        return bool(piece)

    def _line(self) -> int:
        return self._lines + self._text.count("\n", 0, self._at)

    def _error(self, rule: str) -> RequestError:
        near = self._text[self._at : self._at + 20]
        place = f"at character {self._before + self._at}, line {self._line()}"
        return RequestError(f"{self._path} is no complete JSON: {rule} {place}, got {shown(near)}; {self._cure}")
