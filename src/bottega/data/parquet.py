"""Reading Hugging Face's picture tables with pyarrow alone: a picture is `struct{bytes, path}`, a label a number.

Label names are in the file's own metadata, under the key `huggingface`. Files are read a few rows at a time: a row
group of WikiArt is half a gigabyte.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bottega.runtime.errors import RequestError

BATCH_ROWS = 16  # pictures held at once: a few MB of WikiArt's


@dataclass(frozen=True)
class Table:
    """One parquet file, its header read."""

    path: Path
    rows: int
    columns: tuple[str, ...]
    names: Mapping[str, Sequence[str]]
    """Label names by column, from the metadata; empty for a file without."""

    def read(self, columns: Sequence[str]) -> Iterator[Mapping[str, object]]:
        """The rows as dictionaries, as a stream."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            # Neither reads a whole row group ahead, which is half a gigabyte of WikiArt.
            with pq.ParquetFile(self.path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns)):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise _damaged(self.path, error) from error


def open_table(path: Path) -> Table:
    """Read a parquet file's header.

    Raises:
        RequestError: the file is damaged or incomplete.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            return Table(path, file.metadata.num_rows, tuple(schema.names), _label_names(schema.metadata or {}))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from error


def picture_bytes(value: Any, folder: Path) -> bytes | Path | None:
    """The picture of a cell: its bytes, or the file that it names, or None for an empty cell."""
    if isinstance(value, bytes):
        return value
    if not isinstance(value, dict):
        return None
    if value.get("bytes") is not None:
        return bytes(value["bytes"])
    return folder / value["path"] if value.get("path") else None


def picture_stem(value: Any) -> str | None:
    """The file stem that a picture's cell remembers, or None."""
    path = value.get("path") if isinstance(value, dict) else None
    return Path(str(path).replace("\\", "/")).stem if path else None


def _damaged(path: Path, error: Exception) -> RequestError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RequestError(f"{path} is no complete parquet file ({first_line}); delete it and fetch it again")


def _label_names(metadata: Mapping[bytes, bytes]) -> dict[str, Sequence[str]]:
    try:
        written = json.loads(metadata.get(b"huggingface", b"{}"))
        features = written.get("info", {}).get("features", {})
    except (ValueError, AttributeError):
        return {}
    names: dict[str, Sequence[str]] = {}
    for column, feature in features.items():
        if isinstance(feature, dict) and feature.get("names"):
            names[column] = tuple(feature["names"])
    return names
