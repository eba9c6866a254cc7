"""Reading Hugging Face's picture tables with pyarrow alone: a picture is `struct{bytes, path}`, a label a number.

A table is a parquet file, or an Arrow file as `datasets` saves it. Label names are in the file's own metadata, under
the key `huggingface`, or beside it in `dataset_info.json`. Files are read a few rows at a time: a row group of WikiArt
is half a gigabyte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.runtime.errors import RequestError
from bottega.runtime.paths import inside

_LFS_POINTER = b"version https://git-lfs"
BATCH_ROWS = 16  # pictures held at once: a few MB of WikiArt's

MAX_RATIO = 200
"""How many times its file a column may take unpacked: pictures are compressed already, and grow by a hundredth."""

SMALL = 64_000_000
"""Bytes that a column may unpack to from any size: labels and captions that repeat."""

MAX_EMPTY_ROWS = 1_000_000
"""Rows of a file that may have fewer bytes than rows."""


@dataclass(frozen=True)
class Table:
    """One parquet or Arrow file, its header read."""

    path: Path
    rows: int
    columns: tuple[str, ...]
    names: Mapping[str, Sequence[str]]
    """Label names by column, from the metadata; empty for a file without."""

    def read(self, columns: Sequence[str]) -> Iterator[Mapping[str, object]]:
        """The rows as dictionaries, as a stream."""
        import pyarrow as pa

        read = _arrow_batches if self.path.suffix == ".arrow" else _parquet_batches
        try:
            for batch in read(self.path, list(columns)):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error


def open_table(path: Path) -> Table:
    """Read the header of a parquet file, or of an Arrow file (`.arrow`).

    Raises:
        RequestError: the file is damaged or incomplete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".arrow":
            with pa.memory_map(str(path)) as source:
                schema, batches = _open_arrow(source)
                rows = sum(batch.num_rows for batch in batches)
        else:
            with pq.ParquetFile(path) as file:
                schema = file.schema_arrow
                rows = file.metadata.num_rows
                _refuse_bomb(path, file.metadata)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    return Table(path, rows, tuple(schema.names), _label_names(schema.metadata or {}) or _names_beside(path))


def _refuse_bomb(path: Path, metadata: Any) -> None:
    """RequestError where a table says that it unpacks to far more than pictures can: before a page of it is read."""
    size = path.stat().st_size
    largest = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for column in range(row_group.num_columns):
            largest = max(largest, row_group.column(column).total_uncompressed_size)
    cure = "save it again in smaller row groups if you trust it, or name another"
    if largest > max(MAX_RATIO * size, SMALL):
        raise RequestError(
            f"{path} has a column of {largest} bytes unpacked, at most {MAX_RATIO} times the file's own {size} are "
            f"read; {cure}"
        )
    if metadata.num_rows > max(size, MAX_EMPTY_ROWS):
        raise RequestError(f"{path} has {metadata.num_rows} rows in {size} bytes, at most one a byte is read; {cure}")


def _parquet_batches(path: Path, columns: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # Neither reads a whole row group ahead, which is half a gigabyte of WikiArt.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


def _arrow_batches(path: Path, columns: list[str]) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        for batch in _open_arrow(source)[1]:
            chosen = batch.select(columns)
            # `datasets` writes a thousand rows at a time, a gigabyte of WikiArt; slices of the mapped file are free.
            for start in range(0, chosen.num_rows, BATCH_ROWS):
                yield chosen.slice(start, BATCH_ROWS)


def _open_arrow(source: Any) -> tuple[Any, Iterator[Any]]:
    """Schema and batches of an Arrow file, of either of the two formats: a stream, as `datasets` writes, or a file."""
    import pyarrow as pa

    is_file = source.read(6) == b"ARROW1"
    source.seek(0)
    if is_file:
        file = pa.ipc.open_file(source)
        return file.schema, (file.get_batch(number) for number in range(file.num_record_batches))
    stream = pa.ipc.open_stream(source)
    return stream.schema, iter(stream)


def picture_bytes(value: Any, folder: Path) -> bytes | Path | None:
    """The picture of a cell: its bytes, or the file that it names, or None for an empty cell.

    Raises:
        RequestError: the cell names a file outside of the table's folder.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        return None
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    if not value.get("path"):
        return None
    return inside(folder, str(value["path"]), f"{folder}: the path in a picture's cell", own_links=True)


def is_null(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text(value: Any) -> str:
    """A cell's text, "" for an empty one."""
    return "" if is_null(value) else str(value)


def picture_stem(value: Any) -> str | None:
    """The file stem that a picture's cell remembers, or None."""
    path = value.get("path") if isinstance(value, dict) else None
    return Path(str(path).replace("\\", "/")).stem if path else None


def _damaged(path: Path, error: Exception) -> RequestError:
    with path.open("rb") as stream:
        begins = stream.read(len(_LFS_POINTER))
    if begins == _LFS_POINTER:
        return RequestError(f"{path} is a pointer of git-lfs and no table; get the table itself: git lfs pull")
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    if path.suffix == ".arrow":
        return RequestError(f"{path} is no complete Arrow file ({first_line}); save the data set to disk again")
    return RequestError(f"{path} is no complete parquet file ({first_line}); put a whole copy in its place")


def _names_beside(path: Path) -> dict[str, Sequence[str]]:
    """Label names from the `dataset_info.json` that `datasets` writes beside its Arrow files."""
    try:
        written = json.loads((path.parent / "dataset_info.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return _names_in(written)


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    try:
        written = json.loads(metadata.get(b"huggingface", b"{}"))
    except (ValueError, RecursionError):
        return {}
    return _names_in(written.get("info")) if isinstance(written, dict) else {}


def _names_in(info: Any) -> dict[str, Sequence[str]]:
    """Label names by column from `datasets`' description of a data set."""
    features = info.get("features") if isinstance(info, dict) else None
    if not isinstance(features, dict):
        return {}
    names: dict[str, Sequence[str]] = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and isinstance(feature.get("names"), list):
            names[column] = tuple(map(str, feature["names"]))
    return names
