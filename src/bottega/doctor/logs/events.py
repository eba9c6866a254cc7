"""TensorBoard's event files: their scalars, rewritten as the lines of a log.

A file is a row of records: a length of 8 bytes, its checksum, a protobuf `Event`, and its checksum (masked CRC-32C).
The framing is read here, so that a length is checked before anything of that length is read; checksum and protobuf are
tensorboard's own.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bottega.doctor.logs.lines import VALIDATION, LossKind, loss_kind
from bottega.doctor.logs.sides import is_rate, side_of
from bottega.doctor.losses import F64
from bottega.runtime.errors import MissingError, RequestError

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

NAME = "events.out.tfevents.*"

LARGEST_EVENT = 1 << 16
"""Bytes of an event that is read. One with scalars has some hundred; pictures, graphs, histograms are passed over."""

MOST_SCALARS = 8_000_000
"""Scalars that are read: 24 bytes each."""

MOST_TAGS = 4096

LINES_AT_ONCE = 4096

_HEADER = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_LATEST = 4e9
"""Seconds since 1970 up to which a time is believed."""


@dataclass
class Scalars:
    """The points of one tag, in their order. steps, times (seconds since 1970), values: [N] each."""

    steps: array[int] = field(default_factory=lambda: array("q"))
    times: array[float] = field(default_factory=lambda: array("d"))
    values: array[float] = field(default_factory=lambda: array("d"))

    def add(self, step: int, time: float, value: float) -> None:
        """The next point."""
        self.steps.append(step)
        self.times.append(time)
        self.values.append(value)

    def sorted(self) -> tuple[F64, F64]:
        """Steps and values, [N] each, by step; of several at one step the last."""
        steps = np.array(self.steps, dtype=np.float64)
        values = np.array(self.values, dtype=np.float64)
        order = np.argsort(steps, kind="stable")
        steps, values = steps[order], values[order]
        is_last = np.append(np.diff(steps) != 0, True)
        return steps[is_last], values[is_last]


class EventFiles:
    """What event files hold. tags: the scalars by tag. notes: what was not read of them."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.tags: dict[str, Scalars] = {}
        self.notes: list[str] = []
        self._count = 0
        for path in paths:
            self._read(path)
        if self._count >= MOST_SCALARS:
            self.notes.append(f"only the first {MOST_SCALARS} scalars of the event files were read")

    def lines(self) -> Iterator[bytes]:
        """`step=3 loss=0.1 lr=0.001`, some thousand lines at a time, a validation in a line of its own.

        Raises:
            RequestError: no tag is a loss.
        """
        loss_tag = self._loss_tag()
        if loss_tag is None:
            known = ", ".join(f"{tag[:60]!r}" for tag in sorted(self.tags)[:8]) or "none"
            raise RequestError(f"a training is judged from a loss; the event files have no tag with that word: {known}")
        if len(self.tags) > 1:
            self.notes.append(f"of the tags in the event files {loss_tag[:60]!r} was read as the loss")
        losses = self.tags[loss_tag]
        columns = {"loss": [(True, value) for value in losses.values]}
        for name, scalars in self._columns().items():
            columns[name] = _beside(losses.steps, *scalars.sorted())
        held_out = self._validation(loss_tag)
        if held_out is not None:
            columns["val_loss"] = _beside(losses.steps, *held_out.sorted())
        return _in_parts(_lines_of(losses, columns))

    def _loss_tag(self) -> str | None:
        """The plainest training loss, of several the one with most points; a validation's where it is alone."""
        found = [tag for tag in self.tags if loss_kind(tag) not in (LossKind.NONE, LossKind.NOT_CURRENT)]
        return min(found, key=lambda tag: (loss_kind(tag), -len(self.tags[tag].steps)), default=None)

    def _validation(self, loss_tag: str) -> Scalars | None:
        """Of the tags of a validation the one that is called most like the loss."""
        found = [tag for tag in self.tags if loss_kind(tag) is LossKind.VALIDATION and tag != loss_tag]
        shortest = min(found, key=len, default=None)
        return None if shortest is None else self.tags[shortest]

    def _columns(self) -> Mapping[str, Scalars]:
        """The rate and the other columns beside the loss; of several the first."""
        columns: dict[str, Scalars] = {}
        for tag, scalars in self.tags.items():
            lowered = tag.lower()
            if any(word in lowered for word in VALIDATION):
                continue
            name = "lr" if is_rate(lowered) else side_of(lowered.rsplit("/", 1)[-1])
            if name is not None:
                columns.setdefault(name, scalars)
        return columns

    def _read(self, path: Path) -> None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from tensorboard.compat.proto.event_pb2 import Event

        num_damaged = 0
        for record in _records(path):
            if isinstance(record, str):
                self.notes.append(f"{path.name} {record}")
                break
            try:
                event = Event.FromString(record)
            except DecodeError:
                num_damaged += 1
                continue
            for value in event.summary.value:
                self._take(event.step, event.wall_time, value)
        if num_damaged:
            self.notes.append(f"{num_damaged} records of {path.name} cannot be read and were left out")

    def _take(self, step: int, time: float, value: Summary.Value) -> None:
        if self._count >= MOST_SCALARS:
            return
        number = _number(value)
        if number is None or (value.tag not in self.tags and len(self.tags) >= MOST_TAGS):
            return
        self.tags.setdefault(value.tag, Scalars()).add(step, time, number)
        self._count += 1


