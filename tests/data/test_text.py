"""Text in Unicode's encodings is read; in any other it is refused, and the message's command mends it."""

from __future__ import annotations

import subprocess

import pytest

from bottega.data.text import encoding_of, read_text
from bottega.runtime.errors import MissingError, RequestError

TEXT = "a café by the sea\nsecond line\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_unicode_is_read_in_any_of_its_encodings(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(TEXT.encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT


@pytest.mark.parametrize("text", ["", "a", "ab", "\u5c71\u4e0a\u7684\u6811", "\U0001f30a"])
def test_short_and_foreign_texts_are_not_taken_for_utf_16(text):
    assert encoding_of(text.encode()) == "utf-8"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("gb18030", "\u5c71\u4e0a\u7684\u6811\uff0c\u6709\u4e91"),
        ("shift_jis", "\u5c71\u306e\u4e0a\u306e\u6728"),
        ("euc-kr", "\uc0b0 \uc704\uc758 \ub098\ubb34"),
        ("windows-1251", "\u0434\u0435\u0440\u0435\u0432\u043e \u043d\u0430 \u0433\u043e\u0440\u0435"),
        ("windows-1252", "l\u2019\u00e9t\u00e9 \u00e0 la plage"),
    ],
)
def test_another_encoding_is_named_and_the_advice_mends_it(tmp_path, encoding, text):
    path = tmp_path / "it's a.txt"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(
        RequestError, match=rf"as {encoding} it reads '{text}'|as {encoding} it reads \"{text}\""
    ) as told:
        read_text(path)
    command = str(told.value).partition("that is right by ")[2].replace(command_encoding(told.value), encoding, 1)
    path.write_bytes(subprocess.run(command, shell=True, check=True, capture_output=True).stdout)
    assert read_text(path) == text


def command_encoding(error: BaseException) -> str:
    """The encoding in the command: the first of those that fit, which a person replaces by the one that reads right."""
    return str(error).partition("iconv -f ")[2].split()[0]


def test_what_is_no_text_at_all_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(bytes(range(128, 256)))
    with pytest.raises(RequestError, match="with the encoding that it was written in"):
        read_text(tmp_path / "a.txt")


def test_a_missing_text_is_missing(tmp_path):
    with pytest.raises(MissingError, match="there is no file"):
        read_text(tmp_path / "a.txt")
