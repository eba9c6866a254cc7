"""Text as people's tools write it: UTF-8 with or without a mark, UTF-16 and UTF-32; any other encoding is refused.

A text in another encoding is never guessed at: captions in GBK were once read as nonsense, and learned (docs/log.md).
"""

from __future__ import annotations

import codecs
import io
import re
import shlex
from pathlib import Path
from typing import IO

from bottega.runtime.errors import MissingError, RequestError
from bottega.runtime.escape import shown
from bottega.runtime.paths import NotAFileError, open_file

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16's mark, which it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_LOOKED_AT = 4096  # bytes that show the encoding
_SHOWN_AT_MOST = 1 << 20  # bytes that are tried in other encodings, for the message

# What a text of each encoding has beyond ASCII, where it is not nonsense: its script's letters and punctuation.
_CANDIDATES = (
    ("gb18030", re.compile(r"[\u2010-\u2027\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]*")),
    (
        "shift_jis",
        re.compile(r"[\u3000-\u30ff\u4e00-\u9fff\uff00-\uffef]*[\u3040-\u30ff][\u3000-\u9fff\uff00-\uffef]*"),
    ),
    ("euc-kr", re.compile(r"[\u3000-\u303f\uac00-\ud7a3]*")),
    ("windows-1251", re.compile(r"[\u0400-\u045f«»\u2010-\u2027]*")),
    ("windows-1252", re.compile(r"[À-ÖØ-öø-ÿŒœŠšŽžŸß°«»\u2010-\u2027€]*")),
)


def open_text(path: Path) -> IO[str]:
    """Open a text file in the encoding that its first bytes show; what does not decode raises UnicodeDecodeError.

    Raises:
        MissingError: there is no such file.
        RequestError: it can't be read, or is a folder, a pipe or a device.
    """
    try:
        stream = open_file(path)
    except FileNotFoundError as error:
        raise MissingError(f"there is no file {path}") from error
    except NotAFileError as error:
        why = f"a text is an ordinary file, received {path}, which is {error.kind}; take it out of there"
        raise RequestError(why) from error
    except OSError as error:
        raise RequestError(f"{path} can't be read ({error.strerror}); put a text file there or take it away") from error
    begins = stream.read(_LOOKED_AT)
    stream.seek(0)
    return io.TextIOWrapper(stream, encoding=encoding_of(begins), newline="")


def read_text(path: Path) -> str:
    """A text file as a whole.

    Raises:
        MissingError: there is no such file.
        RequestError: it is in another encoding; the message says what it may be and how to convert it.
    """
    try:
        with open_text(path) as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise wrong_encoding(path) from error


def encoding_of(begins: bytes) -> str:
    """The encoding of a text by its first bytes: that of its mark, UTF-16 by its zero bytes, else UTF-8."""
    for mark, name in _MARKS:
        if begins.startswith(mark):
            return name
    # UTF-16 without a mark: every second byte of ASCII text is zero.
    pairs = max(1, len(begins) // 2)
    if begins[1::2].count(0) / pairs > 0.4 and begins[::2].count(0) == 0:
        return "utf-16-le"
    if begins[::2].count(0) / pairs > 0.4 and begins[1::2].count(0) == 0:
        return "utf-16-be"
    return "utf-8"


def wrong_encoding(path: Path, more: int = 0) -> RequestError:
    """The error for a text that does not decode, with how it reads in the encodings that fit it.

    Args:
        path: the file.
        more: how many other files have the same fault.
    """
    with open_file(path) as stream:
        data = stream.read(_SHOWN_AT_MOST)
    if len(data) == _SHOWN_AT_MOST:
        data = data[: data.rfind(b"\n") + 1]  # or a character would be cut
    readings = _readings(data)
    kind = path.suffix or "text"
    rule = f"texts are read as UTF-8 or UTF-16, received {1 + more} {kind} in another encoding, first {path}"
    file = shlex.quote(str(path))
    if not readings:
        return RequestError(
            f"{rule}; save it as UTF-8: iconv -f ENCODING -t utf-8 {file}, with the encoding that it was written in"
        )
    tried = ", ".join(f"as {name} it reads {shown(text)}" for name, text in readings.items())
    first = next(iter(readings))
    return RequestError(f"{rule} ({tried}); save it as UTF-8, if that is right by iconv -f {first} -t utf-8 {file}")


def _readings(data: bytes) -> dict[str, str]:
    """How a text reads, cut short, in each encoding in which it is no nonsense."""
    found = {}
    for name, letters in _CANDIDATES:
        try:
            text = data.decode(name)
        except UnicodeDecodeError:
            continue
        beyond = "".join(character for character in text if not character.isascii())
        if letters.fullmatch(beyond):
            line = next((line for line in text.splitlines() if not line.isascii()), "")
            found[name] = line.strip()[:24]
    return found
