"""Records: what enters from a file is checked line by line, and a fault is named with its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError
from bottega.runtime.files import read_jsonl
from bottega.runtime.records import read_records, to_record


@dataclass(frozen=True, slots=True)
class Measured:
    name: str
    scores: tuple[float, ...] = ()


def test_lines_become_records_and_unknown_keys_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"name": "a", "scores": [1, 2.5]}\n\n{"name": "b", "later": true}\n')
    assert list(read_records(path, Measured)) == [Measured("a", (1.0, 2.5)), Measured("b")]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"scores": []}', "line 2: the key 'name' is required"),
        ('{"name": "a", "scores": [1, "x"]}', "line 2: scores.1: .*unable to parse.*received 'x'"),
        ('{"name": null}', "line 2: name: .*valid string, received None"),
    ],
)
def test_a_wrong_value_is_named_with_file_line_and_key(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"name": "good"}}\n{line}\n')
    with pytest.raises(RequestError, match=named) as caught:
        list(read_records(path, Measured))
    assert str(caught.value).startswith(str(path))
    with pytest.raises(RequestError, match=r"summary\.json: the key 'name' is required"):
        to_record(Measured, {}, "summary.json")


@pytest.mark.parametrize("tail", ["", "\n\n", '{"name": "torn', "[1]\n", "{]\n", "3\n", '"text"\n', "\xff\n"])
def test_torn_and_broken_lines_are_treated_as_by_read_jsonl(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"name": "a"}\n' + tail.encode("latin-1"))

    def outcome(read: object) -> object:
        try:
            return len(list(read()))  # type: ignore[operator]
        except BottegaError as error:
            return type(error)

    found = outcome(lambda: read_records(path, Measured))
    assert found == outcome(lambda: read_jsonl(path))
    assert found in (1, StorageError)


def test_an_absent_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no such file"):
        list(read_records(tmp_path / "none.jsonl", Measured))
