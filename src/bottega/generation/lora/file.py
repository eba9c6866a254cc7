"""A LoRA file, opened so that nothing in it can run and nothing is believed before it is checked. Needs no torch.

The content decides, never the name. The first bytes tell a pickle, an archive or a saved web page from safetensors;
then the header is read within bounds, and each tensor is looked at in place for numbers that are not finite.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bottega.models.weights import SafetensorsHeader, TensorInfo, read_header
from bottega.runtime.errors import MissingError, RequestError, StorageError
from bottega.runtime.files import sha256_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_HEADER = 32 << 20
"""Bytes. 10,000 tensors take 2 MB, a tag table of a large data set about as much."""

MAX_TENSORS = 50_000
"""All of SDXL's 1,400 modules, with the eight tensors of a LoHa with cores and magnitudes, are 11,200."""

FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
"""Numbers that factors may be stored as, and their bytes."""

_PIECE = 1 << 22  # bytes looked at at once

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, as torch.save and pickled checkpoints are"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself"),
    (b"<!DOCTYPE", "a web page: the download asked for a log-in or failed"),
    (b"<html", "a web page: the download asked for a log-in or failed"),
)


@dataclass(frozen=True)
class LoRAFile:
    """A file whose header has been checked."""

    path: Path
    sha256: str
    size: int
    header: SafetensorsHeader
    stamp: tuple[int, int, int]
    """Of the file system: place, size and time of change."""

    def require_unchanged(self) -> None:
        """Raise StorageError where the file was replaced since it was opened: its hash would be another file's."""
        if _stamp(self.path) != self.stamp:
            raise StorageError(f"{self.path}: the file changed while it was read; read it again once it is written")

    def values(self, key: str) -> NDArray[np.float64]:
        """A small tensor, such as alpha, flat and in float64."""
        return _decoded(self._bytes(key), self.header.tensors[key].dtype)

    def not_finite(self) -> list[str]:
        """The tensors that hold a NaN or an infinity."""
        return [key for key, tensor in self.header.tensors.items() if not self._finite(key, tensor)]

    def _finite(self, key: str, tensor: TensorInfo) -> bool:
        width = FLOATS.get(tensor.dtype)
        return width is None or all(_all_finite(piece, tensor.dtype) for piece in self._pieces(key))

    def _pieces(self, key: str) -> Iterator[bytes]:
        first, last = self.header.places[key]
        with self.path.open("rb") as file:
            file.seek(first)
            while first < last:
                piece = file.read(min(_PIECE, last - first))
                if not piece:
                    raise StorageError(
                        f"{self.path}: became shorter while it was read; wait until it is written, then run again"
                    )
                first += len(piece)
                yield piece

    def _bytes(self, key: str) -> bytes:
        return b"".join(self._pieces(key))


def open_lora(path: Path) -> LoRAFile:
    """Check what a file is, and read its header and its hash.

    Raises:
        MissingError: there is no such file.
        RequestError: it is not safetensors (a pickle is never opened), or holds something that no LoRA has.
        StorageError: it is incomplete or damaged.
    """
    if not path.exists():
        raise MissingError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise RequestError(f"{path}: a LoRA is one file, received a folder; name the .safetensors file in it")
    try:
        stamp = _stamp(path)
        with path.open("rb") as file:
            begin = file.read(64)
    except OSError as error:
        raise StorageError(f"{path}: the file can't be read ({error.strerror}); check its permissions") from error
    _refuse_foreign(path, begin)
    header = read_header(path, limit=MAX_HEADER)
    if len(header.tensors) > MAX_TENSORS:
        raise RequestError(
            f"{path}: a LoRA has at most {MAX_TENSORS} tensors, received {len(header.tensors)}; take another file"
        )
    return LoRAFile(path, sha256_file(path), stamp[1], header, stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _refuse_foreign(path: Path, begin: bytes) -> None:
    if not begin:
        raise StorageError(f"{path}: the file is empty (0 bytes); fetch it again")
    what = next((what for mark, what in _FOREIGN if begin.lower().startswith(mark.lower())), None)
    if what is None and _looks_pickled(begin):
        what = "a pickle, which could run code when it is opened"
    if what is not None:
        raise RequestError(
            f"{path}: a LoRA is read from safetensors only, whatever its name; received {what}; it was not opened; "
            "fetch the .safetensors file"
        )


def _looks_pickled(begin: bytes) -> bool:
    """Whether a file begins as a pickle does: protocol 2 to 5 by its mark, the older ones by their first operations."""
    if begin[:1] == b"\x80" and begin[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        # A safetensors header of 0x…80 bytes begins with the same byte; then the ninth opens a JSON object.
        return begin[8:9] != b"{" or struct.unpack("<Q", begin[:8])[0] >= MAX_HEADER
    return begin[:1] in (b"c", b"(", b"}", b"]", b")") and b"\n" in begin and begin[8:9] != b"{"


def _all_finite(piece: bytes, dtype: str) -> bool:
    import numpy as np

    if dtype in ("F16", "F32", "F64"):
        return bool(np.isfinite(np.frombuffer(piece, f"<f{FLOATS[dtype]}")).all())
    if dtype == "BF16":
        return not ((np.frombuffer(piece, "<u2") & 0x7F80) == 0x7F80).any()  # exponent of ones: NaN or infinity
    bits = np.frombuffer(piece, "u1")
    if dtype == "F8_E4M3":
        return not ((bits & 0x7F) == 0x7F).any()  # no infinities, one NaN
    return not ((bits & 0x7C) == 0x7C).any()


def _decoded(content: bytes, dtype: str) -> NDArray[np.float64]:
    import numpy as np

    kinds = {
        "F16": "<f2",
        "F32": "<f4",
        "F64": "<f8",
        "I8": "<i1",
        "U8": "<u1",
        "I16": "<i2",
        "I32": "<i4",
        "I64": "<i8",
    }
    if dtype == "BF16":
        wide = np.frombuffer(content, "<u2").astype("<u4") << 16
        return wide.view("<f4").astype(np.float64)
    if dtype not in kinds:
        raise RequestError(f"a number stored as {dtype} can't be read; save the LoRA in float32, float16 or bfloat16")
    return np.frombuffer(content, kinds[dtype]).astype(np.float64)
