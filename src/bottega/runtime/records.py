"""Typed records: what is read from a file is checked against its class before anything else sees it.

A record is a frozen dataclass. pydantic checks and converts each value, so a wrong one is named together with its file
and line instead of failing far away from it. Keys that a class doesn't know are left out: a newer version wrote them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import write_jsonl

Record = TypeVar("Record")


def read_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Stream a JSON lines file as records.

    Parsed and checked in one pass: for a list of pairs that takes less time than `json` alone.

    Args:
        path: the file; a last line that a kill left incomplete is passed over, as `files.read_jsonl` does.
        kind: the dataclass of its lines.

    Raises:
        MissingError: there is no such file.
        StorageError: a line is not a JSON object.
        RequestError: a line lacks a key or has a value that the class does not allow.
    """
    adapter = _adapter(kind)
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise MissingError(f"no such file: {path}") from error
    with stream:
        for number, line in enumerate(stream, start=1):
            try:
                yield adapter.validate_json(line)
            except ValidationError as error:
                # A last line without its end was torn by a kill and is written again; any other broken line is damage.
                if _is_no_object(error):
                    if not line.strip() or not line.endswith(b"\n"):
                        continue
                    raise StorageError(
                        f"{path}, line {number} is not a JSON object: {line[:60]!r}; mend or delete it"
                    ) from error
                raise RequestError(f"{path}, line {number}: {explain(error)}; mend or delete that line") from error


def to_record(kind: type[Record], value: Mapping[str, Any], where: str) -> Record:
    """One mapping as a record.

    Args:
        where: what to call its origin in a message.

    Raises:
        RequestError: it lacks a key or has a value that the class does not allow.
    """
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        raise RequestError(f"{where}: {explain(error)}; mend or delete it") from error


def explain(error: ValidationError) -> str:
    """The first fault of a record in a few words: the key, the rule, what was received."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "missing":
        return f"the key {key!r} is required"
    received = repr(fault["input"])
    if len(received) > 60:
        received = f"{received[:57]}..."
    reason = fault["msg"].removeprefix("Value error, ")
    return f"{key}: {reason[:1].lower()}{reason[1:]}, received {received}"


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}
"""Built once a class: building takes a millisecond, a check two microseconds."""


def _adapter(kind: type[Record]) -> TypeAdapter[Record]:
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def _is_no_object(error: ValidationError) -> bool:
    fault = error.errors(include_url=False)[0]
    return not fault["loc"] and fault["type"] in ("json_invalid", "dataclass_type")


def write_records(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses as a new JSON lines file, as a stream, whole or not at all; returns their number."""
    return write_jsonl(path, map(asdict, rows))
