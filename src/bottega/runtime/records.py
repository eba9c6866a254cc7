"""Typed records: what is read from a file is checked against its class before anything else sees it.

A record is a frozen dataclass, or any other type that pydantic knows: a TypedDict, a configuration, `dict[str, float]`.
pydantic checks and converts each value, so a wrong one is named together with its file and line instead of failing far
away from it. Keys that a class doesn't know are left out: a newer version wrote them.

| what enters | door |
|---|---|
| a JSON file | `read_record` |
| a JSON lines file | `read_records` |
| JSON inside something else: a header, a cell of a table, a chunk of a picture | `record_of_text` |
| what another reader has parsed: a row of a CSV or of SQLite | `to_record` |

YAML has its own door, `bottega.runtime.config.load_yaml` and `parse`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import MEND, parse_json, read_error, read_json, write_jsonl
from bottega.runtime.paths import open_file

Record = TypeVar("Record")

MEND_LINE = "mend or delete that line"
"""What to do about one line of a list of rows that don't need each other."""


def read_record(path: Path, kind: type[Record], cure: str = MEND) -> Record:
    """A JSON file as a record.

    Args:
        path: the file.
        kind: what it holds.
        cure: what to do about a wrong one, for the message.

    Raises:
        MissingError: there is no such file.
        StorageError: it can't be read, or is no complete JSON.
        RequestError: it lacks a key or has a value that the class does not allow.
    """
    return to_record(kind, read_json(path, cure), str(path), cure)


def record_of_text(kind: type[Record], text: str | bytes, where: str, cure: str = MEND) -> Record:
    """JSON text as a record; arguments and errors as `read_record`, with `where` in place of the file's name."""
    return to_record(kind, parse_json(text, where, cure), where, cure)


def read_records(path: Path, kind: type[Record], cure: str = MEND_LINE) -> Iterator[Record]:
    """Stream a JSON lines file as records.

    Parsed and checked in one pass: for a list of pairs that takes less time than `json` alone.

    Args:
        path: the file; a last line that a kill left incomplete is passed over, as `files.read_jsonl` does.
        kind: what its lines hold.
        cure: what to do about a wrong line, for the message.

    Raises:
        MissingError: there is no such file.
        StorageError: a line is not a JSON object, or the file can't be read.
        RequestError: a line lacks a key or has a value that the class does not allow.
    """
    adapter = _adapter(kind)
    try:
        stream = open_file(path)
    except FileNotFoundError as error:
        raise MissingError(f"no such file: {path}") from error
    except OSError as error:
        raise read_error(error, path) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield adapter.validate_json(line)
            except ValidationError as error:
                # A last line without its end was torn by a kill and is written again; any other broken line is damage.
                if _is_no_object(error):
                    if not line.strip() or not line.endswith(b"\n"):
                        continue
                    raise StorageError(f"{path}, line {number} is not a JSON object: {line[:60]!r}; {cure}") from error
                raise RequestError(f"{path}, line {number}: {explain(error)}; {cure}") from error


def to_record(kind: type[Record], value: object, where: str, cure: str = MEND) -> Record:
    """A value that was parsed elsewhere as a record.

    Args:
        kind: what it is to be.
        value: what JSON, CSV or SQLite gave.
        where: what to call its origin in a message.
        cure: what to do about a wrong one, for the message.

    Raises:
        RequestError: it lacks a key or has a value that the class does not allow.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise RequestError(f"{where}: {explain(error)}; {cure}") from error


def explain(error: ValidationError) -> str:
    """The first fault of a record in a few words: the key, the rule, what was received."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    received = _shown(fault["input"])
    if fault["type"] == "missing":
        return f"the key {key!r} is required, received {received}"
    if fault["type"] in _SHAPES:
        return f"{key or 'the whole'}: should be {_SHAPES[fault['type']]}, received {received}"
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{key or 'the whole'}: {reason[:1].lower()}{reason[1:]}, received {received}"


_SHAPES = {
    "dataclass_type": "a JSON object",
    "dataclass_exact_type": "a JSON object",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
    "dict_type": "a JSON object",
    "mapping_type": "a JSON object",
    "list_type": "a JSON list",
    "tuple_type": "a JSON list",
}
"""pydantic's names of faults whose own words speak of Python's types, and what the file should have there."""

# Bounded in depth and length: a value that is nested by the thousand ended `repr` itself.
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 3
_LONGEST = 60  # characters of a received value in a message


def _shown(value: object) -> str:
    """A received value, cut."""
    text = _REPR.repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Built once a class: building takes a millisecond, a check two microseconds."""


def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _is_no_object(error: ValidationError) -> bool:
    """Whether a line is no JSON at all, or has a list, a number or a text at its top."""
    fault = error.errors(include_url=False)[0]
    return not fault["loc"] and (fault["type"] == "json_invalid" or _SHAPES.get(fault["type"]) == "a JSON object")


def write_records(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses as a new JSON lines file, as a stream, whole or not at all; returns their number."""
    return write_jsonl(path, map(asdict, rows))