def _lines_of(losses: Scalars, columns: Mapping[str, list[tuple[bool, float]]]) -> Iterator[str]:
    """A line for each loss, and one for each validation. columns: for each loss whether there is a value, and which."""
    for place, step in enumerate(losses.steps):
        pairs = [f"{_stamp(losses.times[place])} step={step}"]
        after = ""
        for name, values in columns.items():
            is_there, value = values[place]
            if is_there and name == "val_loss":
                after = f"step={step} val_loss={value!r}\n"
            elif is_there:
                pairs.append(f"{name}={value!r}")
        yield " ".join(pairs) + "\n" + after


def _in_parts(lines: Iterator[str]) -> Iterator[bytes]:
    """Some thousand lines at a time, so that they are read at once."""
    while part := list(islice(lines, LINES_AT_ONCE)):
        yield "".join(part).encode()


def is_event_file(path: Path) -> bool:
    """Whether a file begins as TensorBoard's do: a length, and the checksum of that length."""
    with open(path, "rb") as stream:
        header = stream.read(_HEADER.size)
    if len(header) < _HEADER.size or _HEADER.unpack(header)[0] > LARGEST_EVENT:
        return False  # any text: tensorboard is not loaded for it, which would take as long as a million lines
    return _length(header) is not None


def event_files(path: Path) -> list[Path]:
    """The event files of a folder, or of the one folder below it that has any, the oldest first; empty without any.

    Raises:
        MissingError: several folders below have some.
    """
    for pattern in (NAME, f"*/{NAME}", f"*/*/{NAME}"):
        found = sorted(file for file in path.glob(pattern) if file.is_file())
        folders = sorted({file.parent for file in found})
        if len(folders) > 1:
            names = ", ".join(str(folder.relative_to(path)) for folder in folders[:4])
            rule = "the event files of one folder are those of one run"
            raise MissingError(f"{rule}; {path} has some in {len(folders)} folders: name one of {names}")
        if found:
            return found
    return []


def _records(path: Path) -> Iterator[bytes | str]:
    """The records of a file; at last a string where it is damaged or breaks off."""
    size = os.path.getsize(path)
    with open(path, "rb") as stream:
        while header := stream.read(_HEADER.size):
            begin = stream.tell()
            length = _length(header) if len(header) == _HEADER.size else None
            if length is None:
                torn = len(header) < _HEADER.size
                yield "breaks off in its last record" if torn else f"is damaged at byte {begin - _HEADER.size}"
                return
            if begin + length + _CHECKSUM.size > size:
                yield "breaks off in its last record"
                return
            if length > LARGEST_EVENT:
                stream.seek(length + _CHECKSUM.size, os.SEEK_CUR)
                continue
            record = stream.read(length)
            if _CHECKSUM.pack(_masked_checksum(record)) != stream.read(_CHECKSUM.size):
                yield f"is damaged at byte {begin}, and was read up to there"
                return
            yield record


def _length(header: bytes) -> int | None:
    """The length that a record's header names; None where its checksum is another's."""
    length, checksum = _HEADER.unpack(header)
    return int(length) if checksum == _masked_checksum(header[:8]) else None


def _masked_checksum(content: bytes) -> int:
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return int(masked_crc32c(content))


def _number(value: Summary.Value) -> float | None:
    """A scalar as PyTorch (simple_value) or Keras (a tensor) writes it; None for anything else."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind != "tensor" or value.tensor.ByteSize() > 64:
        return None
    from tensorboard.util.tensor_util import make_ndarray

    try:
        numbers = make_ndarray(value.tensor)
        return float(numbers.reshape(-1)[0]) if numbers.size == 1 else None
    except (TypeError, ValueError):
        return None  # text, or a shape that its content does not have


def _beside(loss_steps: Iterable[int], steps: F64, values: F64) -> list[tuple[bool, float]]:
    """For each loss whether a point of another tag, [N] each, is at its step or between it and the loss before; and
    its value."""
    at = np.array(loss_steps, dtype=np.float64)
    before = np.concatenate([[-np.inf], at[:-1]])
    before = np.where(before < at, before, -np.inf)
    places = np.searchsorted(steps, at, side="right") - 1
    is_there = (places >= 0) & (steps[np.maximum(places, 0)] > before)
    return list(zip(is_there.tolist(), values[np.maximum(places, 0)].tolist(), strict=True))


def _stamp(time: float) -> str:
    """The time at the beginning of a line, from which the reader takes the seconds a step."""
    return f"{datetime.fromtimestamp(time if 0 < time < _LATEST else 0.0, UTC):%Y-%m-%d %H:%M:%S}"
