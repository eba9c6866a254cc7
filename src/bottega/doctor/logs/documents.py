"""JSON documents that hold a log as a whole: transformers' trainer_state.json, Keras' History, a list of rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

LARGEST = 1 << 26
"""Bytes that a JSON document may have to be read whole; a longer one is read by lines."""


def rows_of_document(path: Path) -> Iterator[bytes] | None:
    """The objects with losses in a JSON document, one a line, after what it says of the plan; None where the file is no
    such document."""
    with open(path, "rb") as stream:
        first = stream.readline(256).strip()
    may_be_one = path.suffix == ".json" or first in (b"{", b"[")
    if not may_be_one or path.stat().st_size > LARGEST:
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None  # objects by lines may bear that suffix, too
    return _rows(found)


def _rows(found: object) -> Iterator[bytes]:
    if not isinstance(found, dict):
        yield from _list_of_rows(found)
        return
    # the plan in the words of a command line, which `lines.planned_lengths` reads
    for name, option in (("max_steps", "max_train_steps"), ("num_train_epochs", "num_train_epochs")):
        if isinstance(found.get(name), int):
            yield f"{option} = {found[name]}\n".encode()
    for value in found.values():
        yield from _list_of_rows(value)
    if isinstance(found.get("loss"), list):
        yield from _keras_history(found, len(found["loss"]))


def _list_of_rows(value: object) -> Iterator[bytes]:
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        yield from map(_as_line, value)


def _keras_history(found: Mapping[str, object], num_epochs: int) -> Iterator[bytes]:
    """A list a name, an epoch each."""
    for place in range(num_epochs):
        row: dict[str, object] = {"epoch": place + 1}
        for name, values in found.items():
            # a validation every few epochs has a shorter list than the loss
            if isinstance(values, list) and place < len(values):
                row[name] = values[place]
        yield _as_line(row)


def _as_line(row: Mapping[str, object]) -> bytes:
    return json.dumps(row).encode() + b"\n"
