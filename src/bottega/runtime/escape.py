"""Text that came from data, made safe to show: one line, nothing that steers a terminal, no more than a stated length.

A file's name, a caption, a label or a key of a foreign file may hold escape sequences that clear the screen or set the
window's title, marks that turn the reading direction, line breaks that fake another line of output, or a megabyte.

| where it is shown | function |
|---|---|
| inside a message, a log line, a page | `shown` (in quotes), `escaped` (without) |
| an output of several lines, an error's message | `escaped_lines`, `one_line` |
| standard output as a whole | `PlainStream` |
| a cell of a CSV file, which a spreadsheet may open | `csv_cell`, read back by `from_csv_cell` |
"""

from __future__ import annotations

import json
import re
from typing import TextIO

LONGEST = 200
"""Characters of one value that are shown; a path or a caption is hardly ever longer."""

LONGEST_MESSAGE = 4000
"""Characters of one message: its beginning says what is wrong, its end what to do, so the middle is cut."""

LONGEST_LINE = 10_000
"""Characters of a line of output that is not JSON."""

LONGEST_CELL = 10_000
"""Characters of a cell of a CSV file; spreadsheets hold 32 767."""

_MESSAGE_END = 1500

# Characters that may need an escape: controls, formats (among them those of the reading direction), separators of
# lines, and halves of pairs. Zero-width joiners are left alone: scripts and emoji are written with them.
_SUSPECT = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ud800-\udfff\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)
_FORMULA = ("=", "+", "-", "@")


def escaped(text: object, longest: int = LONGEST) -> str:
    """A value on one line: control characters, line breaks and marks of the reading direction as `\\x1b`, `\\u202e`.

    Args:
        text: the value.
        longest: characters that are kept; what is cut is counted behind them.
    """
    whole = text if isinstance(text, str) else str(text)
    kept = _SUSPECT.sub(_escape, whole[:longest])
    if len(whole) <= longest and len(kept) <= longest:
        return kept
    return f"{kept[:longest]}… ({len(whole)} characters)"


def shown(value: object, longest: int = LONGEST) -> str:
    """A value as `repr` quotes it, so that its ends are seen; escaped and cut likewise."""
    if isinstance(value, str):
        # Cut before `repr`, which would go through all of a text of a gigabyte.
        quoted = repr(value[: longest + 1])
        return escaped(quoted, longest) if len(value) <= longest else f"{_SUSPECT.sub(_escape, quoted[:longest])}…"
    return escaped(repr(value), longest)


def escaped_lines(text: str) -> str:
    """An output of several lines: as `escaped`, but line breaks and tabs stay, and nothing is cut."""
    return _SUSPECT.sub(_escape_within_lines, text)


class PlainStream:
    """A stream of text, such as standard output, that writes what it is given by `escaped_lines`.

    Args:
        stream: where it goes.
        longest: characters of a line that are kept; None keeps all, for JSON.
    """

    def __init__(self, stream: TextIO, longest: int | None = LONGEST_LINE) -> None:
        self._stream = stream
        self._longest = longest

    def write(self, text: str) -> int:
        """Write text; returns the number of its own characters."""
        plain = escaped_lines(text)
        if self._longest is not None and len(plain) > self._longest:
            plain = "\n".join(_cut(line, self._longest) for line in plain.split("\n"))
        self._stream.write(plain)
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def _cut(line: str, longest: int) -> str:
    return line if len(line) <= longest else f"{line[:longest]}… ({len(line)} characters)"


def one_line(text: str) -> str:
    """An error's message on one line; one that is too long loses its middle."""
    line = " ".join(text.split())
    if len(line) > LONGEST_MESSAGE:
        begin = LONGEST_MESSAGE - _MESSAGE_END
        line = f"{line[:begin]} … ({len(line)} characters) … {line[-_MESSAGE_END:]}"
    return _SUSPECT.sub(_escape, line)


def csv_cell(value: object) -> object:
    """A value for a CSV file: text escaped and cut, and with `'` before what a spreadsheet would run as a formula."""
    if not isinstance(value, str):
        return value
    text = escaped(value, LONGEST_CELL)
    # A caption `=HYPERLINK(…)` is run by whoever looks at the table with a spreadsheet.
    return f"'{text}" if text.startswith(_FORMULA) or _is_marked(text) else text


def from_csv_cell(text: str) -> str:
    """The text of a cell that `csv_cell` wrote, without the `'`."""
    return text[1:] if _is_marked(text) else text


def _is_marked(text: str) -> bool:
    """Whether a cell begins with the `'` that guards a formula; a text of itself that does is guarded, too."""
    rest = text.lstrip("'")
    return len(rest) < len(text) and rest.startswith(_FORMULA)


def _escape(found: re.Match[str]) -> str:
    # As JSON does, so that JSON stays JSON: text in it never holds the controls below a space, all others may stand.
    return f"\\x{ord(found[0]):02x}" if found[0] < " " else json.dumps(found[0])[1:-1]


def _escape_within_lines(found: re.Match[str]) -> str:
    return found[0] if found[0] in "\n\t" else _escape(found)
