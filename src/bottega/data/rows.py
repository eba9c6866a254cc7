"""Lists that people and tools write beside pictures, read alike whatever their form: rows of named values.

| ending | form |
|---|---|
| `.csv`, `.tsv` | a table whose first row has the names; `,` `;` or tab between values |
| `.parquet`, `.arrow` | a table |
| any other | JSON in one of the forms of `jsonstream.iter_objects` |
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bottega.data import parquet
from bottega.data.jsonstream import iter_objects
from bottega.data.text import open_text, wrong_encoding
from bottega.runtime.errors import RequestError

LIST_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""Endings of lists, those that are looked for first at the front."""

_DELIMITERS = ",;\t"
_PICTURE_COLUMNS = ("image", "conditioning_image")  # bytes: not needed to find a caption


@dataclass(frozen=True)
class ListedRow:
    """One row of a list, and where it stands, such as `metadata.csv, line 3`."""

    place: str
    values: Mapping[str, Any]


def read_rows(path: Path) -> Iterator[ListedRow]:
    """The rows of a list, as a stream.

    Raises:
        MissingError: there is no such file.
        RequestError: it is malformed or in an unknown encoding; the message names the place.
    """
    if path.suffix in (".parquet", ".arrow"):
        yield from _table_rows(path)
        return
    try:
        with open_text(path) as stream:
            if path.suffix in (".csv", ".tsv"):
                yield from _separated_rows(path, stream)
            else:
                for line, values in iter_objects(stream, path):
                    yield ListedRow(f"{path}, line {line}", values)
    except UnicodeDecodeError as error:
        raise wrong_encoding(path) from error


def _table_rows(path: Path) -> Iterator[ListedRow]:
    table = parquet.open_table(path)
    columns = [name for name in table.columns if name not in _PICTURE_COLUMNS]
    for number, values in enumerate(table.read(columns), start=1):
        yield ListedRow(f"{path}, row {number}", values)


def _separated_rows(path: Path, stream: IO[str]) -> Iterator[ListedRow]:
    head = stream.readline()
    delimiter = max(_DELIMITERS, key=head.count)  # of equals the first: "," where there is one column
    stream.seek(0)
    reader = csv.reader(stream, delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        for values in reader:
            if not values:
                continue
            if len(values) != len(names):
                # A caption with a comma and without quotes would lose its end.
                raise RequestError(
                    f"{path}, line {reader.line_num}: {len(values)} values stand under {len(names)} names "
                    f'({", ".join(names)[:60]}); put a text that holds "{delimiter}" in quotes'
                )
            yield ListedRow(f"{path}, line {reader.line_num}", dict(zip(names, values, strict=True)))
    except csv.Error as error:
        raise RequestError(f"{path}, line {reader.line_num} is no row of a table ({error}); mend it") from error


def listed_name(text: str) -> str:
    """A picture's name in a list as the path below its folder: Windows' separators and `./` are taken out."""
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    name = "/".join(parts)
    return f"/{name}" if text.startswith("/") else name
