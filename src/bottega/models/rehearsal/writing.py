"""Weight files written tensor by tensor, so that a file of 10 GB takes a few megabytes of memory.

A file is known as whole by its header: it is that which is to be written, and the file is as long as it says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from bottega.models.rehearsal.noise import NoiseSource, fill_of
from bottega.models.weights import TensorInfo, read_header
from bottega.runtime.errors import BottegaError
from bottega.runtime.files import atomic_path

if TYPE_CHECKING:
    import torch

BYTES: Mapping[str, int] = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8}
"""Bytes of a number, by the format's name of its dtype."""


@dataclass(frozen=True)
class WeightFile:
    """A safetensors file to be written.

    path: within the folder that is built. tensors: name -> dtype and shape. metadata: of its header.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(_header_bytes(self)) + sum(map(tensor_bytes, self.tensors.values()))


@dataclass(frozen=True)
class SmallFile:
    """A file of a few kilobytes, such as a configuration."""

    path: str
    content: bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.content)


def tensor_bytes(tensor: TensorInfo) -> int:
    """Bytes that a tensor takes."""
    return math.prod(tensor.shape) * BYTES[tensor.dtype]


def count_numbers(tensors: Mapping[str, TensorInfo]) -> int:
    """Numbers in all tensors together."""
    return sum(math.prod(tensor.shape) for tensor in tensors.values())


def is_written(file: WeightFile, place: Path) -> bool:
    """Whether a weight file is there, whole, with the tensors and of the seed that are wanted."""
    try:
        there = read_header(place)
    except BottegaError:
        return False
    # Any version of bottega writes the same values for a seed: that alone is no reason to write gigabytes again.
    wanted = {**file.metadata, "bottega.version": there.metadata.get("bottega.version")}
    return there.tensors == dict(file.tensors) and there.metadata == wanted


def write_weights(file: WeightFile, place: Path, noise: NoiseSource, on_bytes: Callable[[int], None]) -> None:
    """Write a weight file, whole or not at all.

    Args:
        file: what to write.
        place: where.
        noise: its values.
        on_bytes: called with the number of bytes of each piece that was written.

    Raises:
        StorageError: the disk is full or read-only.
    """
    with atomic_path(place) as temporary, temporary.open("wb") as stream:
        _write(stream, _header_bytes(file), on_bytes)
        for name in _order(file.tensors):
            tensor = file.tensors[name]
            count = math.prod(tensor.shape)
            for piece in noise.pieces(name, count, fill_of(name, tensor.shape), _torch_dtype(tensor.dtype)):
                _write(stream, _as_bytes(piece), on_bytes)


def _write(stream: IO[bytes], content: bytes | memoryview, on_bytes: Callable[[int], None]) -> None:
    stream.write(content)
    on_bytes(len(content))


def _as_bytes(piece: torch.Tensor) -> memoryview:
    import torch

    return piece.contiguous().view(torch.uint8).numpy().data


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    return {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}[name]


def _order(tensors: Mapping[str, TensorInfo]) -> Sequence[str]:
    """As the format's own writer has them: wide numbers first, so that each is aligned, then by name."""
    return sorted(tensors, key=lambda name: (-BYTES[tensors[name].dtype], name))


def _header_bytes(file: WeightFile) -> bytes:
    """Length and header of the file."""
    entries: dict[str, object] = {"__metadata__": dict(file.metadata)} if file.metadata else {}
    end = 0
    for name in _order(file.tensors):
        tensor = file.tensors[name]
        begin, end = end, end + tensor_bytes(tensor)
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8
    return len(text).to_bytes(8, "little") + text
